"""Predictions that are distributions, one for every query, and what is good about them.

A learner's ``predict`` gives one of these in place of a tensor; every row of their tensors belongs to one query.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcore.objective import Metric, Objective, mse

_HALF = 0.6744897501960817  # half of a normal distribution lies within so many scales


class Gaussian(NamedTuple):
    """A normal distribution for each entry of a target, independent of each other."""

    mean: Tensor  # [n, outputs]
    scale: Tensor  # [n, outputs], standard deviations

    @classmethod
    def of(cls, raw: Tensor, floor: float = 0.0) -> "Gaussian":
        """From a network's raw outputs [n, 2 · outputs]: means, and numbers that become scales above ``floor``.

        The scale is floor + (1 - floor) · softplus, and never below 1e-4; a floor of 0.1 is that of the code of neural
        processes.

        Raises:
            ValueError: a floor outside of [0, 1).
        """
        if not 0 <= floor < 1:
            raise ValueError(f"floor must be at least 0 and less than 1, not {floor}.")
        mean, width = raw.chunk(2, -1)
        return cls(mean, floor + (1 - floor) * F.softplus(width) + 1e-4 * (floor == 0))

    def log_density(self, y: Tensor) -> Tensor:
        """The logarithm of the density at targets y [n, outputs], in nats: [n]."""
        _check(self.mean, y)
        return _log_normal(y, self.mean, self.scale).sum(-1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """One target for each query: [n, outputs]."""
        return self.mean + self.scale * torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype)

    def quantile(self, p: float) -> Tensor:
        """What a target stays below with probability ``p``: [n, outputs]."""
        return self.mean + self.scale * math.sqrt(2) * torch.erfinv(torch.tensor(2 * p - 1, dtype=self.mean.dtype))


class Bernoulli(NamedTuple):
    """Ink or paper in each pixel of an image, independent of each other."""

    logits: Tensor  # [n, *image], of ink

    @property
    def mean(self) -> Tensor:
        """The probability of ink: [n, *image]."""
        return self.logits.sigmoid()

    def log_density(self, y: Tensor) -> Tensor:
        """The logarithm of the probability of images y [n, *image] of zeros and ones, in nats: [n]."""
        _check(self.logits, y)
        return -F.binary_cross_entropy_with_logits(self.logits, y, reduction="none").flatten(1).sum(1)

    def sample(self, generator: torch.Generator) -> Tensor:
        """One image for each row: [n, *image]."""
        return (torch.rand(self.logits.shape, generator=generator) < self.mean).to(self.logits.dtype)


class Mixture(NamedTuple):
    """A weighted mean of normal distributions, for targets of one number."""

    log_weights: Tensor  # [n, components]
    means: Tensor  # [n, components]
    scales: Tensor  # [n, components]

    @property
    def mean(self) -> Tensor:
        """[n, 1]."""
        return (self.log_weights.exp() * self.means).sum(-1, keepdim=True)

    @property
    def scale(self) -> Tensor:
        """The standard deviation, by the law of total variance: [n, 1]."""
        squares = self.scales.square() + (self.means - self.mean).square()
        return (self.log_weights.exp() * squares).sum(-1, keepdim=True).sqrt()

    def log_density(self, y: Tensor) -> Tensor:
        """The logarithm of the density at targets y [n, 1], in nats: [n]."""
        _check(self.mean, y)
        return (self.log_weights + _log_normal(y, self.means, self.scales)).logsumexp(-1)

    def gaussian(self) -> Gaussian:
        """The normal distribution of the same mean and scale: of all normal ones the one closest to this."""
        return Gaussian(self.mean, self.scale)


class Bars(NamedTuple):
    """A density that is constant between fixed borders, for targets of one number (Müller et al., 2022).

    The first and the last bar are halves of a normal distribution, so that every number has a density. Half of such a
    tail's mass lies within the bar that it stands for. The paper's name is Riemann distribution.

    Derived in: Prior-fitted networks, :eq:`eq-bars`.
    """

    logits: Tensor  # [n, bars], whose softmax is the mass of each bar
    borders: Tensor  # [n, bars + 1], or [bars + 1], increasing

    @classmethod
    def borders_of(cls, y: Tensor, bars: int) -> Tensor:
        """Borders [bars + 1] between which equal shares of the targets in ``y`` lie.

        Raises:
            ValueError: fewer than three bars, or targets of which too many are equal.
        """
        if bars < 3:
            raise ValueError(f"bars must be at least 3, two of which are tails, not {bars}.")
        borders = y.flatten().quantile(torch.linspace(0, 1, bars + 1, dtype=y.dtype, device=y.device))
        if not (borders.diff() > 0).all():
            raise ValueError(f"{y.numel()} targets do not part into {bars} bars; give more of them, or fewer bars.")
        return borders

    @property
    def mean(self) -> Tensor:
        """[n, 1]."""
        return (self._mass * self._moments[0]).sum(-1, keepdim=True)

    @property
    def scale(self) -> Tensor:
        """The standard deviation, by the law of total variance: [n, 1]."""
        means, variances = self._moments
        return (self._mass * (variances + (means - self.mean).square())).sum(-1, keepdim=True).sqrt()

    def log_density(self, y: Tensor) -> Tensor:
        """The logarithm of the density at targets y [n, 1], in nats: [n]."""
        _check(self.logits[..., :1], y)
        inner = (y >= self.borders[..., 1:-1]).sum(-1, keepdim=True)  # in which bar it lies
        low, high = self._tails
        left, right = y - self.borders[..., 1:2], y - self.borders[..., -2:-1]
        below = _log_normal(left, torch.zeros_like(left), low) + math.log(2)
        above = _log_normal(right, torch.zeros_like(right), high) + math.log(2)
        flat = -self.borders.diff().log().expand_as(self.logits).gather(-1, inner)
        last = self.logits.shape[-1] - 1
        height = below.where(inner == 0, above.where(inner == last, flat))
        return (self.logits.log_softmax(-1).gather(-1, inner) + height)[..., 0]

    def quantile(self, p: float) -> Tensor:
        """What a target stays below with probability ``p``: [n, 1]."""
        return self._below(torch.full_like(self.logits[..., :1], p))

    def sample(self, generator: torch.Generator) -> Tensor:
        """One target for each query: [n, 1]."""
        u = torch.rand(self.logits[..., :1].shape, generator=generator, dtype=self.logits.dtype)
        return self._below(u)

    def _below(self, p: Tensor) -> Tensor:
        """Where the distribution function is p [n, 1]."""
        mass, through = self._mass, self._mass.cumsum(-1)
        bar = (p >= through[..., :-1]).sum(-1, keepdim=True)
        share = ((p - (through - mass).gather(-1, bar)) / mass.gather(-1, bar)).clamp(0, 1)
        low, high = self._tails
        start = self.borders[..., :-1].expand_as(mass).gather(-1, bar)
        inner = start + share * self.borders.diff().expand_as(mass).gather(-1, bar)
        below = self.borders[..., 1:2] - low * math.sqrt(2) * torch.erfinv(1 - share)
        above = self.borders[..., -2:-1] + high * math.sqrt(2) * torch.erfinv(share)
        return below.where(bar == 0, above.where(bar == mass.shape[-1] - 1, inner))

    @property
    def _mass(self) -> Tensor:
        return self.logits.softmax(-1)

    @property
    def _tails(self) -> tuple[Tensor, Tensor]:
        """Scales of the first and last bars [..., 1]: half of a half-normal lies within 0.6745 scales."""
        widths = self.borders.diff() / _HALF
        return widths[..., :1], widths[..., -1:]

    @property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance within each bar."""
        low, high = self._tails
        means = (self.borders[..., :-1] + self.borders[..., 1:]) / 2
        far = math.sqrt(2 / math.pi)  # the mean of a half-normal, in scales
        first, last = self.borders[..., 1:2] - far * low, self.borders[..., -2:-1] + far * high
        flat = self.borders.diff().square() / 12
        tails = [(1 - far**2) * scale.square() for scale in (low, high)]
        return (
            torch.cat([first, means[..., 1:-1], last], -1),
            torch.cat([tails[0], flat[..., 1:-1], tails[1]], -1),
        )


