"""What metric learners share: every input is embedded, and a support set is learned from by looking at embeddings."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mlcore.learner import Learner
from mlcore.mapping import Mapping, first_tensor
from mlcore.nets.norms import BatchNormPolicy, Statistics, answer, learning_source, statistics_from, written_out
from mlcore.task import Examples, Task


class MetricLearner(Learner):
    """Embed, then compare: :meth:`update` and :meth:`predict` are given embeddings in place of inputs.

    Nothing here takes gradient steps on ``net``, so the same image always has the same embedding (but for batch
    normalisation) and evaluation embeds each distinct image once. In training an episode is normalised by the
    statistics of its support and query images together, as in the code of Prototypical Networks; in evaluation the
    running averages are used, unless another policy is named. After few meta-updates these lag behind the weights:
    compare with ``"support"``.

    Args:
        net: the embedding f_φ, images to vectors.
        bfloat16: as for :class:`~mlcore.learner.Learner`.
        mapping: how comparisons are mapped over tasks, all at once by default, since embeddings are small; otherwise as
            for :class:`~mlcore.learner.Learner`.

    Derived in: Learning a metric, :eq:`eq-metric-learner`.
    """

    batch_norm: BatchNormPolicy = "running"
    embeds_each_input_alone = True

    def __init__(self, net: nn.Module, *, mapping: Mapping = "vmap", bfloat16: bool = False) -> None:
        super().__init__(mapping=mapping, bfloat16=bfloat16)
        # In this layout convolutions take half the time.
        self.net = written_out(net).to(memory_format=torch.channels_last)

    @property
    def training_policy(self) -> BatchNormPolicy:
        """The whole episode's statistics, by torch's own kernel, which also keeps the running averages."""
        return "episode"

    def embed(self, x: Any) -> Tensor:
        """Embeddings f_φ(x) of inputs [n, *input], usually [n, features]."""
        with super().precision(first_tensor(x).device):
            z = self.net(x)
        return z.to(next((p.dtype for p in self.net.parameters()), z.dtype))

    def precision(self, device: torch.device) -> AbstractContextManager:
        """Full precision: only the network is computed in less."""
        return nullcontext()

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """The same tasks with embeddings in place of inputs, one episode after another."""
        n_support = first_tensor(task.support.x).shape[1]
        together = {"running": "running", "support": n_support, "episode": None if self.training else "batch"}
        halves = []
        for i in range(task.count):
            support_x, query_x = tree_map(lambda half, i=i: half[i], (task.support.x, task.query.x))
            if policy in together:
                with statistics_from(together[policy]):
                    z = self.embed(tree_map(lambda s, q: torch.cat([s, q]), support_x, query_x))
                halves.append((z[:n_support], z[n_support:]))
            else:
                with statistics_from("batch"):
                    support_z = self.embed(support_x)
                halves.append((support_z, answer(policy, self.embed, support_x, query_x)[0]))
        support_z, query_z = (torch.stack(half) for half in zip(*halves, strict=True))
        return Task(self.embedded(support_z, task.support.y), self.embedded(query_z, task.query.y))

    def embedded(self, z: Tensor, y: Tensor) -> Examples:
        """Embeddings with their targets, in one precision."""
        return Examples(z, y.to(z.dtype) if y.is_floating_point() else y)

    def answer(self, policy: BatchNormPolicy, state: Any, support: Any, query_x: Any) -> tuple[Any, Statistics]:
        """Outputs for the embedded queries of one task; what has norms of its own goes by the mode."""
        source = None if self.training and policy == "episode" else learning_source(policy)
        with statistics_from(source) as seen:
            return self.predict(state, query_x), {} if source is None else seen


def class_means(z: Tensor, y: Tensor) -> Tensor:
    """Mean embedding of each class, YᵀZ / Yᵀ1: [ways, features]."""
    return (y.mT @ z) / y.sum(0)[:, None]


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i - b_j‖², multiplied out, which needs no tensor of all the differences: [rows of a, rows of b]."""
    return a.square().sum(-1)[:, None] + b.square().sum(-1) - 2 * a @ b.mT


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of the angle between a_i and b_j: [rows of a, rows of b]."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT
