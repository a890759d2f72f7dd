"""Conditional neural processes (Garnelo, Rosenbaum, Maddison, Ramalho, Saxton, Shanahan et al., 2018)."""

from typing import Any

import torch
from torch import Tensor

from mlcore.densities import Gaussian
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets import mlp
from mlcore.task import Examples


class SummedPoints(Learner):
    """What conditional and latent neural processes share: every point encoded, the encodings summed and counted.

    Such a state does not ask for an order, and a support set may come in portions.
    """

    def __init__(self, inputs: int, outputs: int, width: int, floor: float, mapping: Mapping) -> None:
        super().__init__(mapping=mapping)
        self.encoder = mlp(inputs + outputs, width, width, width, width)
        self.width, self.floor = width, floor

    def begin(self) -> tuple[Tensor, Tensor]:
        """Nothing seen: a sum of no representations."""
        like = next(self.parameters())
        return like.new_zeros(self.width), like.new_zeros(())

    def update(self, state: tuple[Tensor, Tensor], data: Examples) -> tuple[Tensor, Tensor]:
        """Add the representations of more points, and their number."""
        encoded = self.encoder(torch.cat([data.x, data.y], -1))
        return state[0] + encoded.sum(0), state[1] + len(encoded)


class CNP(SummedPoints):
    """Encode every support point, average, and decode the average at a query: p(y | x) = N(μ(x, r), σ(x, r)²).

    r is a perceptron of the mean of h(x_i, y_i) over the support points (Garnelo et al., 2018, equations 1 to 3, where
    r is the mean itself; the perceptron is that of the code of Lee et al., 2020).

    Args:
        inputs, outputs: sizes of an input and of a target.
        width: of the hidden layers, and of r.
        floor: the least scale; 0.1 in the code of this literature.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: Predicting functions, :eq:`eq-cnp`.
    """

    def __init__(
        self, inputs: int = 1, outputs: int = 1, *, width: int = 128, floor: float = 0.1, mapping: Mapping = "vmap"
    ) -> None:
        super().__init__(inputs, outputs, width, floor, mapping)
        self.pooled = mlp(width, width, width)
        self.decoder = mlp(inputs + width, width, width, 2 * outputs)

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Gaussian:
        """A normal distribution at every query [n, inputs]."""
        representation = self.pooled(state[0] / state[1].clamp(min=1))
        raw = self.decoder(torch.cat([x, representation.expand(len(x), -1)], -1))
        return Gaussian.of(raw, self.floor)
