"""The hard-task meta-batch of meta-transfer learning: let the learner's failures choose the next tasks."""

import copy
from typing import Any, Self

import torch
from torch import Tensor

from mlcore.objective import Metric, Objective, accuracy_by_class
from mlcore.task import Task, Tasks
from mlcore.tasks.episodes import ClassificationTasks
from mlcore.tasks.sizes import one


class HardTasks(Tasks):
    """Random tasks until enough classes have failed, then as many meta-batches of tasks made of those classes alone.

    In every random task the class of lowest query accuracy is the *failure*; the failures of one round form a pool
    (Sun et al., 2019, algorithm 1). One meta-batch of two tasks yields two failures, a 5-way task needs five
    classes: the pool is filled over as many meta-batches as it takes to have ``pool`` different classes in it. Then
    follow as many hard meta-batches as there were random ones, the pool is emptied, and a new round begins. So half of
    all tasks are hard. The paper leaves both numbers open.

    It is a task distribution with a memory: :func:`~mlcore.training.meta_train` reports how each meta-batch was
    answered, and keeps the memory in its checkpoints.

    Args:
        tasks: the training tasks; their classes must not be bound to groups.
        pool: different classes to collect; the number of ways by default.

    Derived in: Learning from hard tasks, :eq:`eq-hard-tasks`.
    """

    def __init__(self, tasks: ClassificationTasks, *, pool: int | None = None) -> None:
        if not tasks.one_shape:
            raise ValueError("hard tasks need one size of ways, shots and queries, not ranges; name one of each.")
        ways = one(tasks.ways)
        pool = ways if pool is None else pool
        if not ways <= pool <= len(tasks.classes):
            raise ValueError(
                f"pool={pool} classes, but a hard task needs ways={ways} of them, and there are "
                f"{len(tasks.classes)}; choose a number between."
            )
        if tasks.within_groups:
            raise ValueError("hard tasks mix classes that failed in different tasks; set within_groups=False.")
        self.tasks, self.pool = tasks, pool
        self.seen = torch.zeros(len(tasks.classes), dtype=torch.int64)  # random tasks that each class was in
        self.failed = torch.zeros_like(self.seen)  # and those it failed in
        self._failures: list[int] = []  # of this round
        self._random_batches = 0  # of this round
        self._hard_batches = 0  # still to come in this round
        self._drawn: Tensor | None = None  # classes [tasks, ways] of the random meta-batch at hand

    @property
    def hard(self) -> bool:
        """Whether the next tasks are made of failed classes."""
        return self._hard_batches > 0

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` episodes, random or hard ones; equal generators and memories give equal episodes."""
        source = self.tasks
        if self.hard:
            source = source.select_classes(source.classes[i] for i in sorted(set(self._failures)))
        classes = source.draw_classes(n_tasks, generator)
        self._drawn = None if self.hard else classes
        codes = source.draw_examples(classes, generator)
        return source.read(codes, generator)

    @property
    def objective(self) -> Objective:  # pyright: ignore[reportIncompatibleVariableOverride]
        """That of the tasks, and the accuracy of each class, from which failures are read."""
        metrics = self.tasks.objective.metrics | {_BY_CLASS: Metric(accuracy_by_class)}
        return self.tasks.objective._replace(metrics=metrics)

    def feedback(self, scores: dict[str, Tensor]) -> None:
        """Take note of the accuracies by class [tasks, ways] of the meta-batch drawn last."""
        if self._drawn is None:
            self._hard_batches -= 1
            if not self.hard:
                self._failures, self._random_batches = [], 0
            return
        worst = failures(scores[_BY_CLASS]).cpu()
        failed = self._drawn.gather(1, worst[:, None])[:, 0]
        self.seen += torch.bincount(self._drawn.flatten(), minlength=len(self.seen))
        self.failed += torch.bincount(failed, minlength=len(self.failed))
        self._failures += failed.tolist()
        self._random_batches += 1
        if len(set(self._failures)) >= self.pool:
            self._hard_batches = self._random_batches

    def summary(self) -> dict[str, Any]:
        """How often each class was in a random task, and failed."""
        counts = zip(self.tasks.classes, self.failed.tolist(), self.seen.tolist(), strict=True)
        return {"hard_classes": [{"class": name, "failed": failed, "seen": seen} for name, failed, seen in counts]}

    def state_dict(self) -> dict[str, Any]:
        """The memory, for a checkpoint."""
        return {
            "seen": self.seen.tolist(),
            "failed": self.failed.tolist(),
            "failures": list(self._failures),
            "random_batches": self._random_batches,
            "hard_batches": self._hard_batches,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a memory from :meth:`state_dict`."""
        self.seen, self.failed = torch.tensor(state["seen"]), torch.tensor(state["failed"])
        self._failures = list(state["failures"])
        self._random_batches, self._hard_batches = state["random_batches"], state["hard_batches"]

    def to(self, device: torch.device | str) -> Self:
        """The same tasks with the same memory, their examples on ``device``."""
        other = copy.copy(self)
        other.tasks = self.tasks.to(device)
        return other


def failures(by_class: Tensor) -> Tensor:
    """The label of each task's class of lowest query accuracy: [tasks], the first one where several tie.

    Labels number classes in the order drawn, so among those that tie the first is a random one.

    Args:
        by_class: accuracies [tasks, ways]; every class must have queries.
    """
    return by_class.argmin(1)


_BY_CLASS = "accuracy by class"
