"""One colour, one thing: cut a canvas by its colours, and compare each piece with the support drawing."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learner import Learner
from mlcore.task import Examples

_SIZE = 28
_LEVELS = 64  # of each colour channel that count as different
_PIXELS = 6  # a piece of fewer is none


class CutByColour(Learner):
    """Pieces are the sets of pixels of one colour; the piece whose shape is most like the support's mask is the answer.

    Shapes are compared by the cosine between embeddings of their ink, cropped and brought to 28 × 28 pixels. A piece is
    as likely as exp(scale · cosine), and a pixel as its piece. Where pictures have no flat colours, pieces are crumbs
    and nothing is found.

    Args:
        net: embeds ink [n, 1, 28, 28]; by default its pixels, blurred, so that only the scale is learned.

    Derived in: Find it, outline it, :eq:`eq-find-pieces`.
    """

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__(mapping="loop")  # canvases differ in how many pieces they have
        self.net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten()) if net is None else net
        self.scale = nn.Parameter(torch.tensor(20.0))

    def begin(self) -> tuple[Tensor, Tensor]:
        """No shape."""
        return self.scale.new_zeros(()), self.scale.new_zeros(())

    def update(self, state: tuple[Tensor, Tensor], data: Examples) -> tuple[Tensor, Tensor]:
        """Add the embeddings of masks y [n, height, width], each of length one, and their number."""
        return state[0] + self._embedded(data.y > 0.5).sum(0), state[1] + len(data.y)

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Tensor:
        """Logits [n, height, width] of the mask in each canvas x [n, channels, height, width]."""
        cut = [pieces(canvas) for canvas in x]
        shapes = self._embedded(torch.cat(cut)).split([len(part) for part in cut])
        known = F.normalize(state[0], dim=0)
        odds = []
        for part, z in zip(cut, shapes, strict=True):
            likely = (self.scale * z @ known).softmax(0) @ part.flatten(1).to(z.dtype)
            odds.append(torch.logit(likely.clamp(1e-4, 1 - 1e-4)).view(x.shape[-2:]))
        return torch.stack(odds)

    def _embedded(self, masks: Tensor) -> Tensor:
        return F.normalize(self.net(cropped(masks).to(self.scale.dtype)), dim=1)


def pieces(canvas: Tensor) -> Tensor:
    """Sets of pixels of one colour, on black paper, of a canvas [channels, height, width]: [pieces, height, width]."""
    levels = (canvas * _LEVELS).round().long().clamp(0, _LEVELS)
    code = (levels * (_LEVELS + 1) ** torch.arange(len(levels), device=canvas.device)[:, None, None]).sum(0)
    colours, count = code.unique(return_counts=True)
    return code == colours[(colours > 0) & (count >= _PIXELS)][:, None, None]


def cropped(masks: Tensor) -> Tensor:
    """Each mask [n, height, width] cropped to its box, which is stretched to a square: [n, 1, 28, 28], from 0 to 1."""
    shapes = masks.new_zeros(len(masks), 1, _SIZE, _SIZE, dtype=torch.float32)
    for shape, mask in zip(shapes, masks, strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        if len(rows):
            box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].float()
            shape[0] = F.interpolate(box[None, None], size=(_SIZE, _SIZE), mode="bilinear", antialias=True)[0, 0]
    return shapes
