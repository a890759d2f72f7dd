"""VERSA: a distribution of linear heads, written by a network (Gordon, Bronskill, Bauer, Nowozin and Turner, 2019)."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner, class_means
from mlcore.mapping import Mapping
from mlcore.nets import mlp
from mlcore.objective import Objective
from mlcore.task import Examples


class Heads(NamedTuple):
    """Independent normal distributions of a linear head's numbers; the bias is the last column."""

    mean: Tensor  # [ways, features + 1]
    variance: Tensor  # [ways, features + 1]


class Versa(MetricLearner):
    """Write a distribution over the head: each class's weights and bias from the mean of its own embeddings.

    A query's probabilities are a mean over draws of the head, p(y | x) = 1/L Σ softmax(w⁽ˡ⁾·z + b⁽ˡ⁾), and
    meta-training lowers minus its logarithm (Gordon et al., 2019). A class is written without a look at the others, so
    there may be any number of them. The inference networks have three layers, as in the authors' code.

    For one query the logits under a random head are themselves independent and normal, with means μ_c·z and variances
    σ²_c·z². So logits are drawn and not heads: the same predictions, at a fraction of the numbers.

    Predictions are for fixed draws: equal inputs, equal outputs. Classes meet the draws in an order that is theirs, not
    that of their labels. Training draws anew.

    Args:
        net: the embedding f_φ.
        features: length of an embedding.
        width: of the inference networks' hidden layers.
        samples: L, draws of the head.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Writing weights from the support set, :eq:`eq-write-versa`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        features: int,
        width: int = 256,
        samples: int = 10,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        if samples < 1:
            raise ValueError(f"samples={samples} must be at least 1.")
        self.samples = samples
        self.mean = mlp(features, width, width, features + 1, activation=nn.ELU)
        self.log_variance = mlp(features, width, width, features + 1, activation=nn.ELU)

    def update(self, state: Any, data: Examples) -> Heads:
        """q(head | support): means and variances, [ways, features + 1] each."""
        means = class_means(data.x, data.y)
        return Heads(self.mean(means), self.log_variance(means).exp())

    def said(self, state: Heads, x: Tensor, noise: Tensor) -> Tensor:
        """Logarithms of the probabilities [n, ways], given normal draws ``noise`` [samples, 1 or n, ways]."""
        z = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        mean, variance = z @ state.mean.mT, z.square() @ state.variance.mT
        logits = mean + variance.sqrt() * noise
        return logits.log_softmax(-1).logsumexp(0) - math.log(len(noise))

    def predict(self, state: Heads, x: Any) -> Tensor:
        """Logarithms of the probabilities, which serve as logits: [n, ways]."""
        ways = len(state.mean)
        draws = torch.from_numpy(np.random.default_rng(0).standard_normal((self.samples, ways)))
        rank = state.mean[:, 0].argsort().argsort()
        return self.said(state, x, draws.to(x)[:, rank][:, None])

    def loss(self, state: Heads, outputs: Any, query: Examples, objective: Objective) -> Tensor:
        """The objective's loss on the queries; in training with new draws of the head."""
        if not self.training:
            return super().loss(state, outputs, query, objective)
        noise = torch.randn(self.samples, *query.y.shape, dtype=query.x.dtype, device=query.x.device)
        return super().loss(state, self.said(state, query.x, noise), query, objective)
