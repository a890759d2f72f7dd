"""What of a pre-trained network may still change: nothing, its weights, or a scale and a shift over frozen weights."""

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Change = Literal["nothing", "weights", "scale_shift"]


class Scale(nn.Module):
    """W ↦ Φ_S1 ⊙ W: one factor for each kernel of a convolution, [filters, channels, 1, 1], starting at 1."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones_like(weight[..., :1, :1]))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


class Shift(nn.Module):
    """b ↦ b + Φ_S2: one summand for each filter of a convolution, starting at 0."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros_like(bias))

    def forward(self, bias: Tensor) -> Tensor:
        return bias + self.shift


def changeable(net: nn.Module, change: Change = "scale_shift", *, layers: Sequence[str] | None = None) -> nn.Module:
    """A copy of ``net`` of which only some parameters require gradients.

    Scaling and shifting (Sun et al., 2019) puts a scale and a shift over every 3×3 or other two-dimensional
    convolution, (Φ_S1 ⊙ W) * x + (b + Φ_S2), and freezes W, b and all else. Untrained, it changes no output by one bit.

    Args:
        net: any module, such as a pre-trained torchvision network whose head was taken off.
        change: ``"nothing"``; ``"weights"``, the parameters themselves; or ``"scale_shift"``.
        layers: names of the modules within ``net`` where change is allowed, such as ``("layer4",)``; by default all.

    Raises:
        ValueError: an unknown ``change``, a layer that does not exist, or no convolution to scale.

    Derived in: Transfer, then meta-transfer, :eq:`eq-scale-shift`.
    """
    if change not in get_args(Change):
        raise ValueError(f"change must be one of {', '.join(get_args(Change))}, not {change!r}.")
    names = [name for name, _ in net.named_modules()]
    for layer in layers or ():
        if layer not in names:
            top = ", ".join(name for name, _ in net.named_children())
            raise ValueError(f"the network has no module {layer!r}; at its top there are {top}.")
    net = copy.deepcopy(net).requires_grad_(False)
    parts = [net] if layers is None else [net.get_submodule(layer) for layer in layers]
    if change == "weights":
        for part in parts:
            part.requires_grad_(True)
    elif change == "scale_shift":
        convolutions = {module for part in parts for module in part.modules() if isinstance(module, nn.Conv2d)}
        if not convolutions:
            raise ValueError("there is no nn.Conv2d to scale and shift; choose change='weights' or other layers.")
        for convolution in convolutions:
            _scale_and_shift(convolution)
    return net


def _scale_and_shift(convolution: nn.Conv2d) -> None:
    if convolution.bias is None:
        zeros = convolution.weight.new_zeros(convolution.out_channels)
        convolution.bias = nn.Parameter(zeros, requires_grad=False)
    parametrize.register_parametrization(convolution, "weight", Scale(convolution.weight))
    parametrize.register_parametrization(convolution, "bias", Shift(convolution.bias))


def merged(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with scales and shifts multiplied and added into plain convolutions: the same function."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        if isinstance(module, nn.Conv2d) and parametrize.is_parametrized(module):
            weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
            # Not remove_parametrizations, which would take the weights of the network this one was copied from as well.
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            module.weight, module.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
    return net
