"""A metric learner whose network stays as it is."""

from typing import Any, Self

from torch import nn

from mlcore.learners.metric import MetricLearner
from mlcore.nets.norms import BatchNormPolicy


class FrozenNet(MetricLearner):
    """The network takes no gradient, and normalises by the averages it was trained with, in meta-training too.

    What else a learner has, learns.

    Args:
        net: the frozen network.
        **settings: those of the next class, of :class:`~mlcore.learners.metric.MetricLearner` at last.
    """

    def __init__(self, net: nn.Module, **settings: Any) -> None:
        super().__init__(net, **settings)
        self.net.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        """Switch the mode; the frozen network stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    @property
    def training_policy(self) -> BatchNormPolicy:
        """The averages that the network was frozen with."""
        return "running"
