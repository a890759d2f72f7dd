"""Least squares on infinitely many noisy copies, in closed form (Bishop, 1995)."""

from typing import Any

import torch
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner
from mlcore.mapping import Mapping
from mlcore.task import Examples


class NoisyRidge(MetricLearner):
    """Fit one-hot targets by least squares, as if each support example came with endless copies in normal noise.

    With squared loss the copies are a penalty: W, b = argmin mean ‖zW + b - y‖² + tr(WᵀΣW). Isotropic noise is ridge
    regression with a free intercept. With the covariance of the noise within classes, and one example of each of two
    classes, it is linear discriminant analysis.

    Args:
        net: the embedding.
        covariance: Σ of the noise, [features, features].
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Raises:
        ValueError: a covariance that is not square.

    Derived in: Do generated examples help?, :eq:`eq-help-penalty` and :eq:`eq-help-lda`.
    """

    def __init__(
        self, net: nn.Module, *, covariance: Tensor, mapping: Mapping = "vmap", bfloat16: bool = False
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        if covariance.dim() != 2 or covariance.shape[0] != covariance.shape[1]:
            raise ValueError(f"covariance must be [features, features], not {list(covariance.shape)}.")
        self.covariance: Tensor
        self.register_buffer("covariance", covariance.detach().clone())

    def update(self, state: Any, data: Examples) -> tuple[Tensor, Tensor]:
        """W [features, ways] and b [ways]."""
        z, y = data.x - data.x.mean(0), data.y - data.y.mean(0)  # the best intercept, put in
        # Where the noise is white, ridge regression: a system as large as the support set, whatever the features.
        root = torch.linalg.cholesky(self.covariance)
        white = torch.linalg.solve_triangular(root, z.mT, upper=False)  # [features, n]
        gram = white.mT @ white + len(z) * torch.eye(len(z), dtype=z.dtype, device=z.device)
        weight = torch.linalg.solve_triangular(root.mT, white @ torch.linalg.solve(gram, y), upper=True)
        return weight, data.y.mean(0) - data.x.mean(0) @ weight

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Tensor:
        """zW + b: [n, ways]."""
        weight, bias = state
        return x @ weight + bias
