"""The implicit way back through an inner problem: differentiate the solution instead of the way to it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, vjp

from mlcore.inner.steps import Params, detached


def implicit(
    solve: Callable[..., Params],
    support_loss: Callable[..., Tensor],
    start: Params,
    data: tuple[Tensor, ...],
    *,
    strength: float,
    cg_steps: int,
) -> Params:
    """φ* = solve(θ, *data), with dφ*/dθ = (I + H/λ)⁻¹ as its derivative (Rajeswaran et al., 2019, lemma 1).

    φ* minimises L(φ) + λ/2 ‖φ - θ‖², and H is the Hessian of L at φ*, however φ* was found.

    Args:
        solve: the solver, of θ and the data; nothing is differentiated through it.
        support_loss: L, of φ and the data.
        start: θ, by name.
        data: tensors of one support set.
        strength: λ.
        cg_steps: conjugate-gradient steps, one Hessian-vector product each.

    Derived in: Implicit gradients, :eq:`eq-implicit-gradient`.
    """
    names = list(start)

    def pulled_back(solution: list[Tensor], gradient: tuple[Tensor, ...], data: list[Tensor]) -> Params:
        at, g = dict(zip(names, solution, strict=True)), dict(zip(names, gradient, strict=True))
        return implicit_gradient(lambda params: support_loss(params, *data), at, g, strength=strength, steps=cg_steps)

    def solution_of(params: tuple[Tensor, ...], data: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(solve(detached(dict(zip(names, params, strict=True))), *data).values())

    solution = _Solution.apply(solution_of, pulled_back, len(data), *data, *start.values())
    return dict(zip(names, solution, strict=True))


def implicit_gradient(
    support_loss: Callable[[Params], Tensor], solution: Params, gradient: Params, *, strength: float, steps: int
) -> Params:
    """(I + H/λ)⁻¹ g by conjugate gradients, for the gradient g of the query loss at φ*."""
    times_hessian = vjp(grad(support_loss), solution)[1]  # H is symmetric: vᵀH, which backpropagation gives, is Hv

    def matrix_product(vector: Params) -> Params:
        (hessian_product,) = times_hessian(vector)
        return {name: value + hessian_product[name] / strength for name, value in vector.items()}

    return conjugate_gradients(matrix_product, gradient, steps)


class _Solution(torch.autograd.Function):
    """θ ↦ φ*, with the implicit gradient as its backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(solve, pull_back, n_data: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return solve(tensors[n_data:], tensors[:n_data])

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        _, ctx.pull_back, ctx.n_data, *tensors = inputs
        ctx.save_for_backward(*tensors[: ctx.n_data], *output)

    @staticmethod
    def backward(ctx, *gradient: Tensor) -> tuple[Tensor | None, ...]:
        data, solution = ctx.saved_tensors[: ctx.n_data], ctx.saved_tensors[ctx.n_data :]
        result = ctx.pull_back(solution, gradient, data)
        return None, None, None, *[None] * ctx.n_data, *result.values()


def conjugate_gradients(matrix_product: Callable[[Params], Params], right: Params, steps: int) -> Params:
    """x with A x ≈ b after ``steps`` steps of the method of conjugate gradients (Hestenes and Stiefel, 1952).

    A Hessian may have negative eigenvalues. Where a direction meets them, the method stops and keeps what it has, or b
    itself in the first step, as in Steihaug (1983).

    Args:
        matrix_product: v ↦ A v, for a symmetric A.
        right: b.
        steps: at most; without rounding, as many as a positive definite A has distinct eigenvalues give x exactly.

    Derived in: Implicit gradients, :eq:`eq-cg`.
    """
    solution = {name: torch.zeros_like(value) for name, value in right.items()}
    residual = direction = right
    square = _dot(residual, residual)
    going = torch.ones_like(square, dtype=torch.bool)  # a number, not a branch: tasks are mapped together
    for step in range(steps):
        product = matrix_product(direction)
        curvature = _dot(direction, product)
        going = going & (curvature > 0)  # also stops where nothing is left to correct
        length = torch.where(going, square / curvature, 0.0)
        solution = {name: value + length * direction[name] for name, value in solution.items()}
        if step == 0:
            solution = {name: torch.where(going, value, right[name]) for name, value in solution.items()}
        residual = {name: value - length * product[name] for name, value in residual.items()}
        before, square = square, _dot(residual, residual)
        conjugacy = torch.where(before > 0, square / before, 0.0)
        direction = {name: value + conjugacy * direction[name] for name, value in residual.items()}
    return solution


def _dot(a: Params, b: Params) -> Tensor:
    return torch.stack([(value * b[name]).sum() for name, value in a.items()]).sum()
