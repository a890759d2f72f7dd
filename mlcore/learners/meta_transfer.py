"""Meta-transfer learning (Sun, Liu, Chua and Schiele, 2019)."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from mlcore.learners.base import BatchNormPolicy, Mapping
from mlcore.learners.maml import Params, inner_step
from mlcore.learners.metric import MetricLearner
from mlcore.tasks import Task
from mlcore.transfer import Change, changeable


class MetaTransfer(MetricLearner):
    """Meta-learn how to transfer: a scale and a shift over pre-trained, frozen features, and the start of a new head.

    In a task, only the head θ' = θ - β ∇L(θ) takes gradient steps on the support set; the outer loop then moves the
    scales, the shifts and θ by the query loss (Sun et al., 2019). The gradient goes through the steps
    of the head. Batch normalisation keeps the averages of pre-training throughout, in meta-training too: an image has
    one embedding, whatever else is in its episode.

    Args:
        net: pre-trained features, without their head: any module with convolutions.
        ways: N; the head has a row for each class.
        features: length of an embedding.
        change, layers: what of ``net`` the outer loop may move, as for :func:`~mlcore.transfer.changeable`. The paper
            compares ``"scale_shift"`` with ``"weights"`` (FT) and with the head alone, ``"nothing"``.
        inner_lr: β, the rate on the support set.
        inner_steps: gradient steps of the head in meta-training, over the whole support set.
        test_steps: the same in evaluation mode; as many as ``inner_steps`` by default.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Transfer, then meta-transfer, :eq:`eq-meta-transfer`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        ways: int,
        features: int,
        change: Change = "scale_shift",
        layers: Sequence[str] | None = None,
        inner_lr: float = 0.01,
        inner_steps: int = 20,
        test_steps: int | None = None,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(changeable(net, change, layers=layers), mapping=mapping, bfloat16=bfloat16)
        test_steps = inner_steps if test_steps is None else test_steps
        if inner_lr <= 0:
            raise ValueError(f"inner_lr must be positive, not {inner_lr}.")
        if min(inner_steps, test_steps) < 1:
            raise ValueError(f"inner_steps={inner_steps} and test_steps={test_steps} must be at least 1.")
        self.inner_lr, self.inner_steps, self.test_steps = inner_lr, inner_steps, test_steps
        self.head = nn.ParameterDict({"weight": torch.zeros(ways, features), "bias": torch.zeros(ways)})
        self.net.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch the inner loop's steps; the frozen network stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, batch: Task, *, batch_norm: BatchNormPolicy | None = None) -> Tensor:
        """Logits [tasks, n_query, ways], in training too with the averages of pre-training."""
        return super().forward(batch, batch_norm=batch_norm or self.batch_norm)

    def fit(self, support_z: Tensor, support_y: Tensor) -> Params:
        """θ', the head after its steps on the support embeddings: "weight" [ways, features] and "bias" [ways]."""
        head = dict(self.head)
        for _ in range(self.inner_steps if self.training else self.test_steps):
            head = inner_step(lambda head: self.row_loss(self.compare(head, support_z), support_y), head, self.inner_lr)
        return head

    def compare(self, fitted: Params, query_z: Tensor) -> Tensor:
        """Logits [n_query, ways]."""
        return query_z @ fitted["weight"].mT + fitted["bias"]
