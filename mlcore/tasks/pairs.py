"""Pairs of one class: what is asked is how to get from one to the other."""

import copy
from typing import Self

import torch
from torch import Tensor

from mlcore.objective import Metric, Objective
from mlcore.task import Examples, Task, Tasks
from mlcore.tasks.episodes import ClassificationTasks
from mlcore.tasks.sizes import check_positive


def mean_error(outputs: Tensor, y: object) -> Tensor:
    """The mean of errors [n]; there are no targets."""
    return outputs.mean()


reconstruction = Objective(mean_error, {"error": Metric(mean_error, higher_is_better=False, percent=False)})
"""How far what was made of a pair is from its second half, of learners that predict this error."""


class Pairs(Tasks):
    """Each task is a class: the support holds the first, the query the second half of some pairs of its examples.

    Args:
        tasks: examples and their classes; its ways, shots and queries do not matter.
        pairs: of a task.

    Derived in: Do generated examples help?, :eq:`eq-help-delta`.
    """

    objective: Objective = reconstruction

    def __init__(self, tasks: ClassificationTasks, *, pairs: int = 4) -> None:
        check_positive(pairs=pairs)
        self.tasks, self.pairs = tasks.replace(ways=1, shots=pairs, queries=pairs), pairs

    def __repr__(self) -> str:
        return f"Pairs({len(self.tasks.classes)} classes; pairs={self.pairs})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` classes; equal generators give equal pairs."""
        task = self.tasks.sample(n_tasks, generator)
        return Task(Examples(task.support.x), Examples(task.query.x))

    def to(self, device: torch.device | str) -> Self:
        """The same pairs, delivered on ``device``."""
        other = copy.copy(self)
        other.tasks = self.tasks.to(device)
        return other
