"""Siamese U-Net: what the support drawing looks like, looked for at every place (Michaelis, Bethge and Ecker, 2018)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets.unet import UNet, block
from mlcore.task import Examples


class SiameseUNet(Learner):
    """One encoder reads the support drawings and the canvas; where their features agree, a decoder outlines the mask.

    The code c is the mean of a drawing's features at an eighth of the resolution, weighted by its mask; of several
    drawings, the mean of their codes. Each place of the canvas has features f(x). The decoder is given f(x) and their
    product with c, feature by feature, and on its way back to full resolution looks at the finer features again.

    The paper gives the decoder the product ⟨f(x), c⟩ c alone, has 48 to 384 features, an encoder for each of the two
    and no mask.

    Args:
        net: encodes drawings and canvases, and decodes.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: Find it, outline it, :eq:`eq-find-siamese`.
    """

    def __init__(self, net: UNet, *, mapping: Mapping = "vmap") -> None:
        super().__init__(mapping=mapping)
        self.net = net
        code = net.widths[-1]
        self.compare = nn.Conv2d(code, code, 1)
        self.join = nn.Sequential(block(2 * code, code, size=1), block(code, code))
        self.head = nn.Conv2d(net.widths[0], 1, 1, bias=False)
        self.bias = nn.Parameter(torch.tensor(-4.0))  # masks are small
        self.scale = nn.Parameter(torch.tensor(10.0))

    def begin(self) -> tuple[Tensor, Tensor]:
        """No drawing: a sum of no codes."""
        like = self.head.weight
        return like.new_zeros(self.net.widths[-1]), like.new_zeros(())

    def update(self, state: tuple[Tensor, Tensor], data: Examples) -> tuple[Tensor, Tensor]:
        """Add the codes of drawings x [n, 3, height, width] with masks y [n, height, width], and their number."""
        z = self._compared(data.x)[0]
        share = F.avg_pool2d(data.y[:, None].to(z.dtype), 8)
        share = share / share.sum((-2, -1), keepdim=True).clamp(min=1e-6)
        return state[0] + F.normalize((z * share).sum((2, 3)), dim=1).sum(0), state[1] + len(z)

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Tensor:
        """Logits [n, height, width] of the mask in each canvas x [n, 3, height, width]."""
        z, plain, seen = self._compared(x)
        code = (state[0] / state[1].clamp(min=1))[:, None, None]
        alike = F.normalize(z, dim=1) * code
        outline = self.head(self.net.decode(self.join(torch.cat([self.scale * alike, plain], 1)), seen))
        where = F.interpolate(self.scale * alike.sum(1, keepdim=True), size=x.shape[-2:], mode="bilinear")
        return (outline + where)[:, 0] + self.bias

    def _compared(self, x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        plain, seen = self.net.encode(x)
        return self.compare(plain), plain, seen
