"""Nearest neighbour: the baseline that learns nothing before it sees the support set."""

import torch
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner, squared_distances


class NearestNeighbour(MetricLearner):
    """Give a query the class of its nearest support image, in the space of ``net``; in that of pixels by default.

    Derived in: A baseline worth beating, :eq:`eq-nearest-neighbour`.
    """

    def __init__(self, net: nn.Module | None = None) -> None:
        super().__init__(nn.Flatten() if net is None else net)

    def fit(self, support_z: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor]:
        """The support set itself."""
        return support_z, support_y

    def compare(self, fitted: tuple[Tensor, Tensor], query_z: Tensor) -> Tensor:
        """Minus the squared distance to the nearest example of each class: [n_query, ways]."""
        support_z, support_y = fitted
        nearness = -squared_distances(query_z, support_z)
        return torch.where(support_y.mT.bool(), nearness[:, None], -torch.inf).amax(-1)
