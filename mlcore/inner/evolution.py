"""Gradients without derivatives: evolution strategies with antithetic pairs."""

from collections.abc import Callable

import torch
from torch import Tensor

from mlcore.inner.steps import Params


def evolution_gradient(
    loss_fn: Callable[[Params], Tensor],
    params: Params,
    *,
    spread: float,
    pairs: int,
    generator: torch.Generator,
) -> Params:
    """An unbiased estimate of the gradient of E[L(θ + σε)], ε from N(0, I), by name and of each parameter's shape.

    Each pair is (L(θ + σε) - L(θ - σε)) ε / 2σ; the estimate is their mean. L may be anything that can be computed: it
    is never differentiated.

    Args:
        loss_fn: L, of the parameters, one number.
        params: θ, by name.
        spread: σ. The larger, the smoother the loss that is descended, and the further from L.
        pairs: how many; two evaluations each.
        generator: draws ε, on the CPU.

    Derived in: Learning the optimiser, :eq:`eq-evolution`.
    """
    if spread <= 0 or pairs < 1:
        raise ValueError(f"spread={spread} must be positive, and pairs={pairs} at least 1.")
    total = {name: torch.zeros_like(value) for name, value in params.items()}
    with torch.no_grad():
        for _ in range(pairs):
            noise = {name: torch.randn(value.shape, generator=generator).to(value) for name, value in params.items()}
            up, down = (
                loss_fn({name: value + sign * spread * noise[name] for name, value in params.items()})
                for sign in (1, -1)
            )
            slope = (up - down) / (2 * spread * pairs)
            total = {name: value + slope * noise[name] for name, value in total.items()}
    return total
