"""Networks of the few-shot literature, and batch normalisation that survives being differentiated twice.

``nn.BatchNorm2d``, ``nn.InstanceNorm2d`` and ``nn.LayerNorm`` under ``torch.vmap`` give wrong second derivatives
without a warning, so batch normalisation is a layer of our own here and the others are refused (chapter *MAML from
first principles* shows the trap). It also lets a caller name where its statistics come from, which moves published
accuracies by tens of points (chapter *MAML on Omniglot*).
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.batch_norm import batch_norm

Source = Literal["batch", "running"] | int | None
# Numbers in one task's layer from which a kernel's speed outweighs what calling it under vmap costs.
_LARGE = 2**15


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) over [n, features, ...], with derivatives that we checked.

    ``source`` says which statistics normalise: ``"batch"``, those of all rows; an integer k, those of the first k rows;
    ``"running"``, the averages kept in the buffers; ``None``, as torch does: the batch's in training mode, which also
    updates the buffers, and the buffers' in evaluation mode. For the last two torch's own layer does the work:
    constants as statistics leave nothing to get wrong, and the buffers' update is refused under ``vmap``. Elsewhere it
    is plain arithmetic, or :func:`mlcore.batch_norm.batch_norm` in large layers and where no transform
    of ``torch.func`` is at work.

    Derived in: MAML on Omniglot, :eq:`eq-batch-norm`.
    """

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))
        self.source: Source = None
        self.batch_statistics: tuple[Tensor, Tensor] | None = None  # of the last forward pass over a batch

    def forward(self, x: Tensor) -> Tensor:
        if self.source is None or self.source == "running":
            statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
            update = self.training and self.source is None
            return F.batch_norm(x, *statistics, *affine, update, self.momentum, self.eps)
        rows = x if self.source == "batch" else x[: self.source]
        count = rows.numel() // rows.shape[1]
        mapped = transformed()
        if self.source == "batch" and (x.numel() >= _LARGE or not mapped):
            y, mean, var = batch_norm(x, self.weight, self.bias, self.eps, mapped=mapped)
        else:
            over, shape = (0, *range(2, x.dim())), (1, -1) + (1,) * (x.dim() - 2)
            x, rows = x.to(self.weight.dtype), rows.to(self.weight.dtype)  # sums want more digits than bfloat16 has
            mean = rows.mean(over)
            centred = x - mean.view(shape)
            var = centred[: len(rows)].square().mean(over)  # torch.var_mean takes several times as long on a CPU
            y = centred * (self.weight * torch.rsqrt(var + self.eps)).view(shape) + self.bias.view(shape)
        self.batch_statistics = (mean.detach(), var.detach() * (count / max(count - 1, 1)))
        return y

    def __getstate__(self) -> dict:
        # Under vmap they are tensors that live only as long as it does: a copy or a saved file is made without them.
        return self.__dict__ | {"batch_statistics": None}

    @torch.no_grad()
    def update_running(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards a batch's mean and (unbiased) variance."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


def transformed() -> bool:
    """Whether this runs within a transform of ``torch.func``, such as ``vmap``; torch has no public way to ask."""
    return torch._C._are_functorch_transforms_active()


def batch_norms(net: nn.Module) -> list[BatchNorm]:
    """The batch normalisation layers of a network."""
    return [module for module in net.modules() if isinstance(module, BatchNorm)]


@contextmanager
def statistics_from(net: nn.Module, source: Source) -> Iterator[None]:
    """Within the block, every batch normalisation of ``net`` takes its statistics from ``source``."""
    layers = batch_norms(net)
    before = [layer.source for layer in layers]
    for layer in layers:
        layer.source = source
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.source = old


def with_written_out_norms(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with torch's batch normalisation replaced by ours, weights and statistics kept.

    Raises:
        ValueError: a layer whose second derivative is wrong under ``vmap`` and has no replacement here.
    """
    return _replace_norms(copy.deepcopy(net), {})


def _replace_norms(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    # A layer that a network uses in two places stays one layer.
    if module not in done:
        done[module] = _written_out(module, done)
    return done[module]


def _written_out(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
        if module.momentum is None or not module.affine or not module.track_running_stats:
            raise ValueError(f"{module} is not supported; use affine=True, track_running_stats=True and a momentum.")
        ours = BatchNorm(module.num_features, eps=module.eps, momentum=module.momentum)
        ours.weight, ours.bias = module.weight, module.bias
        ours.running_mean, ours.running_var = module.running_mean, module.running_var
        return ours.train(module.training)
    if isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm)):
        name = type(module).__name__
        raise ValueError(f"{name} gives wrong second derivatives under vmap; use nn.BatchNorm or nn.GroupNorm instead.")
    for name, child in module._modules.items():
        if child is not None:
            setattr(module, name, _replace_norms(child, done))
    return module


class SpatialMean(nn.Module):
    """[n, channels, height, width] -> [n, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


def conv4(
    in_channels: int = 1,
    outputs: int | None = None,
    *,
    filters: int = 64,
    downsample: Literal["stride", "pool"] = "stride",
    image_size: int = 28,
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
    """
    if downsample not in ("stride", "pool"):
        raise ValueError(f"downsample must be 'stride' or 'pool', not {downsample!r}.")
    if image_size < 16:
        raise ValueError(f"image_size={image_size} is too small for four halvings; it must be at least 16.")
    strided = downsample == "stride"
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(4):
        convolution = nn.Conv2d(filters if i else in_channels, filters, 3, stride=2 if strided else 1, padding=1)
        block = [convolution, BatchNorm(filters), nn.ReLU()]
        layers[f"block{i + 1}"] = nn.Sequential(*block) if strided else nn.Sequential(*block, nn.MaxPool2d(2))
    layers["pool"] = SpatialMean() if strided else nn.Flatten()
    if outputs is not None:
        layers["head"] = nn.Linear(filters if strided else filters * (image_size // 16) ** 2, outputs)
    return nn.Sequential(layers)


def resnet12(
    in_channels: int = 3, outputs: int | None = None, *, filters: tuple[int, int, int, int] = (64, 128, 256, 512)
) -> nn.Sequential:
    """The residual network of twelve layers that meta-transfer learning pre-trains (Sun et al., 2019).

    Four blocks of three 3×3 convolutions with batch normalisation and a shortcut; each halves the image by
    max-pooling. A spatial mean ends it, so that images may have any size of 16 pixels and more.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        outputs: size of a final linear layer; ``None`` returns the embedding, ``filters[-1]`` wide.
        filters: channels of the four blocks; by default what we take the paper's to be, which we could not check.
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
