"""Scoring a learner: a mean and its 95 % interval over a fixed, seeded list of tasks."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mlcore.learners.base import BatchNormPolicy, Learner
from mlcore.tasks import Task, TaskDistribution, seeded

# Tasks adapted at once. It bounds memory and changes no result.
_AT_ONCE = 32
# Keeps evaluation's tasks apart from those that training draws with the same seed.
_STREAM = 1


@dataclass(frozen=True)
class Score:
    """Accuracy (a fraction) or mean squared error over tasks.

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

    def __str__(self) -> str:
        tasks = f"{len(self.per_task)} tasks" + (f", {self.diverged} diverged" if self.diverged else "")
        if self.metric == "accuracy":
            return f"{100 * self.mean:.2f} ± {100 * self.ci95:.2f} % ({tasks})"
        return f"{self.mean:.3f} ± {self.ci95:.3f} MSE ({tasks})"


def evaluate(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    episodes: int = 600,
    seed: int = 0,
    batch_norm: BatchNormPolicy = "transductive",
    progress: bool = False,
) -> Score:
    """Adapt to each of ``episodes`` tasks and score its queries.

    Task i depends on ``seed`` and i alone, so every learner that is evaluated with the same seed meets the same
    tasks, and 600 tasks begin with the first 100.

    Args:
        learner: scored in evaluation mode (``test_steps`` inner steps) and left as it was.
        tasks: a task distribution, usually of classes that no training saw.
        episodes: how many tasks; the papers use 600 to 10,000.
        seed: names the list of tasks.
        batch_norm: whose statistics normalise the queries; see :meth:`mlcore.learners.base.Learner.forward`.
        progress: show a progress bar.

    Derived in: Tasks and episodes, :eq:`eq-interval`.
    """
    if episodes < 2:
        raise ValueError(f"episodes={episodes} gives no interval; use at least 2.")
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))  # pixels need no parameters
    was_training = learner.training
    learner.eval()
    scores, metric, diverged = [], "", 0
    try:
        with torch.no_grad(), tqdm(total=episodes, desc="evaluate", unit="task", disable=not progress) as bar:
            for start in range(0, episodes, _AT_ONCE):
                numbers = range(start, min(start + _AT_ONCE, episodes))
                batch = stack_tasks([tasks.sample(1, seeded(seed, _STREAM, i)) for i in numbers]).to(device)
                outputs = learner(batch, batch_norm=batch_norm)
                values, metric = score_tasks(outputs, batch.query_y)
                scores.append(values.cpu())
                diverged += int((~outputs.isfinite()).flatten(1).any(1).sum())
                bar.update(len(numbers))
    finally:
        learner.train(was_training)
    return Score(torch.cat(scores), metric, diverged)


def stack_tasks(batches: list[Task]) -> Task:
    """One batch of all the tasks in several."""
    return Task(*(torch.cat(parts) for parts in zip(*batches, strict=True)))


def score_tasks(outputs: Tensor, query_y: Tensor) -> tuple[Tensor, str]:
    """Each task's accuracy for integer labels, else its mean squared error: [tasks], and which of the two it is."""
    if query_y.is_floating_point():
        return F.mse_loss(outputs, query_y, reduction="none").flatten(1).mean(1), "mse"
    right = (outputs.argmax(-1) == query_y) & outputs.isfinite().all(-1)  # argmax takes NaN for class 0
    return right.double().mean(1), "accuracy"
