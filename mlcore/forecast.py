"""How well class means will do in a space, from the scatter of a few labelled examples there.

The chapter *Far from home* derives it, for Gaussian classes of one covariance.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.special import ndtr

from mlcore.learners.metric import MetricLearner, class_means, squared_distances
from mlcore.objective import Metric, Objective
from mlcore.task import Examples

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


class Scatter(NamedTuple):
    """Classes in a space: where they are, and how they spread. Estimates without bias."""

    apart: Tensor  # ‖μ_a - μ_b‖² of each pair of classes [classes, classes]
    along: Tensor  # (μ_a - μ_b)ᵀ W (μ_a - μ_b), the variance within along the line between two classes
    within: Tensor  # tr W
    within_squared: Tensor  # tr W²

    @property
    def fisher(self) -> Tensor:
        """Fisher's ratio tr B / tr W, the variance between classes over the variance within."""
        classes = len(self.apart)
        return self.apart.sum() / (2 * classes * (classes - 1)) / self.within

    @property
    def dimensions(self) -> Tensor:
        """(tr W)² / tr W²: how many directions the spread within has, if all were alike."""
        return self.within**2 / self.within_squared


def scatter(z: Tensor, y: Tensor) -> Scatter:
    """The scatter of embeddings z [n, features] with one-hot rows y [n, classes], equally many of each class.

    W is never formed; what is needed of it follows from inner products, whatever the number of features. Sampling
    makes class means look further apart and tr W² look larger than they are, and is taken off.

    Derived in: Far from home, :eq:`eq-far-score`.
    """
    z = z.double()
    y = y.to(z)
    means = class_means(z, y)
    rest = z - y @ means
    each, free = len(z) / y.shape[1], len(z) - y.shape[1]
    within = rest.square().sum() / free
    smaller = rest @ rest.mT if len(rest) < rest.shape[1] else rest.mT @ rest  # of one Frobenius norm
    raw = smaller.square().sum() / free**2
    squared = free**2 / ((free - 1) * (free + 2)) * (raw - within**2 / free)
    apart = squared_distances(means, means)
    along = squared_distances((means @ rest.mT), (means @ rest.mT)) / free
    others = 1 - torch.eye(y.shape[1], dtype=z.dtype, device=z.device)
    return Scatter(others * (apart - 2 / each * within), others * (along - 2 / each * squared), within, squared)


def signal_to_noise(seen: Scatter, shots: int) -> Tensor:
    """ρ of each pair of classes: mean over deviation of how much nearer a query is to its own class mean.

    Exact for Gaussian classes of one covariance; :func:`expected_accuracy` makes accuracies of it.

    Derived in: Far from home, :eq:`eq-far-ratio`.
    """
    k = 1 / shots
    variance = 4 * (1 + k) * seen.along.clamp(min=0) + 8 * k * (1 + k / 2) * seen.within_squared
    return seen.apart / variance.clamp(min=torch.finfo(variance.dtype).tiny).sqrt()


def expected_accuracy(ratio: Tensor, ways: int) -> Tensor:
    """The accuracy of class means over tasks of ``ways`` of these classes, from ρ [classes, classes]: a number.

    The scores of two rivals share the query and its own mean; their correlation is taken to be one half.

    Derived in: Far from home, :eq:`eq-far-accuracy`.
    """
    nodes = torch.as_tensor(_NODES).to(ratio)
    wins = ndtr(2**0.5 * ratio[..., None] + nodes)  # [classes, classes, nodes]
    others = 1 - torch.eye(len(ratio), dtype=ratio.dtype, device=ratio.device)[..., None]
    over_one = (wins * others).sum(1) / (len(ratio) - 1)
    weights = torch.as_tensor(_WEIGHTS / _WEIGHTS.sum()).to(ratio)
    return (over_one ** (ways - 1) @ weights).mean()


class Forecast(MetricLearner):
    """Foretell the accuracy of class means from a labelled sample of a domain, asking no query.

    Its support set is the sample; its output is a number, for :data:`foretold`.

    Args:
        net: the embedding.
        ways, shots: of the tasks that are foretold.

    Derived in: Far from home, :eq:`eq-far-accuracy`.
    """

    def __init__(self, net: nn.Module, *, ways: int = 5, shots: int = 5) -> None:
        super().__init__(net)
        self.ways, self.shots = ways, shots

    def update(self, state: object, data: Examples) -> Scatter:
        """The scatter of the sample."""
        return scatter(data.x, data.y)

    def predict(self, state: Scatter, x: Tensor) -> Tensor:
        """The accuracy expected: a number, whatever the queries."""
        return expected_accuracy(signal_to_noise(state, self.shots), self.ways)


def _as_it_is(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs


foretold = Objective(_as_it_is, {"expected accuracy": Metric(_as_it_is)})
"""Reports what a :class:`Forecast` says."""
