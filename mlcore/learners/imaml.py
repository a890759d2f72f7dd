"""iMAML: meta-learning with implicit gradients (Rajeswaran, Finn, Kakade and Levine, 2019)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vjp

from mlcore.learners.base import LossFn, Mapping
from mlcore.learners.maml import MAML, Params, detached, inner_step


class IMAML(MAML):
    """Adapt by solving a problem, and differentiate the solution instead of the way to it.

    The inner problem keeps the weights near θ: φ* minimises L(φ) + λ/2 ‖φ - θ‖² over the support set (Rajeswaran et
    al., 2019, equation 3). Whatever solved it, dφ*/dθ = (I + H/λ)⁻¹, H being the Hessian of L at φ* (lemma 1), and
    conjugate gradients apply this inverse with Hessian-vector products alone. Memory does not grow with inner steps.

    Args:
        net: the network f_θ; all its trainable parameters are adapted.
        inner_lr, inner_steps, test_steps: of gradient descent on the inner problem.
        strength: λ.
        cg_steps: conjugate-gradient steps, one Hessian-vector product each.
        loss_fn, mapping: as for :class:`~mlcore.learners.base.Learner`.

    Derived in: Implicit gradients, :eq:`eq-implicit-gradient`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int,
        test_steps: int | None = None,
        strength: float = 2.0,
        cg_steps: int = 5,
        loss_fn: LossFn = F.cross_entropy,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(
            net, inner_lr=inner_lr, inner_steps=inner_steps, test_steps=test_steps, loss_fn=loss_fn, mapping=mapping
        )
        if inner_steps < 1:  # θ itself depends on no task, and vmap would sum the gradients before they are solved for
            raise ValueError(f"inner_steps={inner_steps} must be at least 1.")
        if strength <= 0:
            raise ValueError(f"strength must be positive, not {strength}.")
        if cg_steps < 1:
            raise ValueError(f"cg_steps must be at least 1, not {cg_steps}.")
        self.strength, self.cg_steps = strength, cg_steps

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Params:
        """φ*, approximately, with the implicit derivative with respect to θ."""
        start = self.start()
        adapted = _Solution.apply(self, support_x, support_y, *start.values())
        return dict(zip(start, adapted, strict=True))

    def solve(self, support_x: Tensor, support_y: Tensor, start: Params) -> Params:
        """φ* by gradient descent from θ on L(φ) + λ/2 ‖φ - θ‖²."""

        def inner_problem(params: Params) -> Tensor:
            distance = sum((value - start[name]).square().sum() for name, value in params.items())
            return self._support_loss(params, support_x, support_y) + self.strength / 2 * distance

        params = start
        for _ in range(self.inner_steps if self.training else self.test_steps):
            params = inner_step(inner_problem, params, self.inner_lr)
        return params

    def implicit_gradient(self, support_x: Tensor, support_y: Tensor, solution: Params, gradient: Params) -> Params:
        """(I + H/λ)⁻¹ g by conjugate gradients, for the gradient g of the query loss at φ*."""

        def support_gradient(params: Params) -> Params:
            return grad(self._support_loss)(params, support_x, support_y)

        _, times_hessian = vjp(support_gradient, solution)  # H is symmetric: vᵀH, which backpropagation gives, is Hv

        def matrix_product(vector: Params) -> Params:
            (hessian_product,) = times_hessian(vector)
            return {name: value + hessian_product[name] / self.strength for name, value in vector.items()}

        return conjugate_gradients(matrix_product, gradient, self.cg_steps)

    def _support_loss(self, params: Params, support_x: Tensor, support_y: Tensor) -> Tensor:
        return self.row_loss(functional_call(self.net, params, (support_x,)), support_y)


class _Solution(torch.autograd.Function):
    """θ ↦ φ*, with the implicit gradient as its backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(learner: IMAML, support_x: Tensor, support_y: Tensor, *start: Tensor) -> tuple[Tensor, ...]:
        params = dict(zip(learner.start(), start, strict=True))
        return tuple(learner.solve(support_x, support_y, detached(params)).values())

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.learner, support_x, support_y, *_ = inputs
        ctx.save_for_backward(support_x, support_y, *output)

    @staticmethod
    def backward(ctx, *gradient: Tensor) -> tuple[Tensor | None, ...]:
        support_x, support_y, *solution = ctx.saved_tensors
        names = list(ctx.learner.start())
        result = ctx.learner.implicit_gradient(
            support_x, support_y, dict(zip(names, solution, strict=True)), dict(zip(names, gradient, strict=True))
        )
        return None, None, None, *result.values()


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
    return sum((value * b[name]).sum() for name, value in a.items())
