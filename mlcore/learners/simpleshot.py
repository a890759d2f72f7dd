"""SimpleShot (Wang, Chao, Weinberger and van der Maaten, 2019)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learners.protonet import ProtoNet
from mlcore.tasks import ClassificationTasks


class SimpleShot(ProtoNet):
    """Nearest centroid on pre-trained features that are centred and scaled to length one ("CL2N", section 3).

    Args:
        net: pre-trained features, such as ``baseline.net``.
        features: length of an embedding.

    Derived in: A baseline worth beating, :eq:`eq-simpleshot`.
    """

    def __init__(self, net: nn.Module, *, features: int = 64) -> None:
        super().__init__(net)
        self.register_buffer("mean", torch.zeros(features))

    @torch.no_grad()
    def centre_on(self, train: ClassificationTasks) -> None:
        """Take the mean feature of all examples of the training classes as the centre."""
        was_training = self.training
        self.eval()
        codes = train.codes()
        total = sum(self.net(train.examples(part)).sum(0) for part in codes.split(512))
        self.mean.copy_(total / len(codes))
        self.train(was_training)

    def embed(self, x: Tensor) -> Tensor:
        """Features, centred, then scaled to length one."""
        return F.normalize(super().embed(x) - self.mean, dim=-1)
