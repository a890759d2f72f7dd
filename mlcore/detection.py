"""Boxes: which of those found are right, and how good a ranked list of them is."""

from typing import NamedTuple

import torch
from torch import Tensor

from mlcore.objective import Metric, Objective

OVERLAP = 0.5
"""The least intersection over union of a box that is right, as in PASCAL VOC (Everingham et al., 2010)."""

NO_BOX = -1e6
"""The score of a place in :class:`Found` that holds no box; pictures differ in how many they have."""


class Found(NamedTuple):
    """Boxes (left, top, right, bottom) in pixels, the surest of each picture first."""

    boxes: Tensor  # [pictures, boxes, 4]
    scores: Tensor  # [pictures, boxes], 1 for what was marked, 0 for what was not; far below them where there is no box


def check_boxes(boxes: Tensor, height: int, width: int) -> None:
    """Refuse boxes [n, 4] (left, top, right, bottom) that are empty or not within their picture."""
    for left, top, right, bottom in boxes.tolist():
        box = f"the box ({left:g}, {top:g}, {right:g}, {bottom:g})"
        if not (0 <= left and 0 <= top and right <= width and bottom <= height):
            raise ValueError(f"{box} is not within its picture of {width} × {height} pixels; clip it, or scale both.")
        if left >= right or top >= bottom:
            raise ValueError(f"{box} is empty; give left, top, right, bottom, in this order.")


def overlaps(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each box a [n, 4] with each box b [m, 4]: [n, m]."""
    low, high = torch.maximum(a[:, None, :2], b[:, :2]), torch.minimum(a[:, None, 2:], b[:, 2:])
    both = (high - low).clamp(min=0).prod(-1)
    areas = [(box[:, 2:] - box[:, :2]).prod(-1) for box in (a, b)]
    return both / (areas[0][:, None] + areas[1] - both)


def without_doubles(boxes: Tensor, most: float) -> Tensor:
    """Which of a picture's boxes [n, 4], the surest first, stay when none may overlap a surer one more than ``most``.

    Non-maximum suppression: [n], true or false.
    """
    close = (overlaps(boxes, boxes) > most).tril(-1)
    stays = torch.ones(len(boxes), dtype=torch.bool)
    for i in range(len(boxes)):
        stays[i] = not (close[i] & stays).any()
    return stays


def right_ones(boxes: Tensor, truth: Tensor, overlap: float = OVERLAP) -> Tensor:
    """Which of a picture's boxes [n, 4], the surest first, are right: [n].

    Each takes the true box [m, 4] that it overlaps most of those that no surer one took; so an object that is found
    twice is found once, and wrongly once.
    """
    free, hits = overlaps(boxes, truth), torch.zeros(len(boxes), dtype=torch.bool)
    for i in range(len(boxes) if len(truth) else 0):
        best = int(free[i].argmax())
        if free[i, best] >= overlap:
            hits[i] = True
            free[:, best] = -1
    return hits


def average_precision(scores: Tensor, hits: Tensor, positives: int) -> float:
    """AP = Σ_i (R_i - R_{i-1}) P_i over the scores in falling order, equal ones together; from 0 to 1.

    Args:
        scores: of what was found, in all pictures: [n].
        hits: whether it is right [n].
        positives: how many there are to be found. Those that were not found end the sum early.

    Raises:
        ValueError: nothing to be found, or more hits than that.

    Derived in: Find it, outline it, :eq:`eq-find-ap`.
    """
    if positives < 1 or int(hits.sum()) > positives:
        raise ValueError(f"positives={positives} objects cannot have {int(hits.sum())} hits; count all of them.")
    order = scores.argsort(descending=True, stable=True)
    ranked, right = scores[order], hits[order].double().cumsum(0)
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(min(1, len(ranked)), dtype=torch.bool)])
    found, listed = right[last], (torch.arange(len(ranked)) + 1)[last]
    gained = found.diff(prepend=found.new_zeros(1))
    return (gained * found / listed).sum().item() / positives


def precision_of(outputs: Found, y: Tensor) -> Tensor:
    """The :func:`average_precision` over all pictures of a task; targets [pictures, most, 4], NaN where none."""
    hits, positives = [], 0
    for boxes, scores, truth in zip(outputs.boxes, outputs.scores, y, strict=True):
        real = truth[~truth.isnan().any(-1)]
        positives += len(real)
        hits.append(right_ones(boxes[scores > NO_BOX], real))
    scores = torch.cat([s[s > NO_BOX] for s in outputs.scores])
    return torch.tensor(average_precision(scores, torch.cat(hits), positives))


def counting_error(outputs: Found, y: Tensor) -> Tensor:
    """The mean over pictures of how far the number of boxes with a score above 1/2 is from the right number."""
    said = (outputs.scores > 0.5).sum(1)
    return (said - (~y.isnan().any(-1)).sum(1)).abs().float().mean()


def _miss(outputs: Found, y: Tensor) -> Tensor:
    return 1 - precision_of(outputs, y)


detection = Objective(
    _miss, {"AP": Metric(precision_of), "counting error": Metric(counting_error, higher_is_better=False, percent=False)}
)
"""Average precision, and the error of a count. The loss, 1 - AP, has no gradient: for learners without training."""
