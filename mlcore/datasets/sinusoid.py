"""Sinusoids: the regression tasks of Finn et al. (2017, section 5.1), and of Harrison et al. (2018), with noise."""

import math

import torch
from torch import Tensor

from mlcore.densities import density
from mlcore.objective import Objective
from mlcore.tasks import RegressionTasks
from mlcore.tasks.sizes import Size, check_positive


def sinusoid(*, shots: int = 10, queries: int = 10) -> RegressionTasks:
    """Tasks y = A sin(x - φ) with A uniform on [0.1, 5], φ uniform on [0, π] and x uniform on [-5, 5].

    Derived in: Learning to learn, :eq:`eq-sinusoid`.
    """
    return RegressionTasks(_draw_sinusoids, low=-5.0, high=5.0, shots=shots, queries=queries)


def _draw_sinusoids(x: Tensor, generator: torch.Generator) -> Tensor:
    amplitude = 0.1 + 4.9 * torch.rand(len(x), 1, 1, generator=generator)
    phase = math.pi * torch.rand(len(x), 1, 1, generator=generator)
    return amplitude * torch.sin(x - phase)


class NoisySinusoids(RegressionTasks):
    """The same waves, seen with noise and judged by the likelihood of noisy targets (Harrison et al., 2018).

    Args:
        variance: of the noise.
        shots: support points, or a range, of which every batch draws one; 0 asks for what is known before any data.
        queries: query points.

    Derived in: Knowing what it does not know, :eq:`eq-noisy-waves`.
    """

    objective: Objective = density

    def __init__(self, *, variance: float = 0.02, shots: Size = (0, 10), queries: Size = 20) -> None:
        if variance <= 0:
            raise ValueError(f"variance={variance} must be positive; without noise use sinusoid().")
        self.variance = variance
        super().__init__(_draw_sinusoids, low=-5.0, high=5.0, shots=shots, queries=queries)

    def check(self) -> None:
        """Refuse sizes that are none."""
        check_positive(at_least=0, shots=self.shots)
        check_positive(queries=self.queries)

    def values(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy targets [tasks, points, 1], of a new wave for each task."""
        return super().values(x, generator) + math.sqrt(self.variance) * torch.randn(x.shape, generator=generator)


def noisy_sinusoid(**settings) -> NoisySinusoids:
    """Waves seen with noise, see :class:`NoisySinusoids`."""
    return NoisySinusoids(**settings)
