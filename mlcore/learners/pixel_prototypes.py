"""A prototype for the object and one for the rest, compared with every pixel (Wang et al., 2019, PANet)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets.unet import UNet
from mlcore.task import Examples


class PixelPrototypes(Learner):
    """A Prototypical Network whose examples are pixels: two classes, the object and the rest.

    The prototypes are means of features under the mask and beside it; the logit of a pixel is the difference of its
    cosines to the two, times a learned scale that starts at 20, the paper's (Wang et al., 2019, equations 1 to 3).

    Args:
        net: pictures to features of each pixel.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: Find it, outline it, :eq:`eq-find-prototypes`.
    """

    def __init__(self, net: UNet, *, mapping: Mapping = "vmap") -> None:
        super().__init__(mapping=mapping)
        self.net = net
        self.turn = nn.Conv2d(net.widths[0], net.widths[0], 1)  # a block ends in a ReLU, and angles need both signs
        self.scale = nn.Parameter(torch.tensor(20.0))

    def begin(self) -> tuple[Tensor, Tensor]:
        """No pixel: sums of features [2, features], and how many pixels they are [2, 1]."""
        return self.scale.new_zeros(2, self.net.widths[0]), self.scale.new_zeros(2, 1)

    def update(self, state: tuple[Tensor, Tensor], data: Examples) -> tuple[Tensor, Tensor]:
        """Add the pixels of pictures x [n, channels, height, width] with masks y [n, height, width]."""
        z = self.turn(self.net(data.x))
        parts = torch.stack([data.y, 1 - data.y]).to(z.dtype)
        return state[0] + torch.einsum("pnhw,nchw->pc", parts, z), state[1] + parts.sum((1, 2, 3))[:, None]

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Tensor:
        """Logits [n, height, width] of the mask in each picture x [n, channels, height, width]."""
        prototypes = F.normalize(state[0] / state[1].clamp(min=1), dim=-1)
        z = F.normalize(self.turn(self.net(x)), dim=1)
        inside, outside = torch.einsum("pc,nchw->pnhw", prototypes, z)
        return self.scale * (inside - outside)
