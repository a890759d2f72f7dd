"""The shapes of meta-gradient that are measured: a network, and the size of a meta-batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore import Examples, Objective, Task, classification, conv4, mlp, regression, rows
from mlcore.nets import BatchNorm


@dataclass(frozen=True)
class Shape:
    """One row of the grid: a network and the size of a meta-batch."""

    name: str
    make: Callable[[], nn.Module]
    tasks: int
    support: int
    queries: int
    steps: int
    ways: int = 0  # 0: regression

    @property
    def objective(self) -> Objective:
        return classification if self.ways else regression

    @property
    def loss_fn(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The same loss as torch has it, for other libraries; it takes one-hot rows too."""
        return F.cross_entropy if self.ways else F.mse_loss

    def batch(self, tasks: int, dtype: torch.dtype) -> Task:
        """Random tasks; costs do not depend on what they hold."""
        if not self.ways:
            return Task(*(Examples(*torch.randn(2, tasks, n, 1, dtype=dtype)) for n in (self.support, self.queries)))
        return Task(*(self._images(tasks, n, dtype) for n in (self.support, self.queries)))

    def _images(self, tasks: int, n: int, dtype: torch.dtype) -> Examples:
        y = rows(torch.arange(n) % self.ways, self.ways).to(dtype).expand(tasks, -1, -1)
        return Examples(torch.randn(tasks, n, 1, 28, 28, dtype=dtype), y)


pooled = partial(conv4, downsample="pool")
SHAPES = [
    Shape("MLP 40-40, 25 × (10+10), 1 step", lambda: mlp(1, 40, 40, 1), 25, 10, 10, 1),
    Shape("MLP 40-40, 25 × (10+10), 5 steps", lambda: mlp(1, 40, 40, 1), 25, 10, 10, 5),
    Shape("conv4 strided, 32 × (5+5), 1 step", lambda: conv4(1, 5), 32, 5, 5, 1, ways=5),
    Shape("conv4 strided, 32 × (5+75), 1 step", lambda: conv4(1, 5), 32, 5, 75, 1, ways=5),
    Shape("conv4 strided, 16 × (20+20), 5 steps", lambda: conv4(1, 20), 16, 20, 20, 5, ways=20),
    Shape("conv4 pooled, 32 × (5+5), 1 step", lambda: pooled(1, 5), 32, 5, 5, 1, ways=5),
    Shape("conv4 pooled, 8 × (25+75), 5 steps", lambda: pooled(1, 5), 8, 25, 75, 5, ways=5),
]


def plain(net: nn.Module) -> nn.Module:
    """The network as a user of any library has it, with torch's batch normalisation."""
    for name, child in net.named_children():
        if isinstance(child, BatchNorm):
            setattr(net, name, nn.BatchNorm2d(len(child.weight)))
        else:
            plain(child)
    return net
