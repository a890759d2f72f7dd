"""Plain supervised learning in the form of tasks."""

import copy
from typing import Self

import torch

from mlcore.objective import Objective, classification
from mlcore.task import Examples, Task, Tasks, rows
from mlcore.tasks.episodes import ClassificationTasks
from mlcore.tasks.sizes import check_generator, check_positive


class SupervisedTasks(Tasks):
    """Plain supervised learning in the form of tasks: an empty support set, and a minibatch of examples as queries.

    The labels are the same in every task: the position of a class in ``tasks.classes``. So one training loop serves
    meta-learning and pre-training.

    Args:
        tasks: where the examples come from; its ways, shots and queries do not matter, its ``augment`` does.
        batch_size: examples in a minibatch, drawn with replacement.

    Derived in: A baseline worth beating, :eq:`eq-pretraining`.
    """

    objective: Objective = classification

    def __init__(self, tasks: ClassificationTasks, *, batch_size: int = 128) -> None:
        check_positive(batch_size=batch_size)
        self.tasks, self.batch_size = tasks, batch_size
        self._codes, self._labels = tasks.codes(), torch.arange(len(tasks.classes)).repeat_interleave(tasks._counts)

    def __repr__(self) -> str:
        return f"SupervisedTasks({len(self._codes)} examples; batch_size={self.batch_size})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` minibatches; equal generators give equal minibatches."""
        check_generator(generator)
        drawn = torch.randint(len(self._codes), (n_tasks, self.batch_size), generator=generator)
        x = self.tasks.augmented(self.tasks.examples(self._codes[drawn]), generator)
        y = rows(self._labels[drawn], len(self.tasks.classes)).to(x.device)
        return Task(Examples(x[:, :0], y[:, :0]), Examples(x, y))

    def to(self, device: torch.device | str) -> Self:
        """The same minibatches, delivered on ``device``."""
        other = copy.copy(self)
        other.tasks = self.tasks.to(device)
        return other
