"""A task is two sets of examples: a support set to learn from, and a query set to be judged on.

Both halves may hold one tensor or several, in tuples or dicts: token ids and a mask, states and actions, the parameters
of an environment. The chapter *Tasks and episodes* builds this module step by step.
"""

import copy
import operator
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from mlcore.objective import Objective


class Examples(NamedTuple):
    """Inputs and targets. ``y`` is ``()`` where there is no target, as in an environment."""

    x: Any
    y: Any = ()


class Task(NamedTuple):
    """A batch of tasks. Every tensor in it leads with the tasks dimension; write ``x[None]`` for a single task.

    Of labelled examples, the shapes are ``x`` [tasks, n, *input] and ``y`` [tasks, n, ways], one-hot rows (see
    :func:`rows`), or [tasks, n, *output] floats for regression. So the number of classes is a shape.
    """

    support: Any  # Examples; a stream of them; the parameters of an environment or of a problem
    query: Any

    @property
    def count(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]  # of a tuple's own, which nobody needs
        """How many tasks there are."""
        return len(tree_leaves(self)[0])

    def each(self, change: Callable[[Tensor], Tensor]) -> "Task":
        """The same tasks with ``change`` applied to every tensor, such as ``lambda t: t[:5]`` for the first five."""
        return tree_map(change, self)

    def to(self, device: torch.device | str) -> "Task":
        """The same tasks on another device."""
        return self.each(lambda tensor: tensor.to(device))

    def split(self, size: int) -> list["Task"]:
        """The same tasks in batches of at most ``size``."""
        leaves, form = tree_flatten(self)
        return [tree_unflatten(parts, form) for parts in zip(*(leaf.split(size) for leaf in leaves), strict=True)]

    def shard(self, part: int, parts: int) -> "Task":
        """Every ``parts``-th task, starting at ``part``: one worker's share of a meta-batch."""
        return self.each(lambda tensor: tensor[part::parts])


def stacked(batches: list[Task]) -> Task:
    """One batch of all the tasks in several, which must be of one shape.

    Raises:
        ValueError: tasks of different shapes.
    """
    shapes = [[list(leaf.shape[1:]) for leaf in tree_leaves(batch)] for batch in batches]
    other = next((shape for shape in shapes if shape != shapes[0]), None)
    if other is not None:
        raise ValueError(
            f"tasks of shapes {shapes[0]} and {other} are no batch; let the distribution say one_shape = False, and "
            "evaluation takes them singly."
        )
    return tree_map(lambda *parts: torch.cat(parts), *batches)


def rows(labels: Tensor, ways: int | None = None) -> Tensor:
    """Class labels [...] 0 … ways-1 as one-hot rows [..., ways]; by default there are as many ways as labels seen.

    Raises:
        ValueError: a label outside of 0 … ways-1, or a number of ways that leaves a gap.
    """
    if ways is None:
        seen = labels.unique().tolist()
        if seen != list(range(len(seen))):
            raise ValueError(
                f"labels must be 0 to ways - 1, each with an example, not {seen[:10]}; number the classes from 0, or "
                "say how many there are: rows(labels, ways)."
            )
        ways = len(seen)
    if labels.numel() and not 0 <= (low := int(labels.min())) <= (high := int(labels.max())) < ways:
        raise ValueError(f"labels must be 0 to {ways - 1}, not {low if low < 0 else high}.")
    return F.one_hot(labels, ways).to(torch.get_default_dtype())


def seeded(*seed: int) -> torch.Generator:
    """A CPU generator whose state depends on all the integers given, such as (seed, iteration).

    Every episode of training and evaluation comes from ``sample(n, seeded(seed, i))``. There is no state to carry:
    the i-th meta-batch is the same in any process, on any number of workers, and after a resume.
    """
    # SeedSequence pads with zeros and splits large integers in two: the count and fixed halves keep (1,) and (1, 0)
    # apart.
    words = [len(seed), *(half for part in seed for half in divmod(operator.index(part) % 2**64, 2**32))]
    state = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def seed_global_stream(seed: int) -> None:
    """What ``torch.manual_seed`` does, for dropout and for libraries that take no generator.

    That one also notes a stack trace for each kind of accelerator that is not there, which deep in a notebook takes as
    long as a small training step.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


# Keeps evaluation's tasks apart from those that training draws with the same seed.
_EVALUATION = 1


class Tasks:
    """p(T): a distribution of tasks, and what "good" means on them. A subclass writes ``objective`` and ``sample``.

    Derived in: Learning to learn, :eq:`eq-learner`.
    """

    objective: Objective
    size: int | None = None
    """How many tasks there are where they are a list; ``None`` for a distribution, which has no end."""
    one_shape: bool = True
    """Whether all tasks have tensors of the same shapes. Where they have not, evaluation takes tasks singly."""

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw tasks: a pure function of what the distribution remembers and of the generator."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(n_tasks, generator).")

    def numbered(self, numbers: range, seed: int) -> Task:
        """The tasks with these numbers, of the list that ``seed`` names; task i depends on ``seed`` and i alone."""
        return stacked([self.sample(1, seeded(seed, _EVALUATION, i)) for i in numbers])

    def replace(self, **sizes: Any) -> Self:
        """The same distribution with other sizes."""
        if sizes:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(sizes))} to replace.")
        return self

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its tasks delivered on ``device``."""
        raise NotImplementedError(f"{type(self).__name__} must define to(device).")

    def feedback(self, scores: dict[str, Tensor]) -> None:
        """Take note of the scores [tasks, ...] of the batch drawn last, by metric: for hard tasks and curricula."""

    def summary(self) -> dict[str, Any]:
        """What a record of a training run says of these tasks."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What the distribution remembers, for a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a memory from :meth:`state_dict`."""


class DrawnTasks(Tasks):
    """Tasks that are drawn from random numbers on the CPU; ``sample`` ends with ``.to(self._device)``."""

    _device: torch.device | str = "cpu"

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its tasks delivered on ``device``."""
        other = copy.copy(self)
        other._device = device
        return other
