"""Nearest neighbour: the baseline that learns nothing before it sees the support set."""

from typing import Any

import torch
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner, squared_distances
from mlcore.task import Examples


class NearestNeighbour(MetricLearner):
    """Give a query the class of its nearest support image, in the space of ``net``; in that of pixels by default.

    Derived in: A baseline worth beating, :eq:`eq-nearest-neighbour`.
    """

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__(nn.Flatten() if net is None else net)

    def update(self, state: Any, data: Examples) -> tuple[Tensor, Tensor]:
        """The support set itself."""
        return data.x, data.y

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Tensor:
        """Minus the squared distance to the nearest example of each class: [n, ways]."""
        support_z, support_y = state
        nearness = -squared_distances(x, support_z)
        return torch.where(support_y.mT.bool(), nearness[:, None], -torch.inf).amax(-1)
