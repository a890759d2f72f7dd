"""Scoring a learner: a mean and its 95 % interval over a fixed, seeded list of tasks."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mlcore.learners.base import BatchNormPolicy, Learner, in_evaluation_mode
from mlcore.learners.metric import MetricLearner
from mlcore.tasks import ClassificationTasks, Task, TaskDistribution, seeded

# Tasks adapted at once. It bounds memory and changes no result.
_AT_ONCE = 32
_IMAGES_AT_ONCE = 256
# Keeps evaluation's tasks apart from those that training draws with the same seed.
_STREAM = 1


@dataclass(frozen=True, repr=False)
class Score:
    """Accuracy or error (fractions) or mean squared error over tasks.

    ``ci95`` is the half-width 1.96 s/√n of the normal interval over the n tasks, the one the literature reports. It
    covers the draw of test tasks for these weights; it does not cover the draw of weights (another seed).
    """

    per_task: Tensor
    metric: str
    diverged: int = 0  # tasks on which adaptation blew up; an answer that is not a number counts as wrong

    @property
    def mean(self) -> float:
        return self.per_task.mean().item()

    @property
    def ci95(self) -> float:
        return 1.96 * self.per_task.std().item() / math.sqrt(len(self.per_task))

    def __repr__(self) -> str:
        return f"Score({self})"

    def __str__(self) -> str:
        tasks = f"{len(self.per_task)} tasks" + (f", {self.diverged} diverged" if self.diverged else "")
        if self.metric == "mse":
            return f"{self.mean:.3f} ± {self.ci95:.3f} MSE ({tasks})"
        return f"{100 * self.mean:.2f} ± {100 * self.ci95:.2f} %{' error' * (self.metric == 'error')} ({tasks})"


def evaluate(
    learner: Learner,
    tasks: TaskDistribution | Task,
    *,
    episodes: int = 600,
    seed: int = 0,
    batch_norm: BatchNormPolicy | None = None,
    progress: bool = False,
) -> Score:
    """Adapt to each of ``episodes`` tasks and score its queries.

    Task i depends on ``seed`` and i alone, so every learner that is evaluated with the same seed meets the same
    tasks, and 600 tasks begin with the first 100. A metric learner with running statistics embeds each distinct image
    of all these tasks once.

    Args:
        learner: scored in evaluation mode (``test_steps`` inner steps) and left as it was.
        tasks: a task distribution, usually of classes that no training saw; or a batch of tasks, to score just these.
        episodes: how many tasks to draw from a distribution; the papers use 600 to 10,000.
        seed: names the list of tasks.
        batch_norm: whose statistics normalise the queries, see :meth:`mlcore.learners.base.Learner.forward`; by default
            the policy of the method's paper, ``learner.batch_norm``.
        progress: show a progress bar.

    Derived in: Tasks and episodes, :eq:`eq-interval`.
    """
    check_learner(learner)
    check_tasks(tasks)
    total = len(tasks.support_x) if isinstance(tasks, Task) else episodes
    if total < 2:
        raise ValueError(f"{total} task{'s give' if total != 1 else ' gives'} no interval; use at least 2.")
    policy = batch_norm or learner.batch_norm
    # An augmented image differs from draw to draw.
    same_images = isinstance(tasks, ClassificationTasks) and tasks.augment is None
    embeds_once = isinstance(learner, MetricLearner) and policy == "running" and same_images
    source = _embedded if embeds_once else _sampled
    scores, metric, diverged = [], "", 0
    bar = tqdm(total=total, desc="evaluate", unit="task", disable=not progress)
    with torch.no_grad(), in_evaluation_mode(learner), bar:
        for outputs, query_y in source(learner, tasks, range(total), seed, policy):
            values, metric = score_tasks(outputs, query_y)
            scores.append(values.cpu())
            diverged += int((~outputs.isfinite()).flatten(1).any(1).sum())
            bar.update(len(outputs))
    return Score(torch.cat(scores), metric, diverged)


def check_learner(learner: Learner) -> None:
    """Refuse what does not adapt and predict, such as a bare network."""
    if not isinstance(learner, Learner):
        raise TypeError(f"learner must be a Learner, such as ProtoNet(net), not {learner!r:.60}.")


def check_tasks(tasks: TaskDistribution | Task) -> None:
    """Refuse what is neither a batch of tasks nor samples them."""
    if not isinstance(tasks, Task) and not hasattr(tasks, "sample"):
        raise TypeError(
            f"tasks must be a Task or sample them, as ClassificationTasks does, not {type(tasks).__name__}."
        )


def _sampled(
    learner: Learner, tasks: TaskDistribution | Task, numbers: range, seed: int, policy: BatchNormPolicy
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and labels of the tasks with these numbers, some at a time."""
    device = _device(learner)
    for part in (numbers[i : i + _AT_ONCE] for i in range(0, len(numbers), _AT_ONCE)):
        if isinstance(tasks, Task):
            batch = Task(*(tensor[part.start : part.stop] for tensor in tasks))
        else:
            batch = stack_tasks([tasks.sample(1, seeded(seed, _STREAM, i)) for i in part])
        batch = batch.to(device)
        yield learner(batch, batch_norm=policy), batch.query_y


def _embedded(
    learner: MetricLearner, tasks: ClassificationTasks, numbers: range, seed: int, policy: BatchNormPolicy
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same for a metric learner with running statistics, which has one embedding for an image in all tasks."""
    device = _device(learner)
    codes = torch.cat([tasks.draw(1, seeded(seed, _STREAM, i)) for i in numbers])
    distinct, position = codes.unique(return_inverse=True)
    z = torch.cat([learner.embed(tasks.examples(part).to(device)) for part in distinct.split(_IMAGES_AT_ONCE)])
    for part in position.split(_AT_ONCE):
        batch = tasks.episodes(z[part])
        yield learner.classify(batch.support_x, learner.targets(batch.support_y), batch.query_x), batch.query_y


def _device(learner: Learner) -> torch.device:
    return next((p.device for p in learner.parameters()), torch.device("cpu"))  # pixels need no parameters


def stack_tasks(batches: list[Task]) -> Task:
    """One batch of all the tasks in several."""
    return Task(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def score_tasks(outputs: Tensor, query_y: Tensor) -> tuple[Tensor, str]:
    """Each task's accuracy for integer labels, else its mean squared error: [tasks], and which of the two it is."""
    if query_y.is_floating_point():
        return F.mse_loss(outputs, query_y, reduction="none").flatten(1).mean(1), "mse"
    right = (outputs.argmax(-1) == query_y) & outputs.isfinite().all(-1)  # argmax takes NaN for class 0
    return right.cpu().double().mean(1), "accuracy"  # MPS has no doubles
