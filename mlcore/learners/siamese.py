"""Siamese networks (Koch, Zemel and Salakhutdinov, 2015)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner
from mlcore.mapping import Mapping
from mlcore.objective import Objective
from mlcore.task import Examples


def pair_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of "same class or not", with as much weight on the one match as on all others together.

    Koch et al. (2015, section 3.2) draw matching and other pairs equally often; an episode has ways - 1 others for
    every match, and the weight makes up for it.

    Args:
        outputs: logits [n, ways] that a query is of a class.
        targets: one-hot rows [n, ways].

    Derived in: Learning a metric, :eq:`eq-pair-loss`.
    """
    others = outputs.new_tensor(outputs.shape[-1] - 1)
    return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=others)


class Siamese(MetricLearner):
    """Learn whether two images are of one class: ``p = σ(Σ_j α_j |z_j - z'_j| + b)`` (Koch et al., 2015, section 3.1).

    A query goes to the class whose support images it most probably matches: the mean logit over the class, which with
    one shot is the paper's rule. All support × query pairs of an episode are trained on.

    Args:
        net: the embedding.
        features: length of an embedding; 64 for :func:`~mlcore.nets.conv4` on 28 × 28 pixels.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Learning a metric, :eq:`eq-siamese`.
    """

    def __init__(
        self, net: nn.Module, *, features: int = 64, mapping: Mapping = "vmap", bfloat16: bool = False
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        self.alpha = nn.Parameter(torch.full((features,), -1.0 / features))  # the farther apart, the less alike
        self.bias = nn.Parameter(torch.zeros(()))

    def update(self, state: Any, data: Examples) -> tuple[Tensor, Tensor]:
        """The support embeddings themselves, and each one's share of its class."""
        return data.x, data.y / data.y.sum(0)

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Tensor:
        """Mean pair logit of each class: [n, ways]."""
        support_z, share = state
        logits = (x[:, None] - support_z).abs() @ self.alpha + self.bias
        return logits @ share

    def loss(self, state: Any, outputs: Tensor, query: Examples, objective: Objective) -> Tensor:
        """The loss of pairs, whatever the objective."""
        return pair_loss(outputs, query.y)