def divergence(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p || q) in nats of two vectors of independent normal distributions of one shape: a number."""
    return divergences(p, q).sum()


def divergences(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p || q) in nats of vectors of independent normal distributions, along the last dimension: [...]."""
    ratio = (p.scale / q.scale).square()
    return (ratio - 1 - ratio.log() + ((p.mean - q.mean) / q.scale).square()).sum(-1) / 2


def log_likelihood(outputs: Any, y: Tensor) -> Tensor:
    """The mean log-density of the targets, in nats a target.

    Raises:
        TypeError: outputs that are no distribution.
    """
    if not hasattr(outputs, "log_density"):
        raise TypeError(
            f"a likelihood needs a learner that predicts a distribution, such as CNP, not {type(outputs).__name__}; "
            "judge other learners by mlcore.regression."
        )
    return outputs.log_density(y).mean()


def negative_log_likelihood(outputs: Any, y: Tensor) -> Tensor:
    """Minus :func:`log_likelihood`: a loss."""
    return -log_likelihood(outputs, y)


def error_of_mean(outputs: Any, y: Tensor) -> Tensor:
    """Mean squared error of a distribution's mean."""
    return mse(outputs.mean, y)


def coverage(outputs: Any, y: Tensor) -> Tensor:
    """The share of targets within 1.645 scales of the mean: 90 % for a Gaussian that is right."""
    _check(outputs.mean, y)
    return ((y - outputs.mean).abs() < 1.645 * outputs.scale).to(y.dtype).mean()


density = Objective(
    negative_log_likelihood,
    {
        "nats": Metric(log_likelihood, percent=False),
        "mse": Metric(error_of_mean, higher_is_better=False, percent=False),
        "coverage": Metric(coverage),
    },
)
"""Log-likelihood in nats a target, to raise and to report; the error of the mean and the coverage beside it."""


def likelihood_or_error(outputs: Any, y: Tensor) -> Tensor:
    """Minus the log-likelihood where the learner predicts a distribution, the mean squared error where numbers."""
    return negative_log_likelihood(outputs, y) if hasattr(outputs, "log_density") else mse(outputs, y)


def absolute_error(outputs: Any, y: Tensor) -> Tensor:
    """Mean absolute error of numbers, or of a distribution's mean."""
    said = _centre(outputs)
    _check(said, y)
    return (said - y).abs().mean()


def squared_error(outputs: Any, y: Tensor) -> Tensor:
    """Mean squared error of numbers, or of a distribution's mean."""
    return mse(_centre(outputs), y)


def _centre(outputs: Any) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs.mean


either = Objective(
    likelihood_or_error,
    {
        "mae": Metric(absolute_error, higher_is_better=False, percent=False),
        "mse": Metric(squared_error, higher_is_better=False, percent=False),
    },
)
"""Learners of distributions and of numbers side by side: each lowers its own loss, both are judged by their error."""


def _log_normal(y: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return -((y - mean) / scale).square() / 2 - scale.log() - math.log(2 * math.pi) / 2


def _check(mean: Tensor, y: Tensor) -> None:
    if mean.shape != y.shape:
        raise ValueError(
            f"the learner predicts targets {list(mean.shape)} but the task has {list(y.shape)}; "
            "build it with outputs equal to the size of a target."
        )
