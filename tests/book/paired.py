"""What records say of paired differences, for the tests that hold sentences to them."""

import math

import torch

from mlcore.task import Task

QUANTILE = {3: 4.303, 4: 3.182, 5: 2.776}  # of Student's t, for a 95 % interval from that many seeds


def verdict(change: torch.Tensor) -> str:
    """What differences say, one a seed or one a task."""
    half = QUANTILE.get(len(change), 1.96) * change.std().item() / math.sqrt(len(change))
    return "lower" if change.mean() < -half else "higher" if change.mean() > half else "unclear"


def of_a_fixed_answer(tasks: Task) -> torch.Tensor:
    """Loss of the best answer that is one for all sine waves, eq-joint-risk, on every task."""
    answer = -5.1 / math.pi * torch.cos(tasks.query.x)
    return (answer - tasks.query.y).square().mean((1, 2)).double()
