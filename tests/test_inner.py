"""The inner loop: steps of an optimiser, and the implicit way back, against closed forms."""

from itertools import repeat

import torch
from torch.func import jacrev

from mlcore.inner import SGD, Adam, implicit, unroll

A = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=torch.float64)


def _quadratic(params, target):
    moved = params["w"] - target
    return moved @ A @ moved / 2


def test_unrolled_gradient_descent_on_a_quadratic_is_a_matrix_power():
    target, start = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)
    step = torch.eye(2, dtype=torch.float64) - 0.1 * A

    def end(start, first_order=False):
        return unroll(_quadratic, {"w": start}, SGD(0.1), repeat(target, 5), first_order=first_order)[0]["w"]

    power = torch.linalg.matrix_power(step, 5)
    torch.testing.assert_close(end(start), target + power @ (start - target))
    torch.testing.assert_close(jacrev(end)(start), power)
    torch.testing.assert_close(jacrev(lambda w: end(w, first_order=True))(start), torch.eye(2, dtype=torch.float64))


def test_adam_without_momentum_is_torchs():
    target, start = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)
    ours, memory = unroll(_quadratic, {"w": start}, Adam(0.05), repeat(target, 7))
    weight = start.clone().requires_grad_()
    torchs = torch.optim.Adam([weight], lr=0.05, betas=(0.0, 0.999))
    for _ in range(7):
        torchs.zero_grad()
        _quadratic({"w": weight}, target).backward()
        torchs.step()
    torch.testing.assert_close(ours["w"], weight.detach())
    assert memory.steps == 7


def test_implicit_differentiates_the_solution_whatever_found_it():
    target, start = torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)
    strength, identity = 2.0, torch.eye(2, dtype=torch.float64)

    def solve(start, target):  # of the quadratic plus λ/2 ‖φ - θ‖², in closed form
        return {"w": torch.linalg.solve(A + strength * identity, A @ target + strength * start["w"])}

    weight = start.clone().requires_grad_()
    solution = implicit(solve, _quadratic, {"w": weight}, (target,), strength=strength, cg_steps=2)["w"]
    gradient = torch.tensor([0.7, -0.4], dtype=torch.float64)
    (pulled,) = torch.autograd.grad(solution, weight, gradient)
    torch.testing.assert_close(pulled, torch.linalg.solve(identity + A / strength, gradient))
