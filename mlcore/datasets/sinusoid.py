"""Sinusoids: the regression tasks of Finn et al. (2017, section 5.1)."""

import math

import torch
from torch import Tensor

from mlcore.tasks import RegressionTasks


def sinusoid(*, shots: int = 10, queries: int = 10) -> RegressionTasks:
    """Tasks y = A sin(x - φ) with A uniform on [0.1, 5], φ uniform on [0, π] and x uniform on [-5, 5].

    Derived in: Learning to learn, :eq:`eq-sinusoid`.
    """
    return RegressionTasks(_draw_sinusoids, low=-5.0, high=5.0, shots=shots, queries=queries)


def _draw_sinusoids(x: Tensor, generator: torch.Generator) -> Tensor:
    amplitude = 0.1 + 4.9 * torch.rand(len(x), 1, 1, generator=generator)
    phase = math.pi * torch.rand(len(x), 1, 1, generator=generator)
    return amplitude * torch.sin(x - phase)
