"""Optimisers that are learned: step sizes in closed form, momentum, the LSTM's meta-gradient, evolution strategies."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad

from mlcore import Examples, LearnedOptimizer, MAMLPlusPlus, Task, evaluate, meta_train, mlp, regression, seeded
from mlcore.datasets import QuadraticTasks, quadratics
from mlcore.datasets.quadratics import iterate, squared_norm
from mlcore.inner import evolution_gradient
from mlcore.learners.learned_optimizer import log_and_sign
from mlcore.objective import mse

SPECTRUM = torch.linspace(0.05, 1, 400, dtype=torch.float64)


def _half(outputs: Tensor, y: Tensor) -> Tensor:
    return mse(outputs, y) / 2


def _along_eigenvectors() -> Task:
    """A problem λ(θ - 1)²/2 for each eigenvalue; the query asks for the distance from its solution."""
    root, one = SPECTRUM.sqrt().view(-1, 1, 1), torch.ones(len(SPECTRUM), 1, 1, dtype=torch.float64)
    return Task(Examples(root, root), Examples(one, one))


def test_learned_step_sizes_are_reciprocal_roots_of_an_orthogonal_polynomial():
    learner = MAMLPlusPlus(iterate(1), inner_lr=1.0, inner_steps=4, per_step_norms=False, loss_fn=_half).double()
    task = _along_eigenvectors()
    with torch.no_grad():
        learner.alpha += torch.tensor([[0.0], [0.3], [1.0], [3.0]])  # equal steps stay equal
    descent = torch.optim.LBFGS(
        [learner.alpha], max_iter=60, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        descent.zero_grad()
        loss = learner.meta_loss(task, regression)
        loss.backward()
        return loss

    descent.step(closure)
    # Lanczos from √λ: the eigenvalues of its matrix are the roots of the polynomial that is orthogonal under λ.
    basis = [SPECTRUM.sqrt() / SPECTRUM.sqrt().norm()]
    for _ in range(3):
        vector = SPECTRUM * basis[-1]
        for other in basis:
            vector = vector - (vector @ other) * other
        basis.append(vector / vector.norm())
    v = torch.stack(basis, 1)
    roots = torch.linalg.eigvalsh(v.T @ (SPECTRUM[:, None] * v))
    torch.testing.assert_close(
        learner.alpha.detach().flatten().sort(descending=True).values, 1 / roots, rtol=1e-6, atol=0
    )
    residual = (1 - SPECTRUM[:, None] / roots).prod(1)
    assert abs(residual.square().mean() - 0.012441) < 5e-7
    torch.testing.assert_close(learner.meta_loss(task, regression), residual.square().mean(), rtol=1e-8, atol=0)


class _Momentum(LearnedOptimizer):
    """Heavy ball: a recurrent network that is linear, with one number of memory a coordinate."""

    def move(self, gradient: Tensor, memory: tuple) -> tuple[Tensor, tuple]:
        ((ball, cell),) = memory
        ball = 0.9 * ball + gradient[:, None]
        return -ball[:, 0], ((ball, cell),)


def test_momentum_is_a_linear_recurrence():
    net = mlp(3, 4, 2).double()
    learner = _Momentum(net, inner_lr=0.05, inner_steps=20, hidden=(1,), loss_fn=mse).double()
    x, y = (torch.randn(6, size, dtype=torch.float64, generator=seeded(size)) for size in (3, 2))
    path = learner.adapt(Examples(x, y)).path
    theirs = torch.optim.SGD(learner.net.parameters(), lr=0.05, momentum=0.9)
    for params in path:
        torch.testing.assert_close(
            params, {n: p.detach() for n, p in learner.net.named_parameters()}, rtol=1e-12, atol=0
        )
        theirs.zero_grad()
        mse(learner.net(x), y).backward()
        theirs.step()


def _small(unroll: int | None = None) -> tuple[LearnedOptimizer, Task]:
    torch.manual_seed(0)
    net = mlp(2, 3, 1, activation=torch.nn.Tanh)
    learner = LearnedOptimizer(net, inner_lr=0.3, inner_steps=5, unroll=unroll, hidden=(3, 2), loss_fn=mse).double()
    support, query = (
        Examples(torch.randn(1, 4, 2, dtype=torch.float64, generator=seeded(i)), torch.ones(1, 4, 1).double())
        for i in range(2)
    )
    return learner, Task(support, query)


@pytest.mark.parametrize("unroll", [None, 1, 2, 5])
def test_the_meta_gradient_by_finite_differences(unroll):
    """Gradients that the LSTM reads are constants, and so is where a stretch of the path begins."""
    learner, task = _small(unroll)
    support, query = (Examples(half.x[0], half.y[0]) for half in task)
    learner.meta_backward(task, regression)
    found = torch.cat([p.grad.flatten() for p in (*learner.layers.parameters(), *learner.out.parameters())])
    assert all(p.grad is None for p in learner.net.parameters())  # the start is not learned

    state, states = learner.begin(), []
    for _ in range(5):
        states.append(state)
        state = learner.update(state, support)
    gradients = [
        grad(lambda p: mse(functional_call(learner.net, p, (support.x,)), support.y))(s.params) for s in states
    ]

    def replayed(weights: Tensor) -> Tensor:
        other, _ = _small()
        torch.nn.utils.vector_to_parameters(weights, (*other.layers.parameters(), *other.out.parameters()))
        losses = [mse(functional_call(other.net, states[0].params, (query.x,)), query.y)]
        for t, gradient in enumerate(gradients):
            if t % (unroll or 5) == 0:
                params, memory = states[t].params, states[t].memory
            move, memory = other.move(torch.cat([g.flatten() for g in gradient.values()]), memory)
            parts = move.split([p.numel() for p in params.values()])
            params = {n: p + 0.3 * d.view_as(p) for (n, p), d in zip(params.items(), parts, strict=True)}
            losses.append(mse(functional_call(other.net, params, (query.x,)), query.y))
        return torch.stack(losses).mean()

    weights = torch.nn.utils.parameters_to_vector((*learner.layers.parameters(), *learner.out.parameters())).detach()
    with torch.no_grad():
        for direction in torch.randn(3, len(weights), dtype=torch.float64, generator=seeded(9)):
            slope = (replayed(weights + 1e-5 * direction) - replayed(weights - 1e-5 * direction)) / 2e-5
            torch.testing.assert_close(found @ direction, slope, rtol=1e-6, atol=1e-9)


def test_truncation_changes_the_gradient_and_not_the_path():
    (whole, task), (cut, _), (never, _) = _small(), _small(2), _small(5)
    for learner in (whole, cut, never):
        learner.meta_backward(task, regression)
    assert torch.equal(whole(task), cut(task))
    assert torch.equal(whole.out.weight.grad, never.out.weight.grad)
    assert not torch.allclose(whole.out.weight.grad, cut.out.weight.grad)


def test_sizes_and_signs():
    g = torch.tensor([np.e**2, -1.0, np.e**-4, 0.0, -(np.e**-6)])
    expected = torch.tensor([[0.4, 1], [0, -1], [-0.8, 1], [-1, 0], [-1, -(np.e**-1)]])
    torch.testing.assert_close(log_and_sign(g), expected.float())


def test_it_learns_to_descend():
    torch.manual_seed(0)
    tasks = quadratics(4)
    learner = LearnedOptimizer(iterate(4), inner_lr=0.1, inner_steps=10, hidden=(8,), loss_fn=squared_norm)
    before = evaluate(learner, tasks, episodes=100, progress=False)
    meta_train(learner, tasks, iterations=60, meta_batch=16, outer_lr=1e-2, progress=False)
    after = evaluate(learner, tasks, episodes=100, progress=False)
    gain = before.per_task - after.per_task
    assert gain.mean() > 4 * gain.std() / 10
    assert not learner.net.weight.any()


def test_a_quadratic_problem_is_a_task():
    task = QuadraticTasks(3).sample(50, seeded(0))
    assert task.support.x.shape == (50, 3, 3) and task.query.y.shape == (50, 3, 1)
    assert torch.equal(task.support.x, task.query.x)
    for part in task.support:
        assert part.min() >= 0 and part.max() <= 1 and abs(part.mean() - 0.5) < 4 * (1 / 12 / part.numel()) ** 0.5
    w, y = (part[0] for part in task.query)
    theta = torch.tensor([[1.0], [2.0], [-1.0]])
    net = iterate(3)
    with torch.no_grad():
        net.weight.copy_(theta.T)
    torch.testing.assert_close(squared_norm(net(w), y), (w @ theta - y).norm() ** 2)
    with pytest.raises(ValueError, match="dims must be at least 1, not 0"):
        quadratics().replace(dims=0)
    with pytest.raises(ValueError, match="unroll=0 must be at least 1"):
        LearnedOptimizer(net, inner_lr=0.1, unroll=0)


def test_evolution_estimates_the_gradient_of_a_quadratic_without_bias():
    """There a pair gives ε εᵀ∇L: of mean ∇L, and of variances that sum to (d + 1) |∇L|²."""
    generator = seeded(3)
    h = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    h, theta = h @ h.T, torch.randn(4, dtype=torch.float64, generator=generator)

    def loss(params: dict[str, Tensor]) -> Tensor:
        return params["a"] @ h @ params["a"] / 2 + 3 * params["b"].sum()

    params = {"a": theta, "b": torch.zeros(1, 2, dtype=torch.float64)}
    exact = torch.cat([h @ theta, torch.tensor([3.0, 3.0])])
    drawn = [evolution_gradient(loss, params, spread=0.7, pairs=1, generator=generator) for _ in range(4_000)]
    singles = torch.stack([torch.cat([part.flatten() for part in one.values()]) for one in drawn])
    error = (singles.mean(0) - exact) / (singles.std(0) / len(singles) ** 0.5)
    assert error.abs().max() < 4
    assert abs(singles.var(0).sum() / (7 * exact @ exact) - 1) < 0.15
    mean = evolution_gradient(loss, params, spread=0.7, pairs=50, generator=seeded(1))
    first = [evolution_gradient(loss, params, spread=0.7, pairs=1, generator=g) for g in [seeded(1)] for _ in range(50)]
    torch.testing.assert_close(mean["b"], torch.stack([one["b"] for one in first]).mean(0))
    with pytest.raises(ValueError, match=r"spread=0 must be positive, and pairs=1 at least 1"):
        evolution_gradient(loss, params, spread=0, pairs=1, generator=generator)
