"""More metrics: for an objective, and of a test set in its own class names.

``tasks.objective._replace(metrics={"accuracy": Metric(accuracy), "calibration error": calibration_error()})`` reports
both, and the first chooses the best weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlcore.objective import Metric, hits, logits


def top_k(k: int) -> Metric:
    """The share of queries whose class is among the ``k`` largest logits."""
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}.")

    def among(outputs: Tensor, y: Tensor) -> Tensor:
        asked = logits(outputs, y)
        if k > asked.shape[-1]:
            raise ValueError(f"k={k}, but a task has only {asked.shape[-1]} ways; lower k.")
        found = (asked.topk(k).indices == y.argmax(-1)[:, None]).any(-1)
        return (found & asked.isfinite().all(-1)).to(y.dtype).mean()

    return Metric(among)


def reliability(outputs: Tensor, y: Tensor, bins: int = 10) -> Tensor:
    """A reliability diagram of one task's softmax, as sums that a mean over tasks pools: [bins, 3].

    Row b is about the queries whose largest probability is in the b-th of equal pieces of [0, 1]: their share of all
    queries, that of the rightly answered among them, and their summed confidence, both over all queries too. So after
    a mean over tasks of one size, column 1 over column 0 is the accuracy in a bin, and column 2 over column 0 its mean
    confidence (Guo et al., 2017).

    Derived in: Knowing what it does not know, :eq:`eq-ece`.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}.")
    confidence = logits(outputs, y).softmax(-1).amax(-1)
    values = torch.stack([torch.ones_like(confidence), hits(outputs, y), confidence], -1)
    part = (confidence * bins).ceil().clamp(1, bins)  # the upper end belongs to a bin, as in the paper
    within = part[:, None] == torch.arange(1, bins + 1, device=y.device)
    return within.to(values.dtype).mT @ values / len(y)


def calibration_error(bins: int = 15) -> Metric:
    """The expected calibration error of a softmax: Σ_b n_b / n · abs(accuracy_b - confidence_b).

    Part b holds the n_b queries whose largest probability is in the b-th of ``bins`` equal pieces of [0, 1] (Guo et
    al., 2017, equation 3). Of one task it has a bias upwards, since a part holds few queries: compare it at equal
    numbers of queries, or pool tasks by :func:`reliability`.

    Derived in: Knowing what it does not know, :eq:`eq-ece`.
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, not {bins}.")

    def error(outputs: Tensor, y: Tensor) -> Tensor:
        table = reliability(outputs, y, bins)
        return (table[:, 1] - table[:, 2]).abs().sum()

    return Metric(error, higher_is_better=False)


def brier_score(outputs: Tensor, y: Tensor) -> Tensor:
    """The mean squared distance between a softmax and the one-hot truth, Σ_k (p_k - y_k)², from 0 to 2 (Brier, 1950).

    Derived in: Knowing what it does not know, :eq:`eq-brier`.
    """
    asked = logits(outputs, y)
    return (asked.softmax(-1) - y.to(asked.dtype)).square().sum(-1).mean()


def auroc(positive: Tensor, negative: Tensor) -> float:
    """The area under the ROC curve: how often a positive's score is above a negative's, a tie counting one half.

    Args:
        positive, negative: scores [n] and [m] of both kinds, such as of images with and without a known class.

    Derived in: Knowing what it does not know, :eq:`eq-auroc`.
    """
    if not (positive.numel() and negative.numel()):
        raise ValueError(f"auroc needs scores of both kinds, not {positive.numel()} and {negative.numel()}.")
    ordered = negative.flatten().sort().values
    below, up_to = (torch.searchsorted(ordered, positive.flatten(), right=right).double() for right in (False, True))
    return ((below + up_to).mean() / 2 / negative.numel()).item()


def confusion_matrix(predicted: Any, names: Any, classes: Sequence[Any]) -> Tensor:
    """How often an example of class i was given class j: counts [classes, classes].

    Args:
        predicted: names, as :meth:`mlcore.AdaptedModel.predict` gives them, or outputs [n, classes].
        names: the right ones, in a list, an array or a tensor.
        classes: all names in the order of the matrix, such as ``model.classes``.
    """
    position = {name: i for i, name in enumerate(classes)}
    if isinstance(predicted, Tensor) and predicted.is_floating_point():
        if predicted.dim() != 2 or predicted.shape[1] != len(classes):
            raise ValueError(f"outputs must be [n, {len(classes)} classes], not {list(predicted.shape)}.")
        predicted = [classes[i] for i in predicted.argmax(-1).tolist()]
    right, given = (_positions(values, position) for values in (names, predicted))
    if len(right) != len(given):
        raise ValueError(f"there are {len(given)} predictions but {len(right)} names; they must be equally many.")
    counts = torch.bincount(right * len(classes) + given, minlength=len(classes) ** 2)
    return counts.view(len(classes), len(classes))


def _positions(names: Any, position: dict[Any, int]) -> Tensor:
    names = names.tolist() if isinstance(names, Tensor | np.ndarray) else list(names)
    unknown = next((name for name in names if name not in position), None)
    if unknown is not None:
        raise ValueError(f"{unknown!r} is none of the {len(position)} classes, such as {next(iter(position))!r}.")
    return torch.tensor([position[name] for name in names], dtype=torch.int64)


class ClassReport(NamedTuple):
    """How one class was recognised."""

    precision: float  # of the examples given this class, the share that are of it; not a number if there are none
    recall: float  # of the examples of this class, the share that was given it
    f1: float  # the harmonic mean of both
    examples: int


def per_class_report(predicted: Any, names: Any, classes: Sequence[Any]) -> dict[Any, ClassReport]:
    """Precision, recall and F₁ of every class of a test set; arguments as for :func:`confusion_matrix`."""
    matrix = confusion_matrix(predicted, names, classes).double()
    right, given, there = matrix.diag(), matrix.sum(0), matrix.sum(1)
    table = torch.stack([right / given, right / there, 2 * right / (given + there), there], 1).tolist()
    return {
        name: ClassReport(precision, recall, f1, int(count))
        for name, (precision, recall, f1, count) in zip(classes, table, strict=True)
    }
