"""Sine waves that come one after another, each to be kept (Javed and White, 2019, section 4)."""

import copy
import math
from typing import Any, Self

import torch
from torch import Tensor

from mlcore.objective import Objective, regression
from mlcore.task import Examples, Task, Tasks
from mlcore.tasks.sizes import check_positive


class WaveStreams(Tasks):
    """One function of a place and a number: for each number another wave, seen one after another.

    An input is x / 5, with x uniform on [-5, 5], and the wave's number as a one-hot row; the target is A sin(x - φ),
    with A and φ as in :func:`~mlcore.datasets.sinusoid.sinusoid`. The queries are of all waves, in their order.

    Args:
        waves: how many there are in a stream. The paper has ten.
        shots: support points of each wave.
        queries: query points of each wave.
        shuffled: let the support points come in random order.

    Derived in: Learning without forgetting, :eq:`eq-forget-wave`.
    """

    objective: Objective = regression

    def __init__(self, *, waves: int = 5, shots: int = 40, queries: int = 20, shuffled: bool = False) -> None:
        check_positive(waves=waves, shots=shots, queries=queries)
        self.waves, self.shots, self.queries, self.shuffled = waves, shots, queries, shuffled
        self.device: torch.device | str = "cpu"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` streams; equal generators give equal streams, with the same points in either order."""
        shape = (n_tasks, self.waves, self.shots + self.queries, 1)
        x = 10 * torch.rand(shape, generator=generator) - 5
        amplitude = 0.1 + 4.9 * torch.rand(n_tasks, self.waves, 1, 1, generator=generator)
        phase = math.pi * torch.rand(n_tasks, self.waves, 1, 1, generator=generator)
        number = torch.eye(self.waves)[:, None].expand(*shape[:3], self.waves)
        pairs = torch.cat([x / 5, number], -1), amplitude * torch.sin(x - phase)
        order = torch.arange(self.waves * self.shots)
        if self.shuffled:
            order = torch.randperm(len(order), generator=generator)

        def of(points: slice) -> list[Tensor]:
            return [half[:, :, points].flatten(1, 2).to(self.device) for half in pairs]

        support = (half[:, order] for half in of(slice(self.shots)))
        return Task(Examples(*support), Examples(*of(slice(self.shots, None))))

    def replace(self, **sizes: Any) -> Self:
        """The same streams with other sizes, or in the other order."""
        unknown = set(sizes) - {"waves", "shots", "queries", "shuffled"}
        if unknown:
            raise TypeError(f"replace() does not know {sorted(unknown)}; it takes waves, shots, queries, shuffled.")
        settings = {name: getattr(self, name) for name in ("waves", "shots", "queries", "shuffled")} | sizes
        return type(self)(**settings).to(self.device)

    def to(self, device: torch.device | str) -> Self:
        """The same streams, delivered on ``device``."""
        other = copy.copy(self)
        other.device = device
        return other


def wave_streams(**settings) -> WaveStreams:
    """Waves one after another, see :class:`WaveStreams`."""
    return WaveStreams(**settings)
