"""Gaussian processes as learners: the exact answer to tasks drawn from them, which no training can beat."""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mlcore.densities import Mixture
from mlcore.kernels import KERNELS, check_range
from mlcore.learner import Learner
from mlcore.task import Examples


class Posterior(NamedTuple):
    """What the support set says of every pair of length and scale, with lengths in the rows."""

    x: Tensor  # [n, 1]
    vectors: Tensor  # [lengths, n, n], the eigenvectors of k(x, x; ℓ)
    values: Tensor  # [lengths, scales, n], the eigenvalues of s² k(x, x; ℓ) + σ²
    projected: Tensor  # [lengths, n], the targets along the eigenvectors
    log_weights: Tensor  # [lengths, scales], the logarithm of p(ℓ, s | support)


class GaussianProcess(Learner):
    """Bayes' rule for a Gaussian process whose length and scale are uniform on ranges, on a grid of both.

    Where both are known it is a Gaussian, the textbook's posterior (Rasmussen and Williams, 2006, equations 2.25 and
    2.26); otherwise a mixture of one Gaussian for each point of the grid, weighed by p(support | ℓ, s). One
    eigendecomposition of a kernel matrix serves all scales. It predicts noisy targets and computes in float64.

    Args:
        kernel: k(distance, length, period), such as :func:`mlcore.kernels.rbf`.
        length, scale: the ranges.
        noise: the standard deviation of the noise.
        period: of a periodic kernel, known.
        points: of the grid along each range; the midpoints of as many equal pieces.

    Derived in: The best any learner could do, :eq:`eq-gp-posterior` and :eq:`eq-gp-bayes`.
    """

    def __init__(
        self,
        kernel: Callable[..., Tensor],
        *,
        length: tuple[float, float],
        scale: tuple[float, float],
        noise: float,
        period: Tensor | None = None,
        points: int = 40,
    ) -> None:
        super().__init__(mapping="loop")
        check_range(length=length, scale=scale)
        if noise <= 0 or points < 1:
            raise ValueError(f"noise={noise} must be positive, and points={points} at least 1.")
        self.kernel, self.noise, self.period = kernel, noise, period
        self.lengths, self.scales = (_midpoints(low, high, points) for low, high in (length, scale))

    @classmethod
    def of(cls, tasks: Any, *, points: int = 40) -> Self:
        """The best learner of :class:`~mlcore.datasets.GaussianProcessTasks`, of a kernel without a period."""
        if tasks.kernel == "periodic":
            raise ValueError("a periodic kernel has a period for every task; name one: GaussianProcess(period=…).")
        return cls(KERNELS[tasks.kernel], length=tasks.length, scale=tasks.scale, noise=tasks.noise, points=points)

    def update(self, state: Any, data: Examples) -> Posterior:
        """Weigh every pair of length and scale by how probable it makes the support set, given whole: [n, 1] each."""
        x, y = data.x.double(), data.y.double()
        values, vectors = torch.linalg.eigh(self.covariance(x, x))
        values = self.scales.square()[:, None] * values[:, None].clamp(min=0) + self.noise**2
        projected = (vectors.mT @ y)[..., 0]
        evidence = -(values.log() + projected[:, None].square() / values).sum(-1) / 2
        return Posterior(x, vectors, values, projected, evidence - evidence.logsumexp((0, 1)))

    def predict(self, state: Posterior, x: Any) -> Mixture:
        """A Gaussian for each pair of length and scale, at every query [n, 1]."""
        squares = self.scales.square()[None, :, None]
        across = self.covariance(x.double(), state.x) @ state.vectors  # [lengths, queries, n]
        mean = squares * torch.einsum("lqn,lsn->lsq", across, state.projected[:, None] / state.values)
        explained = squares.square() * torch.einsum("lqn,lsn->lsq", across.square(), 1 / state.values)
        scale = (squares + self.noise**2 - explained).clamp(min=self.noise**2).sqrt()
        weights = state.log_weights[..., None].expand_as(mean)
        return Mixture(*(part.flatten(0, 1).mT.to(x.dtype) for part in (weights, mean, scale)))

    def covariance(self, a: Tensor, b: Tensor) -> Tensor:
        """k(a, b; ℓ) for every length: [lengths, rows of a, rows of b]."""
        return self.kernel(a - b.mT, self.lengths[:, None, None], self.period)


def _midpoints(low: float, high: float, points: int) -> Tensor:
    """Of equal pieces of a range; of one that is empty, the one point there is."""
    if low == high:
        return torch.tensor([low], dtype=torch.float64)
    return low + (high - low) * (torch.arange(points, dtype=torch.float64) + 0.5) / points
