"""SimpleShot (Wang, Chao, Weinberger and van der Maaten, 2019)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learner import in_evaluation_mode
from mlcore.learners.protonet import ProtoNet
from mlcore.tasks import ClassificationTasks


class SimpleShot(ProtoNet):
    """Nearest centroid on pre-trained features that are centred and scaled to length one ("CL2N", section 3).

    Args:
        net: pre-trained features, such as ``baseline.net``.
        mean: what to centre on, [features]: :func:`mean_feature` of the training classes.

    Derived in: A baseline worth beating, :eq:`eq-simpleshot`.
    """

    def __init__(self, net: nn.Module, *, mean: Tensor) -> None:
        super().__init__(net)
        self.mean: Tensor
        self.register_buffer("mean", mean.detach().clone())

    def embed(self, x: Any) -> Tensor:
        """Features, centred, then scaled to length one."""
        return F.normalize(super().embed(x) - self.mean, dim=-1)


@torch.no_grad()
def mean_feature(net: nn.Module, tasks: ClassificationTasks) -> Tensor:
    """The mean feature of all examples of some tasks, in evaluation mode: [features].

    Chapter: A baseline worth beating.
    """
    codes = tasks.codes()
    with in_evaluation_mode(net):
        total = torch.stack([net(tasks.examples(part)).sum(0) for part in codes.split(512)]).sum(0)
    return total / len(codes)
