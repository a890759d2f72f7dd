"""The Tennessee Eastman plant: 21 faults of a simulated chemical process (Downs and Vogel, 1993)."""

import copy
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from mlcore.files import folder_with, needed_folder
from mlcore.objective import Objective, classification
from mlcore.task import Examples, Task, Tasks, rows, seeded
from mlcore.tasks.sizes import Size, check_positive, settled, vary

_FOLDER, _FILE, _FAULTS, _BEGINS = "tep", "tep.npz", 21, 160
_WINDOW, _STEP = 20, 10  # rows; one is measured every three minutes


class TwoRuns(Tasks):
    """Classes with examples of two runs each: a task learns from the one, and is asked about the other.

    Neighbouring windows of one run are alike whatever ails the machine; a class is known only across runs.

    Args:
        first, second: examples [classes, n, *input] of the two runs, the same classes in the same order.
        ways, shots, queries: as for :class:`~mlcore.tasks.ClassificationTasks`.

    Raises:
        ValueError: runs of different classes, or sizes that do not fit them.
    """

    objective: Objective = classification

    def __init__(self, first: Tensor, second: Tensor, *, ways: Size = 5, shots: Size = 1, queries: Size = 10) -> None:
        if len(first) != len(second):
            raise ValueError(f"the runs have {len(first)} and {len(second)} classes; both need all of them.")
        self.first, self.second = first, second
        self.ways, self.shots, self.queries = ways, shots, queries
        self._check()

    def _check(self) -> None:
        check_positive(ways=self.ways, shots=self.shots, queries=self.queries)
        there = {"ways": len(self.first), "shots": self.first.shape[1], "queries": self.second.shape[1]}
        for name, most in there.items():
            asked = getattr(self, name)
            if (asked[1] if isinstance(asked, tuple) else asked) > most:
                raise ValueError(f"{name}={asked}, but there are only {most}; lower {name}.")

    def __repr__(self) -> str:
        return f"TwoRuns({len(self.first)} classes; ways={self.ways}, shots={self.shots}, queries={self.queries})"

    @property
    def one_shape(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no size is a range."""
        return not vary(self)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` episodes; equal generators give equal episodes."""
        sizes = settled(self, generator)
        drawn = torch.rand(n_tasks, len(self.first), generator=generator).topk(sizes.ways).indices
        return Task(
            _rows_of(self.first, drawn, sizes.shots, generator), _rows_of(self.second, drawn, sizes.queries, generator)
        )

    def replace(self, **sizes: Any) -> Self:
        """The same classes with other ``ways``, ``shots`` or ``queries``."""
        if unknown := set(sizes) - {"ways", "shots", "queries"}:
            raise TypeError(f"TwoRuns has no {', '.join(sorted(unknown))} to replace.")
        other = copy.copy(self)
        other.__dict__.update(sizes)
        other._check()
        return other

    def select(self, classes: list[int]) -> Self:
        """Only these classes."""
        other = copy.copy(self)
        other.first, other.second = self.first[classes], self.second[classes]
        other._check()
        return other

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its examples on ``device``. Sampling stays on the CPU: tasks do not change."""
        other = copy.copy(self)
        other.first, other.second = self.first.to(device), self.second.to(device)
        return other


def _rows_of(run: Tensor, classes: Tensor, count: int, generator: torch.Generator) -> Examples:
    """``count`` distinct examples of each class [tasks, ways], in random order, with their one-hot rows."""
    n_tasks, ways = classes.shape
    keys = torch.rand(n_tasks, ways, run.shape[1], generator=generator)
    picked = keys.topk(count).indices.flatten(1)
    order = torch.rand(n_tasks, ways * count, generator=generator).argsort(1)
    label = torch.arange(ways).repeat_interleave(count)[order]
    of, which = classes.gather(1, label), picked.gather(1, order)
    return Examples(run[of.to(run.device), which.to(run.device)], rows(label, ways).to(run.device))


def find_tennessee(root: Path) -> Path | None:
    """The folder under ``root`` that holds the plant's runs; None when there is none."""
    return folder_with(root / _FOLDER, _FILE)


def tennessee(
    *,
    root: Path | str | None = None,
    whiten: bool = False,
    ways: Size = 5,
    shots: Size = 1,
    queries: Size = 10,
    seed: int = 1,
) -> tuple[TwoRuns, TwoRuns, TwoRuns]:
    """The plant's faults as (train, val, test) episodes over disjoint faults: 10, 5 and 6 of the 21.

    An example is an hour of a run, 20 rows, as 104 numbers: mean and logarithm of the deviation of each of 52
    variables, in units of the plant's normal running. Support and queries come from different runs of a fault.

    Args:
        root: where ``tep/`` is; :func:`mlcore.files.data_root` by default.
        whiten: also turn and scale the numbers so that *within* a training fault they are uncorrelated and of one size,
            see :func:`whitening`.
        ways, shots, queries: as for :class:`TwoRuns`.
        seed: of the split of faults.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
        ValueError: a file that is truncated or damaged.
    """
    folder = needed_folder(_FOLDER, _FILE, root=root, what="Tennessee Eastman data")
    try:
        with np.load(folder / _FILE, allow_pickle=False) as runs:
            normal = runs["train_00"]
            first = [runs[f"train_{fault:02d}"] for fault in range(1, _FAULTS + 1)]
            second = [runs[f"test_{fault:02d}"][_BEGINS:] for fault in range(1, _FAULTS + 1)]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(f"{folder / _FILE} is truncated or damaged ({error}); get it again.") from error
    mean, deviation = normal.mean(0), normal.std(0)
    usual = summaries((normal - mean) / deviation)
    a, b = (
        torch.stack([(summaries((run - mean) / deviation) - usual.mean(0)) / usual.std(0) for run in part])
        for part in (first, second)
    )
    order = torch.randperm(_FAULTS, generator=seeded(seed)).tolist()
    parts = order[11:], order[6:11], order[:6]
    if whiten:
        turn = whitening(a[parts[0]])
        a, b = a @ turn, b @ turn
    tasks = TwoRuns(a, b, ways=ways, shots=shots, queries=queries)
    train, val, test = (tasks.select(sorted(part)) for part in parts)
    return train, val, test


def summaries(run: np.ndarray) -> Tensor:
    """A run [rows, variables] as overlapping windows [windows, 2 · variables]: means, logarithms of deviations."""
    windows = np.stack([run[i : i + _WINDOW] for i in range(0, len(run) - _WINDOW + 1, _STEP)])
    return torch.from_numpy(np.concatenate([windows.mean(1), np.log(windows.std(1) + 0.1)], 1).astype(np.float32))


def whitening(examples: Tensor, ridge: float = 0.3) -> Tensor:
    """W [features, features]: within classes of examples [classes, n, features], the covariance of zW is near sI.

    Each class's covariance is divided by its own mean variance before they are averaged: a fault that swings the whole
    plant varies a hundred times as much as another, and would decide alone. The average is brought towards the identity
    by ``ridge``. Euclidean distance after it is Mahalanobis distance before: Fisher's discriminant for classes that it
    has not seen.

    Derived in: A new user, a new patient, a new machine, :eq:`eq-user-whitening`.
    """
    z = (examples - examples.mean(1, keepdim=True)).double()
    covariance = z.mT @ z / z.shape[1]
    size = covariance.diagonal(dim1=1, dim2=2).mean(1)
    covariance = (covariance / size[:, None, None]).mean(0)  # of mean variance 1
    covariance = covariance + ridge * torch.eye(z.shape[2], dtype=z.dtype)
    return torch.linalg.cholesky(torch.linalg.inv(covariance)).to(examples.dtype)
