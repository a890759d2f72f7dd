"""Episodes whose classes come with more than examples: a vector for each, such as one of its name."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mlcore.objective import Objective, classification
from mlcore.task import Task, Tasks, seeded
from mlcore.tasks.episodes import ClassificationTasks
from mlcore.tasks.sizes import check_generator, settled


class Named(NamedTuple):
    """A support set and a vector for each of its classes, in the order of the columns of y."""

    x: Any  # [tasks, n, *input]; n may be 0
    y: Tensor  # one-hot rows [tasks, n, ways]
    words: Tensor  # [tasks, ways, size]


class NamedTasks(Tasks):
    """N-way K-shot episodes whose support set comes with a vector for each class (Xing et al., 2019).

    The vectors follow their classes: where a class is number 3 of an episode, row 3 of ``words`` is its own. With
    ``shots=0`` (see :meth:`replace`) the vectors are all that there is: the 1-shot episodes, without their examples.

    Args:
        tasks: where the episodes come from.
        words: a vector [size] for each class there, by its name.
        shuffled: give every class the vector of another one, always the same: what words are worth when they mean
            nothing.

    Raises:
        ValueError: a class without a vector, or vectors of several sizes.

    Derived in: With words, :eq:`eq-words-task`.
    """

    objective: Objective = classification

    def __init__(self, tasks: ClassificationTasks, words: Mapping[Any, Tensor], *, shuffled: bool = False) -> None:
        self.tasks, self.shuffled, self.shown = tasks, shuffled, True
        for name in tasks.classes:
            if name not in words:
                raise ValueError(
                    f"class {name!r} has no vector; give one for each of the {len(tasks.classes)} classes."
                )
            if words[name].shape != words[tasks.classes[0]].shape or words[name].dim() != 1:
                raise ValueError(
                    f"the vector of class {name!r} has shape {list(words[name].shape)}, but that of class "
                    f"{tasks.classes[0]!r} {list(words[tasks.classes[0]].shape)}; give vectors [size] of one size."
                )
        self.words = torch.stack([words[name] for name in tasks.classes])
        if shuffled:
            order = torch.randperm(len(self.words), generator=seeded(0))
            self.words = self.words[order.roll(1)[order.argsort()]]  # one cycle: nobody keeps the own

    def __repr__(self) -> str:
        names = "shuffled names" if self.shuffled else "names"
        return f"NamedTasks({self.tasks!r}; {names} of {self.words.shape[1]} numbers)"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` episodes; equal generators give equal episodes, and those of ``tasks`` but for the words."""
        check_generator(generator)
        tasks = settled(self.tasks, generator)
        classes = tasks.draw_classes(n_tasks, generator)
        support, query = tasks.read(tasks.draw_examples(classes, generator), generator)
        n = support.y.shape[1] if self.shown else 0
        return Task(Named(support.x[:, :n], support.y[:, :n], self.words[classes].to(query.y.device)), query)

    @property
    def one_shape(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no size is a range."""
        return self.tasks.one_shape

    def replace(self, **settings: Any) -> Self:
        """The same episodes with other ``ways``, ``shots``, ``queries`` and so on; ``shots=0`` shows no example."""
        other = copy.copy(self)
        if "shots" in settings:
            other.shown = settings["shots"] != 0
            settings["shots"] = settings["shots"] or 1
        other.tasks = self.tasks.replace(**settings)
        return other

    def to(self, device: torch.device | str) -> Self:
        """The same episodes, delivered on ``device``."""
        other = copy.copy(self)
        other.tasks = self.tasks.to(device)
        return other
