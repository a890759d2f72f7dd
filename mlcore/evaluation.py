"""Scoring a learner: a mean and its 95 % interval over a fixed, seeded list of tasks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from tqdm import tqdm

from mlcore.learner import Judged, Learner, in_evaluation_mode
from mlcore.nets.norms import BatchNormPolicy
from mlcore.objective import Metric
from mlcore.task import Examples, Task, Tasks, seed_global_stream, seeded

# Tasks adapted at once. It bounds memory and changes no result.
_AT_ONCE = 32
_IMAGES_AT_ONCE = 256


@dataclass(frozen=True, repr=False)
class Score:
    """A learner's metrics on some tasks, the first one being the main one.

    ``ci95`` is the half-width 1.96 s/√n of the normal interval over the n tasks, the one the literature reports. It
    covers the draw of test tasks for these weights; it does not cover the draw of weights (another seed).
    """

    values: dict[str, Tensor]  # by metric, [tasks], or [tasks, ...] where a metric gives several numbers
    metrics: dict[str, Metric]
    diverged: int = 0  # tasks on which adaptation blew up; an answer that is not a number counts as wrong

    @property
    def metric(self) -> str:
        """The name of the main metric."""
        return next(iter(self.metrics))

    @property
    def per_task(self) -> Tensor:
        """The main metric of each task."""
        return self.values[self.metric]

    @property
    def of_task(self) -> Tensor:
        """One number for each task [tasks]: the mean where the main metric gives several."""
        return self.per_task.reshape(len(self.per_task), -1).mean(1)

    @property
    def mean(self) -> float:
        """The mean over tasks."""
        return self.per_task.mean().item()

    @property
    def ci95(self) -> float:
        """The half-width of the 95 % interval."""
        return 1.96 * self.of_task.std().item() / math.sqrt(len(self.of_task))

    def __getitem__(self, name: str) -> "Score":
        """The score by another of its metrics."""
        if name not in self.metrics:
            raise KeyError(f"there is no metric {name!r}; choose among {', '.join(self.metrics)}.")
        return Score({name: self.values[name]}, {name: self.metrics[name]}, self.diverged)

    def __sub__(self, other: "Score") -> "Difference":
        """By how much it is above another score, task by task: both learners met the same tasks, with one seed.

        Raises:
            ValueError: other numbers of tasks, or another main metric.
        """
        mine, theirs = ((score.metric, len(score.per_task)) for score in (self, other))
        if mine != theirs:
            raise ValueError(
                f"a difference is taken task by task: {mine[0]} on {mine[1]} tasks and {theirs[0]} on {theirs[1]} have "
                "none; score both learners on the same tasks, with one seed."
            )
        name = self.metric
        return Difference({name: self.per_task - other.per_task}, {name: self.metrics[name]})

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"

    def __str__(self) -> str:
        tasks = f"{len(self.per_task)} tasks" + (f", {self.diverged} diverged" if self.diverged else "")
        name = "" if self.metric == "accuracy" else f" {self.metric.upper() if len(self.metric) < 4 else self.metric}"
        if self.metrics[self.metric].percent:
            return f"{100 * self.mean:.2f} ± {100 * self.ci95:.2f} %{name} ({tasks})"
        return f"{self.mean:.3f} ± {self.ci95:.3f}{name} ({tasks})"


class Difference(Score):
    """One score minus another, on the same tasks; its interval is that of the mean difference."""

    def __str__(self) -> str:
        scale, digits, unit = (100, 2, " points") if self.metrics[self.metric].percent else (1, 3, "")
        return (
            f"{scale * self.mean:+.{digits}f} ± {scale * self.ci95:.{digits}f}{unit} of {self.metric} "
            f"({len(self.per_task)} tasks)"
        )


def mean_interval(values: Tensor | np.ndarray, dim: int = 0) -> tuple[Any, Any]:
    """The mean of independent draws, and the half-width t s/√n of its 95 % interval: tasks, seeds, or repeats.

    t is Student's, so that three seeds get the width that three seeds deserve; from a hundred draws on it is 1.96
    within one part in eighty.

    Args:
        values: [..., n, ...], a tensor or an array.
        dim: the one of the draws.

    Returns:
        Mean and half-width, each of the other dimensions, as what ``values`` is.

    Raises:
        ValueError: fewer than two draws, of which nobody knows the spread.

    Derived in: Tasks and episodes, :eq:`eq-interval`.
    """
    n = values.shape[dim]
    if n < 2:
        raise ValueError(f"an interval needs at least two draws, and there {'is one' if n else 'are none'}.")
    spread = values.std(dim) if isinstance(values, Tensor) else values.std(dim, ddof=1)
    return values.mean(dim), spread * (float(stdtrit(n - 1, 0.975)) / math.sqrt(n))


def evaluate(
    learner: Learner,
    tasks: Tasks,
    *,
    episodes: int | None = None,
    seed: int = 0,
    batch_norm: BatchNormPolicy | None = None,
    progress: bool = True,
) -> Score:
    """Adapt to each of ``episodes`` tasks and score its queries.

    Task i depends on ``seed`` and i alone, so every learner that is evaluated with the same seed meets the same
    tasks, and 600 tasks begin with the first 100. A learner that embeds each input alone, with running statistics,
    embeds each distinct image of all these tasks once.

    Args:
        learner: scored in evaluation mode (``test_steps`` inner steps) and left as it was.
        tasks: usually of classes that no training saw.
        episodes: how many tasks to draw: 600 by default, as the papers' 600 to 10,000; of a list of tasks, all.
        seed: names the list of tasks.
        batch_norm: whose statistics normalise the queries, see :func:`mlcore.nets.norms.answer`; by default the policy
            of the method's paper, ``learner.batch_norm``.
        progress: show a progress bar, if it takes longer than a second.

    Derived in: Tasks and episodes, :eq:`eq-interval`.
    """
    check_learner(learner)
    check_tasks(tasks)
    total = (600 if tasks.size is None else tasks.size) if episodes is None else episodes
    if tasks.size is not None and total > tasks.size:
        raise ValueError(f"episodes={total}, but there are only {tasks.size} tasks; lower episodes, or leave it out.")
    if total < 2:
        raise ValueError(f"{total} task{'s give' if total != 1 else ' gives'} no interval; use at least 2.")
    policy = batch_norm or learner.batch_norm
    alone = learner.embeds_each_input_alone and not learner.reads_order and policy == "running"
    # An augmented image differs from draw to draw.
    fixed = getattr(tasks, "fixed_inputs", False) and getattr(tasks, "augment", None) is None
    once = alone and fixed and tasks.one_shape
    source = _embedded if once else _sampled
    values: dict[str, list[Tensor]] = {name: [] for name in tasks.objective.metrics}
    diverged = 0
    bar = tqdm(total=total, desc="evaluate", unit="task", disable=not progress, delay=1, leave=False)
    with torch.no_grad(), in_evaluation_mode(learner), bar:
        for judged in source(learner, tasks, range(total), seed, policy):
            for name, scores in judged.scores.items():
                values[name].append(scores.cpu().double())
            finite = [leaf.isfinite().reshape(len(leaf), -1).all(1) for leaf in tree_leaves(judged.outputs)]
            diverged += int((~torch.stack(finite).all(0)).sum())
            bar.update(len(judged.losses))
    return Score({name: torch.cat(parts) for name, parts in values.items()}, tasks.objective.metrics, diverged)


def check_learner(learner: Any) -> None:
    """Refuse what does not begin, update and predict, such as a bare network."""
    if not isinstance(learner, Learner):
        raise TypeError(f"learner must be a Learner, such as ProtoNet(net), not {learner!r:.60}.")


def check_tasks(tasks: Any) -> None:
    """Refuse what does not sample tasks and say what is good on them."""
    if not isinstance(tasks, Tasks):
        raise TypeError(
            f"tasks must be Tasks, such as ClassificationTasks, or FixedTasks(task, objective) for a batch at hand, "
            f"not {type(tasks).__name__}."
        )


def device_of(learner: Learner) -> torch.device:
    """Where a learner computes; pixels need no parameters."""
    return next((p.device for p in learner.parameters()), torch.device("cpu"))


def _sampled(learner: Learner, tasks: Tasks, numbers: range, seed: int, policy: BatchNormPolicy) -> Iterator[Judged]:
    """The tasks with these numbers, some at a time."""
    at_once = _AT_ONCE if tasks.one_shape else 1
    for part in (numbers[i : i + at_once] for i in range(0, len(numbers), at_once)):
        batch = tasks.numbered(part, seed).to(device_of(learner))
        with torch.random.fork_rng(devices=[]):  # what a learner draws by itself depends on seed and tasks alone
            seed_global_stream(seeded(seed, 2, part.start).initial_seed())
            yield learner.judged(batch, tasks.objective, batch_norm=policy)


def _embedded(learner: Any, tasks: Any, numbers: range, seed: int, policy: BatchNormPolicy) -> Iterator[Judged]:
    """The same where an image has one embedding in all tasks."""
    device = device_of(learner)
    codes = torch.cat([tasks.draw(1, seeded(seed, 1, i)) for i in numbers])
    distinct, position = codes.unique(return_inverse=True)
    z = torch.cat([_embed(learner, tasks.examples(part).to(device)) for part in distinct.split(_IMAGES_AT_ONCE)])
    for part in position.split(_AT_ONCE):
        task = Task(*(learner.embedded(*half) for half in tasks.episodes(z[part])))
        yield learner.judged(task, tasks.objective, batch_norm=policy, prepared=True)


def _embed(learner: Any, x: Any) -> Tensor:
    """Embeddings; examples that do not fit the network are refused in one sentence."""
    with learner.explained(tree_map(lambda part: part[None], Task((), Examples(x)))):
        return learner.embed(x)
