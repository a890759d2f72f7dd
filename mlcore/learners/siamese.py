"""Siamese networks (Koch, Zemel and Salakhutdinov, 2015)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learners.base import Mapping
from mlcore.learners.metric import MetricLearner


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
        super().__init__(net, loss_fn=pair_loss, mapping=mapping, bfloat16=bfloat16)
        self.alpha = nn.Parameter(torch.full((features,), -1.0 / features))  # the farther apart, the less alike
        self.bias = nn.Parameter(torch.zeros(()))

    def fit(self, support_z: Tensor, support_y: Tensor) -> tuple[Tensor, Tensor]:
        """The support embeddings themselves, and each one's share of its class."""
        return support_z, support_y / support_y.sum(0)

    def compare(self, fitted: tuple[Tensor, Tensor], query_z: Tensor) -> Tensor:
        """Mean pair logit of each class: [n_query, ways]."""
        support_z, share = fitted
        logits = (query_z[:, None] - support_z).abs() @ self.alpha + self.bias
        return logits @ share
