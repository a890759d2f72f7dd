"""A new drawing is an old one, moved a little: the kernel density estimate of Parzen (1962), for drawings."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from mlcore.densities import Bernoulli
from mlcore.generative import Sampler
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.task import Examples


class MovedCopies(Sampler, Learner):
    """A mixture with one component for every support drawing and every small move of it.

    A component says ink with the probability that a filter of 5×5 pixels gives to the moved drawing. The filter and the
    weights of the moves are meta-learned; without a support set the filter sees an empty sheet. The density is exact.

    Args:
        most: how far a copy moves, in pixels, along each axis.
        size: of a drawing, in pixels a side.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-copies`.
    """

    def __init__(self, most: int = 2, *, size: int = 28, mapping: Mapping = "auto") -> None:
        super().__init__(mapping=mapping)
        if most < 0:
            raise ValueError(f"most={most} pixels is no distance; use 0 for copies that stay where they are.")
        self.most, self.size = most, size
        self.filter = nn.Conv2d(1, 1, 5, padding=2)
        self.moves = nn.Parameter(torch.zeros((2 * most + 1) ** 2))

    def begin(self) -> Tensor:
        """No drawing."""
        return self.moves.new_zeros(0, 1, self.size, self.size)

    def update(self, state: Tensor, data: Examples) -> Tensor:
        """Keep the drawings [n, 1, size, size]."""
        return torch.cat([state, data.x])

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """The logarithm of the probability of each drawing x [n, 1, size, size], in nats: [n]."""
        copies, log_weights = self._components(state)
        # The log-probability of ink and paper is linear in x: one matrix product for all pairs.
        base = -F.softplus(copies).flatten(1).sum(1)
        return (x.flatten(1) @ copies.flatten(1).mT + base + log_weights).logsumexp(1)

    def imagine(self, state: Tensor, n: int, generator: Generator) -> Bernoulli:
        """``n`` moved copies, each of a support drawing at random."""
        copies, log_weights = self._components(state)
        return Bernoulli(copies[torch.multinomial(log_weights.exp(), n, replacement=True, generator=generator)])

    def _components(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of ink [drawings · moves, 1, size, size] and log-weights [drawings · moves]."""
        drawings = state if len(state) else self.moves.new_zeros(1, 1, self.size, self.size)
        places = range(2 * self.most + 1)
        padded = F.pad(drawings, [self.most] * 4)
        moved = torch.stack(
            [padded[..., i : i + self.size, j : j + self.size] for i in places for j in places], 1
        ).flatten(0, 1)
        log_weights = self.moves.log_softmax(0).repeat(len(drawings)) - math.log(len(drawings))
        return self.filter(moved), log_weights
