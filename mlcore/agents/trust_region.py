"""Trust-region policy optimisation (Schulman, Levine, Abbeel, Jordan and Moritz, 2015)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

Surrogate = Callable[[], tuple[Tensor, Tensor]]
"""The loss to lower, and how far the policy has moved from the one that walked, as functions of the parameters."""


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, *, iterations: int = 10, tolerance: float = 1e-10
) -> Tensor:
    """x with Ax = b, for a positive definite A known by its products.

    Args:
        product: v [n] to Av [n].
        b: the right-hand side [n].
        iterations: at most; with n of them the solution is exact.
        tolerance: stop when the squared residual is below this.
    """
    x, residual = torch.zeros_like(b), b.clone()
    direction, size = residual.clone(), residual @ residual
    for _ in range(iterations):
        if size <= tolerance:
            break
        along = product(direction)
        rate = size / (direction @ along)
        x, residual = x + rate * direction, residual - rate * along
        before, size = size, residual @ residual
        direction = residual + size / before * direction
    return x


def hessian_product(value: Tensor, parameters: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    """v [n] to Hv [n], with H the Hessian of a value with respect to the parameters, by a second backward pass."""
    slope = _flat(torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True))
    if not slope.requires_grad:
        raise ValueError("the value is linear in the parameters: it has no curvature.")

    def product(v: Tensor) -> Tensor:
        return _flat(torch.autograd.grad(slope @ v, parameters, retain_graph=True, materialize_grads=True))

    return product


def trust_region_step(
    parameters: Sequence[Tensor],
    surrogate: Surrogate,
    *,
    curvature: Callable[[], Tensor] | None = None,
    radius: float = 0.01,
    damping: float = 1e-5,
    iterations: int = 10,
    shrink: float = 0.8,
    tries: int = 15,
) -> Tensor:
    """How to move the parameters, one vector: the natural gradient, as long as the trust region allows.

    The longest step along F⁻¹g within a divergence of ``radius`` is √(2δ / gᵀF⁻¹g) F⁻¹g (Schulman et al., 2015,
    appendix C), with F the Hessian of the divergence. It is shortened until the loss has fallen and the divergence
    itself is within the radius; zero if it never is. The parameters are left as they were.

    Args:
        parameters: of the policy.
        surrogate: computes (loss, divergence) from them.
        curvature: computes the divergence whose Hessian is F, where a cheaper one will do; by default that of
            ``surrogate``. What is checked in the end is the divergence itself.
        radius: δ.
        damping: added to the diagonal of F.
        iterations: of conjugate gradients.
        shrink, tries: each try is this much shorter, and there are so many.

    Derived in: Gradient steps in the world, :eq:`eq-world-trust`.
    """
    if radius <= 0:
        raise ValueError(f"radius={radius} must be positive: it is how far the policy may move.")
    loss, divergence = surrogate()
    slope = _flat(torch.autograd.grad(loss, parameters, materialize_grads=True, retain_graph=curvature is None))
    fisher = hessian_product(divergence if curvature is None else curvature(), parameters)
    natural = conjugate_gradient(lambda v: fisher(v) + damping * v, slope, iterations=iterations)
    steep = slope @ natural
    if not steep > 0:  # flat, or not a number
        return torch.zeros_like(slope)
    step = -(2 * radius / steep).sqrt() * natural
    start = parameters_to_vector(parameters).detach().clone()
    try:
        for _ in range(tries):
            vector_to_parameters(start + step, parameters)
            with torch.no_grad():
                now, moved = surrogate()
            if now < loss and moved <= radius:
                return step
            step = shrink * step
    finally:
        vector_to_parameters(start, parameters)
    return torch.zeros_like(slope)


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
