"""The inner loop as a solver: an optimiser's steps on a loss, one after another."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlcore.inner.steps import Params, Rates, support_gradient


class SGD(NamedTuple):
    """Gradient descent, θ' = θ - α (∇L(θ) + d θ); it remembers nothing.

    ``lr`` is α, or by name a rate for each tensor; ``weight_decay`` is d.
    """

    lr: Rates
    weight_decay: float = 0.0

    def begin(self, params: Params) -> tuple:
        """Nothing."""
        return ()

    def step(self, params: Params, gradient: Params, memory: tuple) -> tuple[Params, tuple]:
        """The next parameters."""
        rates = self.lr if isinstance(self.lr, Mapping) else dict.fromkeys(params, self.lr)
        if self.weight_decay:
            gradient = {name: g + self.weight_decay * params[name] for name, g in gradient.items()}
        return {name: value - rates[name] * gradient[name] for name, value in params.items()}, memory


class AdamMemory(NamedTuple):
    """What Adam without momentum remembers: steps taken so far, and the mean square of each gradient."""

    steps: Tensor
    second_moment: Params


class Adam(NamedTuple):
    """Adam with β₁ = 0, as in Reptile's code (Kingma and Ba, 2015; Nichol et al., 2018)."""

    lr: float
    beta2: float = 0.999
    eps: float = 1e-8

    def begin(self, params: Params) -> AdamMemory:
        """No steps, and second moments of zero."""
        zeros = {name: torch.zeros_like(value) for name, value in params.items()}
        return AdamMemory(next(iter(zeros.values())).new_zeros(()), zeros)

    def step(self, params: Params, gradient: Params, memory: AdamMemory) -> tuple[Params, AdamMemory]:
        """The next parameters, and what to remember."""
        steps = memory.steps + 1
        unbiased = -torch.expm1(steps * math.log(self.beta2))  # 1 - β₂ᵗ without cancellation
        moments = {
            name: self.beta2 * memory.second_moment[name] + (1 - self.beta2) * g.square()
            for name, g in gradient.items()
        }
        moved = {
            name: value - self.lr * gradient[name] / ((moments[name] / unbiased).sqrt() + self.eps)
            for name, value in params.items()
        }
        return moved, AdamMemory(steps, moments)


Optimiser = SGD | Adam


def unroll(
    loss_fn: Callable[[Params, Any], Tensor],
    params: Params,
    optimiser: Optimiser,
    stream: Iterable[Any],
    *,
    memory: Any = None,
    first_order: bool = False,
) -> tuple[Params, Any]:
    """An optimiser's steps from ``params``, one for each portion of data: the last parameters, and its memory.

    Args:
        loss_fn: the loss of the parameters on a portion of data, one number.
        params: θ, by name.
        optimiser: :class:`SGD` or :class:`Adam`.
        stream: portions of data, such as ``repeat(support, 5)`` for five steps on all of it.
        memory: where the optimiser goes on; it begins afresh by default.
        first_order: gradients count as constants; otherwise all is differentiable with respect to θ.

    Derived in: MAML from first principles, :eq:`eq-inner-step`.
    """
    memory = optimiser.begin(params) if memory is None else memory
    for data in stream:
        gradient, *_ = support_gradient(lambda p, data=data: loss_fn(p, data), params, constant=first_order)
        params, memory = optimiser.step(params, gradient, memory)
    return params, memory
