"""What metric learners share: every image is embedded, and a support set is learned from by looking at embeddings."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learners.base import BatchNormPolicy, Learner, Mapping, check_policy, check_task
from mlcore.nets import Source, batch_norms, statistics_from
from mlcore.tasks import Task


class MetricLearner(Learner):
    """Embed, then compare. A method overrides :meth:`fit` and :meth:`compare`, both on embeddings of *one* task.

    Nothing here takes gradient steps on ``net``, so the same image always has the same embedding (but for batch
    normalisation) and evaluation embeds each distinct image once. In training an episode is normalised by the
    statistics of its support and query images together, as in the code of Prototypical Networks; in evaluation the
    running averages are used, unless another policy is named. After few meta-updates these lag behind the weights:
    compare with ``"support"``. Here ``"transductive"`` means the whole episode's statistics, and ``"one_query"`` those
    of the support set and one query.

    Args:
        net: the embedding f_φ, images to vectors.
        loss_fn, bfloat16: as for :class:`~mlcore.learners.base.Learner`.
        mapping: how comparisons are mapped over tasks, all at once by default, since embeddings are small; otherwise as
            for :class:`~mlcore.learners.base.Learner`.

    Derived in: Learning a metric, :eq:`eq-metric-learner`.
    """

    batch_norm: BatchNormPolicy = "running"

    def __init__(self, net: nn.Module, *, mapping: Mapping = "vmap", **settings) -> None:
        super().__init__(net, mapping=mapping, **settings)
        self.net.to(memory_format=torch.channels_last)  # convolutions take half the time
        for layer in batch_norms(self):
            layer.source = None

    def embed(self, x: Tensor) -> Tensor:
        """Embeddings f_φ(x) of images [n, *input], usually [n, features]."""
        with self.explained(x), self.precision(x.device):
            z = self.net(x)
        return z.to(x.dtype) if self.bfloat16 else z

    def fit(self, support_z: Tensor, support_y: Tensor) -> Any:
        """Learn from the embeddings [n_support, features] and one-hot rows [n_support, ways] of one support set."""
        raise NotImplementedError(f"{type(self).__name__} must define fit(support_z, support_y).")

    def compare(self, fitted: Any, query_z: Tensor) -> Tensor:
        """Scores [n_query, ways] of one task's query embeddings, given what ``fit`` returned."""
        raise NotImplementedError(f"{type(self).__name__} must define compare(fitted, query_z).")

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Any:
        """What ``fit`` learns from the embedded support set of one task."""
        return self.fit(self.embed(support_x), self.rows(support_y))

    def predict(self, adapted: Any, query_x: Tensor) -> Tensor:
        """Scores [n_query, ways] of one task's queries."""
        return self.compare(adapted, self.embed(query_x))

    def forward(self, batch: Task, *, batch_norm: BatchNormPolicy | None = None) -> Tensor:
        """Adapt to every task of a batch and score its queries: [tasks, n_query, ways]."""
        policy = batch_norm or ("transductive" if self.training else self.batch_norm)
        check_policy(policy)
        check_task(batch)
        support_y = self.targets(batch.support_y)
        # None: the whole episode's statistics by torch's own kernel, which also keeps the running averages.
        sources: dict[str, Source] = {
            "transductive": None if self.net.training else "batch",
            "support": batch.support_x.shape[1],
            "running": "running",
            "one_query": "batch",
        }
        # With one query at a time, each of them makes an episode of its own.
        queries = batch.query_x.split(1, 1) if policy == "one_query" else [batch.query_x]
        with statistics_from(self, sources[policy]):
            return torch.cat([self._score(batch.support_x, support_y, query_x) for query_x in queries], 1)

    def _score(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        n_support = support_x.shape[1]
        # One episode after another, since each is normalised by itself.
        z = torch.stack([self.embed(x) for x in torch.cat([support_x, query_x], 1)])
        return self.classify(z[:, :n_support], support_y, z[:, n_support:])

    def classify(self, support_z: Tensor, support_y: Tensor, query_z: Tensor) -> Tensor:
        """Fit and compare for every task of a batch of embeddings: scores [tasks, n_query, ways]."""

        def one_task(support_z: Tensor, support_y: Tensor, query_z: Tensor) -> tuple[Tensor]:
            return (self.compare(self.fit(support_z, support_y), query_z),)

        return self._map(one_task, support_z, support_y, query_z)[0]


def class_means(z: Tensor, y: Tensor) -> Tensor:
    """Mean embedding of each class, YᵀZ / Yᵀ1: [ways, features]."""
    return (y.mT @ z) / y.sum(0)[:, None]


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i - b_j‖², multiplied out, which needs no tensor of all the differences: [rows of a, rows of b]."""
    return a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.mT


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between a_i and b_j: [rows of a, rows of b]."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT
