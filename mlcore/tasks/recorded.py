"""Few-shot regression on data that were recorded: every task is one recording."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mlcore.objective import Objective, regression
from mlcore.task import Examples, Task, Tasks
from mlcore.tasks.labelled import examples_of, first_not_finite, scaled
from mlcore.tasks.sizes import Size, check_positive, most, settled, vary


class RecordedTasks(Tasks):
    """Few-shot regression on recordings, such as those of a patient, a machine or a molecule each.

    A task draws a recording, then ``shots + queries`` of its rows without replacement. Recordings to test on are others
    than those to train on: ``RecordedTasks(x[:80], y[:80])`` and ``RecordedTasks(x[80:], y[80:])``.

    Args:
        x: inputs [recordings, n, *input]; ``uint8`` means image bytes, which tasks hold as floats in [0, 1].
        y: targets [recordings, n, *output], floats.
        shots: K, support rows of a task.
        queries: query rows of a task. Both may be ranges, such as ``shots=(3, 20)``, of which every batch draws one.
        objective: what is good; the mean squared error by default.
    """

    def __init__(
        self,
        x: Tensor | np.ndarray | Sequence,
        y: Tensor | np.ndarray | Sequence,
        *,
        shots: Size = 10,
        queries: Size = 10,
        objective: Objective = regression,
    ) -> None:
        self.x, self.y, self.objective = examples_of(x), examples_of(y), objective
        if min(self.x.dim(), self.y.dim()) < 3 or self.x.shape[:2] != self.y.shape[:2]:
            raise ValueError(
                f"x {list(self.x.shape)} and y {list(self.y.shape)} must be [recordings, n, *input] and "
                "[recordings, n, *output]; a single number for each row has a dimension of its own: y[..., None]."
            )
        if not self.y.is_floating_point():
            raise TypeError(f"targets must be floats, not {self.y.dtype}; for classes there is ClassificationTasks.")
        for name, values in (("x", self.x), ("y", self.y)):
            if (first := first_not_finite(values)) is not None:
                raise ValueError(f"{name} of recording {first} holds a number that is not finite; leave that one out.")
        self.shots, self.queries = shots, queries
        self._check()

    def _check(self) -> None:
        check_positive(shots=self.shots, queries=self.queries)
        if (needed := most(self.shots) + most(self.queries)) > self.x.shape[1]:
            raise ValueError(
                f"shots + queries = {most(self.shots)} + {most(self.queries)} = {needed}, but a recording has only "
                f"{self.x.shape[1]} rows; lower shots or queries."
            )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return (
            f"RecordedTasks({len(self)} recordings of {self.x.shape[1]} rows; shots={self.shots}, "
            f"queries={self.queries})"
        )

    @property
    def one_shape(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no size is a range."""
        return not vary(self)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` recordings and rows of each; equal generators give equal tasks."""
        sizes = settled(self, generator)
        recording = torch.randint(len(self), (n_tasks, 1), generator=generator).to(self.x.device)
        keys = torch.rand(n_tasks, self.x.shape[1], generator=generator)
        row = keys.topk(sizes.shots + sizes.queries).indices.to(self.x.device)
        support, query = row[:, : sizes.shots], row[:, sizes.shots :]
        return Task(*(Examples(scaled(self.x[recording, rows]), self.y[recording, rows]) for rows in (support, query)))

    def replace(self, *, shots: Size | None = None, queries: Size | None = None, **sizes: Any) -> Self:
        """The same recordings with other numbers of ``shots`` or ``queries``."""
        super().replace(**sizes)  # refuses what there is not
        other = copy.copy(self)
        other.shots = self.shots if shots is None else shots
        other.queries = self.queries if queries is None else queries
        other._check()
        return other

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its recordings on ``device``. Sampling stays on the CPU: tasks do not change."""
        other = copy.copy(self)
        other.x, other.y = self.x.to(device), self.y.to(device)
        return other
