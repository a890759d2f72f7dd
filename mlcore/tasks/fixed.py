"""A list of tasks to be judged on, as a distribution of its own."""

from typing import Self

import torch

from mlcore.checks import check_task
from mlcore.objective import Objective, classification
from mlcore.task import Task, Tasks


class FixedTasks(Tasks):
    """Just these tasks, such as a benchmark's: evaluation takes them in order, :meth:`sample` draws among them.

    Args:
        task: the tasks, a batch.
        objective: what is good on them.
    """

    def __init__(self, task: Task, objective: Objective = classification) -> None:
        check_task(task)
        self.task, self.objective, self.size = task, objective, task.count

    def __repr__(self) -> str:
        return f"FixedTasks({self.size} tasks)"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw tasks with replacement; equal generators give equal tasks."""
        drawn = torch.randint(self.task.count, (n_tasks,), generator=generator)
        return self.task.each(lambda tensor: tensor[drawn.to(tensor.device)])

    def numbered(self, numbers: range, seed: int) -> Task:
        """The tasks with these numbers, whatever the seed."""
        return self.task.each(lambda tensor: tensor[numbers.start : numbers.stop])

    def to(self, device: torch.device | str) -> Self:
        """The same tasks on another device."""
        return type(self)(self.task.to(device), self.objective)
