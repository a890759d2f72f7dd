"""Masks: what is good about them, and which mask to answer with when only probabilities are known."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcore.objective import Metric, Objective

THRESHOLD = 0.3
"""Where :data:`segmentation` cuts probabilities: the threshold of the code of Michaelis et al. (2018)."""


def pixel_loss(outputs: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of a pixel, in nats: logits [n, height, width] against masks of zeros and ones."""
    _check(outputs, y)
    return F.binary_cross_entropy_with_logits(outputs, y.to(outputs.dtype))


def iou(mask: Tensor, y: Tensor) -> Tensor:
    """Intersection over union of masks [..., height, width], zeros and ones, of each by itself: [...].

    Two empty masks agree: 1.

    Derived in: Find it, outline it, :eq:`eq-find-iou`.
    """
    _check(mask, y)
    mask, y = mask.bool(), y.bool()
    both, either = ((m).flatten(-2).sum(-1) for m in (mask & y, mask | y))
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def _mean_iou(outputs: Tensor, y: Tensor, *, threshold: float) -> Tensor:
    _check(outputs, y)
    return iou(outputs.sigmoid() > threshold, y).to(outputs.dtype).mean()


def iou_at(threshold: float) -> Metric:
    """The mean over canvases of the :func:`iou` of what is more probable than ``threshold``."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} is a probability, above 0 and below 1.")
    return Metric(partial(_mean_iou, threshold=threshold))


def pooled_iou(mask: Tensor, y: Tensor) -> Tensor:
    """The :func:`iou` of all masks as if they were one: the sum of intersections over the sum of unions."""
    return iou(mask.flatten()[None], y.flatten()[None])


segmentation = Objective(pixel_loss, {"IoU": iou_at(THRESHOLD), "IoU at 1/2": iou_at(0.5)})
"""The cross-entropy of pixels to lower; the mean IoU to report, cut at 0.3 and at 1/2."""


def cut_for_pooled_iou(probabilities: Tensor) -> tuple[float, float]:
    """The threshold whose mask has the largest pooled IoU to be expected of calibrated probabilities, and that IoU J.

    The threshold is J / (1 + J), never above 1/2.

    Derived in: Find it, outline it, :eq:`eq-find-threshold`.
    """
    p = probabilities.flatten().double().sort(descending=True).values
    inside = p.cumsum(0)
    value = inside / (torch.arange(1, len(p) + 1) + inside[-1] - inside)
    best = value.max().item()
    return best / (1 + best), best


def expected_iou(probabilities: Tensor) -> Tensor:
    """E[IoU] of the k most probable pixels, for k = 0 … n: [n + 1], where pixels are independent of each other.

    O(n²): the number of pixels outside of the mask that belong to the object has a Poisson-binomial distribution.

    Derived in: Find it, outline it, :eq:`eq-find-expected`.
    """
    p = probabilities.flatten().double().sort(descending=True).values
    n = len(p)
    outside = torch.zeros(n + 1, dtype=p.dtype)  # the distribution of how many of the pixels k+1 … n are in the object
    outside[0] = 1
    found = torch.empty(n + 1, dtype=p.dtype)
    counts = torch.arange(n + 1, dtype=p.dtype)
    for k in range(n, 0, -1):
        found[k] = p[:k].sum() * (outside / (k + counts)).sum()
        moved = outside.roll(1)
        moved[0] = 0
        outside = (1 - p[k - 1]) * outside + p[k - 1] * moved
    found[0] = outside[0]  # an empty mask is right where there is no object
    return found


def best_mask(probabilities: Tensor) -> Tensor:
    """The mask with the largest E[IoU] where pixels are independent: the k most probable pixels, for the best k.

    Derived in: Find it, outline it, :eq:`eq-find-expected`.
    """
    k = int(expected_iou(probabilities).argmax())
    mask = torch.zeros(probabilities.numel())
    mask[probabilities.flatten().argsort(descending=True)[:k]] = 1
    return mask.view(probabilities.shape)


def _check(outputs: Tensor, y: Tensor) -> None:
    if outputs.shape != y.shape:
        raise ValueError(
            f"the masks said are {list(outputs.shape)} but those asked for {list(y.shape)}; "
            "resize one of them: F.interpolate(mask[:, None], size)[:, 0]."
        )
