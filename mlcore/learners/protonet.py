"""Prototypical Networks (Snell, Swersky and Zemel, 2017)."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner, class_means, cosines, squared_distances
from mlcore.mapping import Mapping
from mlcore.task import Examples


class ProtoNet(MetricLearner):
    """Classify by the distance to class means: p(k | x) ∝ exp(-d(f_φ(x), c_k)) (Snell et al., 2017, equations 1 and 2).

    Args:
        net: the embedding f_φ.
        distance: ``"euclidean"``, d = ‖z - c_k‖², *squared*; ``"scaled"``, the mean of the squared differences instead
            of their sum, times a learned scale (Lee et al., 2019); or ``"cosine"``, where -d is the cosine times a
            learned scale. Scales start at 10.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Learning a metric, :eq:`eq-prototype` and :eq:`eq-protonet`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        distance: Literal["euclidean", "scaled", "cosine"] = "euclidean",
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        if distance not in ("euclidean", "scaled", "cosine"):
            raise ValueError(f"distance must be 'euclidean', 'scaled' or 'cosine', not {distance!r}.")
        self.distance = distance
        if distance != "euclidean":
            self.scale = nn.Parameter(torch.tensor(10.0))

    def update(self, state: Any, data: Examples) -> Tensor:
        """Prototypes c_k [ways, features]: the mean embedding of each class."""
        return class_means(data.x, data.y)

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """-d(z, c_k), the logits: [n, ways]."""
        if self.distance == "cosine":
            return self.scale * cosines(x, state)
        nearness = -squared_distances(x, state)
        return self.scale * nearness / x.shape[-1] if self.distance == "scaled" else nearness


def linear_head(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """Weights 2 c_k [ways, features] and biases -‖c_k‖² [ways] of the linear classifier that prototypes amount to.

    -‖z - c_k‖² = 2 c_k·z - ‖c_k‖² - ‖z‖², and the last term, the same for all classes, leaves the softmax as it is
    (Snell et al., 2017, equation 8).

    Derived in: Learning a metric, :eq:`eq-proto-linear`.
    """
    return 2 * prototypes, -prototypes.square().sum(-1)
