"""What "good" means on a task, as a value that comes with the tasks: a loss, and metrics with their direction and unit.

Functions here see *one* task: outputs and targets, any tensors, and give one number; a metric may give several, such as
one for each class, or for each moment of a stream.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Metric(NamedTuple):
    """A number to report, and how to read it."""

    of: Callable[[Any, Any], Tensor]  # outputs and targets of one task -> a number, or several
    higher_is_better: bool = True
    percent: bool = True  # a fraction, printed in per cent

    def better(self, a: float, b: float) -> bool:
        """Whether ``a`` is better than ``b``; anything is better than what is not a number."""
        return b != b or (a > b if self.higher_is_better else a < b)


class Objective(NamedTuple):
    """The loss that meta-training lowers, and the metrics: the first chooses the best weights, all are recorded."""

    loss: Callable[[Any, Any], Tensor]
    metrics: dict[str, Metric]

    @property
    def main(self) -> str:
        """The name of the metric that chooses."""
        return next(iter(self.metrics))


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of logits [n, outputs] against one-hot rows [n, ways].

    A network may have more outputs than a task has ways; those beyond are left out.
    """
    return _of_classes(F.cross_entropy, outputs, y)


def checked(loss_fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same loss; torch's cross-entropies, which take any floats for rows of classes, with the checks of ours."""
    torchs = loss_fn is F.cross_entropy or isinstance(loss_fn, nn.CrossEntropyLoss)
    return partial(_of_classes, loss_fn) if torchs else loss_fn


def _of_classes(loss_fn: Callable[..., Tensor], outputs: Tensor, y: Tensor) -> Tensor:
    asked = logits(outputs, y)
    if y.shape[-1] == 1:  # the loss would be 0, whatever the outputs
        raise ValueError(
            f"cross-entropy needs two ways or more, not targets {list(y.shape)}; "
            "give regression tasks a regression loss: loss_fn=mse."
        )
    return loss_fn(asked, y.to(asked.dtype))


def logits(outputs: Tensor, y: Tensor) -> Tensor:
    """The first ``ways`` outputs of each row, in y's precision.

    Raises:
        TypeError: targets that are labels.
        ValueError: fewer outputs than ways.
    """
    if not y.is_floating_point():
        raise TypeError(f"class targets must be one-hot rows of floats [n, ways], not {y.dtype}; write rows(labels).")
    if outputs.dim() != y.dim() or len(outputs) != len(y) or outputs.shape[-1] < y.shape[-1]:
        raise ValueError(
            f"the learner gives outputs {list(outputs.shape)} but the task needs {list(y.shape)}; build the network "
            "with outputs equal to the ways, and give regression tasks a regression loss: loss_fn=mse."
        )
    outputs = outputs[..., : y.shape[-1]]
    return outputs.to(torch.promote_types(outputs.dtype, y.dtype))


def mse(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of outputs and targets of one shape."""
    if outputs.shape != y.shape:
        raise ValueError(
            f"the network gives outputs {list(outputs.shape)} but the targets are {list(y.shape)}; "
            "build it with outputs equal to the size of a target."
        )
    dtype = torch.promote_types(outputs.dtype, y.dtype)
    return F.mse_loss(outputs.to(dtype), y.to(dtype))


def hits(outputs: Tensor, y: Tensor) -> Tensor:
    """1 where the largest logit is the right one, else 0: [n]. An answer that is not a number counts as wrong."""
    asked = logits(outputs, y)
    right = (asked.argmax(-1) == y.argmax(-1)) & asked.isfinite().all(-1)  # argmax takes NaN for class 0
    return right.to(y.dtype)


def accuracy(outputs: Tensor, y: Tensor) -> Tensor:
    """The share of right answers."""
    return hits(outputs, y).mean()


def accuracy_by_class(outputs: Tensor, y: Tensor) -> Tensor:
    """The share of right answers for each class: [ways]; not a number for a class that is never asked."""
    return (hits(outputs, y)[:, None] * y).sum(0) / y.sum(0)


classification = Objective(cross_entropy, {"accuracy": Metric(accuracy)})
"""Cross-entropy and accuracy."""

regression = Objective(mse, {"mse": Metric(mse, higher_is_better=False, percent=False)})
"""Mean squared error, both to lower and to report."""
