"""Ridge regression as the base learner, R2-D2 (Bertinetto, Henriques, Torr and Vedaldi, 2019)."""

from typing import Any

import torch
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner
from mlcore.mapping import Mapping
from mlcore.task import Examples


class Ridge(MetricLearner):
    """Solve the last layer: W = Zᵀ(ZZᵀ + λI)⁻¹Y, logits α zW, differentiated through (Bertinetto et al., 2019).

    λ and α are learned, as logarithms, so that they stay positive. The paper adds one bias to all logits, which a
    softmax does not see; it is left out. So is the column of ones that the authors' code can append to Z.

    Args:
        net: the embedding.
        scale: α at the start. Regression answers 0 or 1; with α = 1 a softmax of such answers is never sure, and its
            gradient teaches little (the same trouble as with the cosines of Matching Networks).
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Learning the comparison, solving the head, :eq:`eq-woodbury`.
    """

    def __init__(
        self, net: nn.Module, *, scale: float = 10.0, mapping: Mapping = "vmap", bfloat16: bool = False
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        self.log_lambda = nn.Parameter(torch.zeros(()))
        self.log_alpha = nn.Parameter(torch.tensor(scale).log())

    def update(self, state: Any, data: Examples) -> Tensor:
        """W [features, ways], from a system as large as the support set, whatever the features."""
        z, y = data
        gram = z @ z.mT + self.log_lambda.exp() * torch.eye(len(z), dtype=z.dtype, device=z.device)
        return z.mT @ torch.linalg.solve(gram, y)

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """α zW: [n, ways]."""
        return self.log_alpha.exp() * (x @ state)
