"""U-Net: down to an eighth of the resolution and back, with a look at what was seen on the way (Ronneberger, 2015)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class UNet(nn.Module):
    """Pictures [n, channels, height, width] to features [n, widths[0], height, width].

    Sides are multiples of 8. Where the original concatenates features of one resolution, here they are added.
    Normalisation is over the features of one place, so that no picture sees another and no place another: a drawing has
    the same features on an empty page and on a full one.

    Args:
        channels: of a picture.
        widths: features at full, half, quarter and eighth resolution.
    """

    def __init__(self, channels: int = 3, widths: tuple[int, int, int, int] = (16, 32, 48, 64)) -> None:
        super().__init__()
        self.widths = widths
        self.down = nn.ModuleList(block(a, b) for a, b in pairwise((channels, *widths)))
        self.bottom = block(widths[-1], widths[-1])
        self.up = nn.ModuleList(block(a, b) for a, b in pairwise(widths[::-1]))
        self.last = block(widths[0], widths[0])

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features of the lowest resolution, and those of the others, the highest first."""
        if x.shape[-1] % 8 or x.shape[-2] % 8:
            raise ValueError(f"a picture of {x.shape[-2]} × {x.shape[-1]} pixels needs sides that are multiples of 8.")
        seen, z = [], x
        for i, layer in enumerate(self.down):
            z = layer(F.avg_pool2d(z, 2) if i else z)
            seen.append(z)
        return self.bottom(z), seen[:-1]

    def decode(self, z: Tensor, seen: list[Tensor]) -> Tensor:
        """Features of full resolution, from what :meth:`encode` gives."""
        for layer, finer in zip(self.up, reversed(seen), strict=True):
            z = F.interpolate(layer(z), scale_factor=2, mode="nearest") + finer
        return self.last(z)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(*self.encode(x))


class FeatureNorm(nn.Module):
    """Features of each place [n, features, height, width] over their root mean square, times a learned scale."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5) * self.weight[:, None, None]


def block(inputs: int, outputs: int, size: int = 3) -> nn.Sequential:
    """A convolution, a normalisation over the features of each place, and a ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, size, padding=size // 2), FeatureNorm(outputs), nn.ReLU())
