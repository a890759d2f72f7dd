"""Networks of the few-shot literature: four convolutions, a residual network of twelve layers, a perceptron."""

from collections import OrderedDict
from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.nets.norms import BatchNorm


class SpatialMean(nn.Module):
    """[n, channels, height, width] -> [n, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


class UnitLength(nn.Module):
    """[n, *input] -> [n, features], each of length one, so that distances rank as cosines do."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x.flatten(1), dim=1)


def conv4(
    in_channels: int = 1,
    outputs: int | None = None,
    *,
    filters: int = 64,
    downsample: Literal["stride", "pool"] = "stride",
    image_size: int = 28,
    flatten: bool = False,
) -> nn.Sequential:
    """The four-block convolutional network of few-shot learning.

    Each block is a 3×3 convolution, batch normalisation and a ReLU, and halves the image: with ``"stride"`` by a
    strided convolution, and a spatial mean at the end, as in the MAML code (Finn et al., 2017); with ``"pool"`` by
    2×2 max-pooling, and flattening at the end (Vinyals et al., 2016; Snell et al., 2017).

    Args:
        in_channels: 1 for grey images, 3 for colour.
        outputs: size of a final linear layer; ``None`` returns the embedding, ``filters`` wide (at 28×28 pixels).
        filters: channels of every block, 64 for Omniglot; the MAML paper uses 32 for mini-ImageNet.
        downsample: ``"stride"`` or ``"pool"``.
        image_size: pixels a side; only the linear layer after flattening depends on it.
        flatten: flatten at the end of strided blocks, too, as in Reptile's code (Nichol et al., 2018).
    """
    if downsample not in ("stride", "pool"):
        raise ValueError(f"downsample must be 'stride' or 'pool', not {downsample!r}.")
    if image_size < 16:
        raise ValueError(f"image_size={image_size} is too small for four halvings; it must be at least 16.")
    strided = downsample == "stride"
    flatten = flatten or not strided
    size = -(-image_size // 16) if strided else image_size // 16  # at the end: strides round up, pooling down
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(4):
        convolution = nn.Conv2d(filters if i else in_channels, filters, 3, stride=2 if strided else 1, padding=1)
        block = [convolution, BatchNorm(filters), nn.ReLU()]
        layers[f"block{i + 1}"] = nn.Sequential(*block) if strided else nn.Sequential(*block, nn.MaxPool2d(2))
    layers["pool"] = nn.Flatten() if flatten else SpatialMean()
    if outputs is not None:
        layers["head"] = nn.Linear(filters * size**2 if flatten else filters, outputs)
    return nn.Sequential(layers)


def resnet12(
    in_channels: int = 3, outputs: int | None = None, *, filters: tuple[int, int, int, int] = (64, 128, 256, 512)
) -> nn.Sequential:
    """The residual network of twelve layers that meta-transfer learning pre-trains (Sun et al., 2019).

    Four blocks of three 3×3 convolutions with batch normalisation and a shortcut; each halves the image by
    max-pooling. A spatial mean ends it, so that images may have any size of 16 pixels and more.

    The paper's own network differs: its shortcuts, 1×1 convolutions, have no normalisation, and no ReLU follows their
    sum; its ReLUs are leaky, with a slope of 0.1, and its convolutions have biases. The widths are the paper's.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        outputs: size of a final linear layer; ``None`` returns the embedding, ``filters[-1]`` wide.
        filters: channels of the four blocks.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (inputs, width) in enumerate(pairwise((in_channels, *filters))):
        layers[f"block{i + 1}"] = _ResidualBlock(inputs, width)
    layers["pool"] = SpatialMean()
    if outputs is not None:
        layers["head"] = nn.Linear(filters[-1], outputs)
    return nn.Sequential(layers)


class _ResidualBlock(nn.Module):
    """relu(three convolutions of x + one 1×1 convolution of x), then 2×2 max-pooling."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [nn.Conv2d(width if i else inputs, width, 3, padding=1, bias=False), BatchNorm(width), nn.ReLU()]
        self.residual = nn.Sequential(*layers[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), BatchNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.residual(x) + self.shortcut(x)), 2)


def mlp(*sizes: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A multi-layer perceptron: ``mlp(1, 40, 40, 1)`` is the sinusoid regressor of Finn et al. (2017, section 5.1)."""
    if len(sizes) < 2:
        raise ValueError(f"mlp{sizes} needs at least an input and an output size, such as mlp(1, 40, 40, 1).")
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])
