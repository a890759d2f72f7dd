"""Ink counted in each pixel: Bayes' rule, exact, for drawings whose pixels know nothing of each other."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from mlcore.densities import Bernoulli
from mlcore.generative import Sampler
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.task import Examples


class PixelCounts(Sampler, Learner):
    """Each pixel is a coin of its own with a Beta prior; a support set adds its counts of ink and paper.

    The posterior is exact, and so is the prediction: ink with probability (a + ink) / (a + b + drawings). What is
    meta-learned is the prior, two numbers a pixel.

    Args:
        image: shape of a drawing.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-counts`.
    """

    def __init__(self, image: tuple[int, ...] = (1, 28, 28), *, mapping: Mapping = "vmap") -> None:
        super().__init__(mapping=mapping)
        self.log_counts = nn.Parameter(torch.zeros(2, *image))

    def begin(self) -> Tensor:
        """a and b of every pixel: [2, *image]."""
        return self.log_counts.exp()

    def update(self, state: Tensor, data: Examples) -> Tensor:
        """Count ink and paper."""
        return state + torch.stack([data.x.sum(0), (1 - data.x).sum(0)])

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """The logarithm of the probability of each drawing x [n, *image], in nats: [n]."""
        return self._next(state, len(x)).log_density(x)

    def imagine(self, state: Tensor, n: int, generator: Generator) -> Bernoulli:
        """``n`` times the mean drawing."""
        return self._next(state, n)

    def _next(self, state: Tensor, n: int) -> Bernoulli:
        ink, paper = state.log()
        return Bernoulli((ink - paper).expand(n, *ink.shape))
