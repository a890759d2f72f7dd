"""Cells by their colour: a direction of colours, and peaks of it that are as large as the marked cells."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcore.detection import NO_BOX, Found, check_boxes, without_doubles
from mlcore.learner import Learner
from mlcore.task import Examples

_RIDGE = 1e-3  # on the covariance of colours from 0 to 1
_MOST = 48  # boxes of a picture
_APART = 0.3  # the most that two boxes of one picture overlap


class Colours(NamedTuple):
    """Sums over the pixels seen, inside and outside of marked boxes."""

    sums: Tensor  # [2, 3]
    pixels: Tensor  # [2, 1]
    products: Tensor  # [3, 3]
    sides: Tensor  # [2], summed heights and widths of the boxes
    boxes: Tensor  # how many


class ColourBlobs(Learner):
    """Boxes of the marked cells' mean size, where the mean colour is most like theirs within, and least around.

    The direction of colours is w = C⁻¹ (m₁ - m₀), with the means inside and outside of the marked boxes and the
    covariance C around them: the matched filter in noise that has a colour, or Fisher's discriminant. Nothing is
    meta-learned.

    Args:
        direction: of red, green and blue, known beforehand in place of w, such as (0.5, -1, 0.5) for violet.

    Derived in: Find it, outline it, :eq:`eq-find-whitened`.
    """

    def __init__(self, direction: tuple[float, float, float] | None = None) -> None:
        super().__init__(mapping="loop")  # marked cells differ in size
        self.direction = direction

    def begin(self) -> Colours:
        """No pixel."""
        return Colours(*(torch.zeros(size, dtype=torch.float64) for size in ((2, 3), (2, 1), (3, 3), (2,), ())))

    def update(self, state: Colours, data: Examples) -> Colours:
        """Add pictures x [n, 3, height, width] with one marked box each, y [n, 4] (left, top, right, bottom)."""
        check_boxes(data.y, *data.x.shape[-2:])
        inside = torch.stack([_ellipse(box, *data.x.shape[-2:]) for box in data.y])
        x = data.x.double()  # a covariance is a difference of large sums
        parts = torch.stack([~inside, inside]).to(x.dtype)
        sides = torch.stack([data.y[:, 3] - data.y[:, 1], data.y[:, 2] - data.y[:, 0]])
        return Colours(
            state.sums + torch.einsum("pnhw,nchw->pc", parts, x),
            state.pixels + parts.sum((1, 2, 3))[:, None],
            state.products + torch.einsum("nahw,nbhw->ab", x, x),
            state.sides + sides.sum(1),
            state.boxes + len(data.y),
        )

    def predict(self, state: Colours, x: Any) -> Found:
        """Boxes and their scores for each picture x [n, 3, height, width]."""
        w = self.direction_of(state)
        outside, inside = (state.sums / state.pixels @ w).to(x.dtype)
        like = (torch.einsum("c,nchw->nhw", w.to(x.dtype), x) - outside) / (inside - outside)
        height, width = (max(3, int(side) // 2 * 2 + 1) for side in (state.sides / state.boxes).round())
        within, wide = (
            _along(F.avg_pool1d, like, k * height + k - 1, k * width + k - 1, count_include_pad=False) for k in (1, 2)
        )
        blurred = (within - wide) * 4 / 3  # a wide window is a quarter cell, three quarters of what is around it
        near = (max(1, side // 4) * 2 + 1 for side in (height, width))
        highest = _along(F.max_pool1d, blurred, *near) == blurred
        return _boxes(blurred.masked_fill(~highest, -torch.inf), height, width)

    def direction_of(self, state: Colours) -> Tensor:
        """w, of red, green and blue: [3]."""
        means = state.sums / state.pixels
        if self.direction is not None:
            return means.new_tensor(self.direction)
        around = state.products - torch.einsum("pa,pb->ab", means * state.pixels, means)
        covariance = around / state.pixels.sum() + _RIDGE * torch.eye(3, dtype=around.dtype)
        return torch.linalg.solve(covariance, means[1] - means[0])


def _along(pool: Callable[..., Tensor], x: Tensor, height: int, width: int, **options: Any) -> Tensor:
    """A pooling over windows of odd sides, at every place of pictures [n, rows, columns]: along rows, then columns."""
    x = pool(x, width, 1, width // 2, **options)
    return pool(x.mT, height, 1, height // 2, **options).mT


def _boxes(peaks: Tensor, height: int, width: int) -> Found:
    """The highest of the peaks [n, rows, columns] as boxes of one size, cut at the edges; none overlap much."""
    rows, columns = peaks.shape[1:]
    scores, place = peaks.flatten(1).topk(min(4 * _MOST, rows * columns))
    y, x = place // columns, place % columns
    sides = (x - width / 2 + 0.5, y - height / 2 + 0.5, x + width / 2 + 0.5, y + height / 2 + 0.5)
    boxes = torch.stack([s.clamp(0, end) for s, end in zip(sides, (columns, rows) * 2, strict=True)], -1)
    found, sure = peaks.new_zeros(len(peaks), _MOST, 4), peaks.new_full((len(peaks), _MOST), NO_BOX)
    for i in range(len(peaks)):
        kept = (without_doubles(boxes[i], _APART) & scores[i].isfinite()).nonzero()[:_MOST, 0]
        found[i, : len(kept)], sure[i, : len(kept)] = boxes[i, kept], scores[i, kept]
    return Found(found, sure)


def _ellipse(box: Tensor, height: int, width: int) -> Tensor:
    """The pixels [height, width] of the ellipse in a box: a cell leaves its box's corners."""
    left, top, right, bottom = box
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    across = (x - (left + right) / 2) / (right - left) * 2
    along = (y - (top + bottom) / 2) / (bottom - top) * 2
    return across.square() + along.square() < 1
