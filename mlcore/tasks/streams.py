"""Streams of examples: with labels one step late and answers by instance of a class, or one class after another."""

import copy
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor

from mlcore.objective import Metric, Objective, accuracy, cross_entropy, hits
from mlcore.task import Examples, Task, Tasks
from mlcore.tasks.episodes import ClassificationTasks
from mlcore.tasks.sizes import check_positive


def by_instance(outputs: Tensor, y: Tensor) -> Tensor:
    """The share of right answers at the 1st, 2nd, … instance of a class, where all have as many: [instances].

    Args:
        outputs: logits along the stream [n, outputs].
        y: one-hot rows [n, ways].
    """
    number = y.cumsum(0).mul(y).sum(-1).long() - 1  # how often the class was there before
    instances, ways = len(y) // y.shape[-1], y.shape[-1]
    return y.new_zeros(instances).index_add(0, number, hits(outputs, y)) / ways


def at_instance(outputs: Tensor, y: Tensor, *, instance: int) -> Tensor:
    """The share of right answers at that instance of a class, counted from 1."""
    return by_instance(outputs, y)[instance - 1]


class StreamTasks(Tasks):
    """Streams of a few classes, which ask about every example before they tell its label (Santoro et al., 2016).

    A stream is the support set, and its own query set: the learner answers along it.

    Args:
        tasks: where examples and classes come from, and how many ways there are; its shots do not matter.
        instances: examples of each class in a stream, in random order.
        instance: judge by the answers at this instance of a class alone; by all of them if ``None``.

    Raises:
        ValueError: sizes that do not fit the data, or an instance that is not there.

    Derived in: Reading the support set as a sequence, :eq:`eq-late-label`.
    """

    def __init__(self, tasks: ClassificationTasks, *, instances: int = 10, instance: int | None = None) -> None:
        check_positive(instances=instances)
        if instance is not None and not 1 <= instance <= instances:
            raise ValueError(f"instance={instance} must be 1 to {instances}, the instances of a class in a stream.")
        self.tasks = tasks.replace(shots=instances, queries=1)
        self.instances, self.instance = instances, instance
        share = accuracy if instance is None else partial(at_instance, instance=instance)
        self.objective = Objective(cross_entropy, {"accuracy": Metric(share), "by instance": Metric(by_instance)})

    def __repr__(self) -> str:
        return f"StreamTasks(ways={self.tasks.ways}, instances={self.instances}; instance={self.instance})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` streams; equal generators give equal streams."""
        support = self.tasks.sample(n_tasks, generator).support
        return Task(support, support)

    def replace(self, **sizes: Any) -> Self:
        """The same streams with another ``instance`` to judge by, or others ``instances`` of a class."""
        unknown = set(sizes) - {"instances", "instance"}
        if unknown:
            raise TypeError(f"replace() does not know {sorted(unknown)}; it takes instances, instance.")
        settings = {"instances": self.instances, "instance": self.instance} | sizes
        return type(self)(self.tasks, **settings)

    def to(self, device: torch.device | str) -> Self:
        """The same streams, delivered on ``device``."""
        other = copy.copy(self)
        other.tasks = self.tasks.to(device)
        return other


class ClassByClass(Tasks):
    """Episodes whose support set is a stream in which the classes come one after another, each with all its examples.

    Class t is the t-th to come. The same episodes in random order are ``tasks`` itself.

    Args:
        tasks: where the episodes come from.

    Derived in: Learning without forgetting, :eq:`eq-forget-stream`.
    """

    def __init__(self, tasks: ClassificationTasks) -> None:
        self.tasks, self.objective, self.one_shape = tasks, tasks.objective, tasks.one_shape

    def __repr__(self) -> str:
        return f"ClassByClass({self.tasks!r})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` episodes; equal generators give equal episodes, and those of ``tasks`` but for the order."""
        support, query = self.tasks.sample(n_tasks, generator)
        order = support.y.argmax(-1).argsort(dim=-1, stable=True)
        x, y = (torch.stack([rows[i] for rows, i in zip(half, order, strict=True)]) for half in support)
        return Task(Examples(x, y), query)

    def replace(self, **sizes: Any) -> Self:
        """The same streams with other sizes."""
        return type(self)(self.tasks.replace(**sizes))

    def to(self, device: torch.device | str) -> Self:
        """The same streams, delivered on ``device``."""
        return type(self)(self.tasks.to(device))
