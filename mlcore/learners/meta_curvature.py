"""Meta-Curvature (Park and Oliva, 2019)."""

from typing import Any

import torch
from torch import Tensor, nn

from mlcore.inner import SGD, Params
from mlcore.inner.steps import support_gradient
from mlcore.learners.maml import MAML
from mlcore.task import Examples


class MetaCurvature(MAML):
    """MAML whose gradients pass through learned matrices: θ' = θ - α M ∇L(θ), M a Kronecker product for each tensor.

    The gradient of a convolution [outputs, inputs, height, width] is taken as [outputs, inputs, height · width] and
    multiplied along each of the three by a square matrix of its own; that of a linear layer along both of its
    dimensions, that of a bias along one (Park and Oliva, 2019). They start at the identity, as MAML, and are
    learned with θ. With diagonal matrices, M is a rate for each number: Meta-SGD with rates that are outer products.

    Args:
        net, inner_lr, inner_steps, test_steps, first_order, loss_fn, mapping, bfloat16: as for
            :class:`~mlcore.learners.maml.MAML`.

    Derived in: Writing weights from the support set, :eq:`eq-write-curvature`.
    """

    def __init__(self, net: nn.Module, **settings: Any) -> None:
        super().__init__(net, **settings)
        self.factors = nn.ParameterList(
            nn.ParameterList(torch.eye(size, dtype=value.dtype) for size in _sides(value))
            for value in self.start().values()
        )

    def curved(self, gradient: Params) -> Params:
        """M ∇L, by name and of each parameter's shape."""
        pairs = zip(gradient.items(), self.factors, strict=True)
        return {name: _times(g, factors) for (name, g), factors in pairs}

    def update(self, state: Params, data: Examples) -> Params:
        """One step along the curved gradient of the support loss."""
        gradient, *_ = support_gradient(lambda p: self.support_loss(p, data), state, constant=self.first_order)
        return SGD(self.rates()).step(state, self.curved(gradient), ())[0]


def _sides(value: Tensor) -> tuple[int, ...]:
    """Outputs, inputs and all the rest, as far as there are any."""
    return tuple(value.flatten(2).shape if value.dim() > 2 else value.shape)


def _times(g: Tensor, factors: Any) -> Tensor:
    turned = g.flatten(2) if g.dim() > 2 else g
    for side, factor in enumerate(factors):
        turned = (turned.movedim(side, -1) @ factor.mT).movedim(-1, side)
    return turned.reshape(g.shape)
