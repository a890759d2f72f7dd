"""Baseline and Baseline++: supervised pre-training, then a new head (Chen, Liu, Kira, Wang and Huang, 2019)."""

import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learners.base import BatchNormPolicy, Mapping
from mlcore.learners.maml import Params, inner_step
from mlcore.learners.metric import MetricLearner, class_means, cosines
from mlcore.tasks import Task


class Baseline(MetricLearner):
    """Train a classifier of all training classes; on a task, keep its features and train a new head on the support set.

    Train it on :class:`~mlcore.tasks.SupervisedTasks`: a task without a support set is classified by the head of the
    training classes. On any other task a new head takes ``steps`` steps of gradient descent on the support set, from
    zero, or with ``cosine`` from the class means (the paper starts at random).

    Args:
        net: the features.
        classes: how many classes pre-training has.
        features: length of an embedding.
        cosine: Baseline++, whose logits are cosines to a weight vector of each class, times ``scale``.
        scale: see ``cosine``.
        steps, lr, weight_decay: of the new head's training on the support set.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: A baseline worth beating, :eq:`eq-pretraining` and :eq:`eq-new-head`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        classes: int,
        features: int = 64,
        cosine: bool = False,
        scale: float = 10.0,
        steps: int = 100,
        lr: float = 0.03,
        weight_decay: float = 1e-3,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        self.cosine, self.scale, self.steps, self.lr, self.weight_decay = cosine, scale, steps, lr, weight_decay
        head = nn.Linear(features, classes, bias=not cosine)
        self.head = nn.ParameterDict(dict(head.named_parameters()))

    def forward(self, batch: Task, *, batch_norm: BatchNormPolicy | None = None) -> Tensor:
        """Logits of the training classes for tasks without a support set, else of each task's own classes."""
        if batch.support_x.shape[1]:
            return super().forward(batch, batch_norm=batch_norm)
        classes = len(self.head["weight"])
        if int(batch.query_y.max()) >= classes:
            raise ValueError(f"classes={classes}, but there is a label {int(batch.query_y.max())}; raise classes.")
        z = self.embed(batch.query_x.flatten(0, 1))
        if z.shape[1] != (features := self.head["weight"].shape[1]):
            raise ValueError(f"features={features}, but an embedding has length {z.shape[1]}; let features say that.")
        logits = self.compare(dict(self.head), z)
        return logits.view(*batch.query_x.shape[:2], -1)

    def meta_backward(self, batch: Task) -> tuple[Tensor, Tensor]:
        """The gradient of pre-training; episodes are refused, since a new head would learn nothing for the next."""
        if batch.support_x.shape[1]:
            raise ValueError(
                "Baseline trains on minibatches of all classes: give meta_train SupervisedTasks(tasks), not episodes."
            )
        loss, outputs = self.loss_and_outputs(batch)  # never in parts: they share a batch normalisation
        loss.backward()
        return loss.detach(), outputs.detach()

    def fit(self, support_z: Tensor, support_y: Tensor) -> Params:
        """A new head, trained on the support set: its "weight" [ways, features], and without ``cosine`` a "bias"."""
        support_z = support_z.detach()

        def loss(head: Params) -> Tensor:
            decay = self.weight_decay / 2 * head["weight"].square().sum()
            return self.row_loss(self.compare(head, support_z), support_y) + decay

        means = class_means(support_z, support_y)
        head = {"weight": F.normalize(means)} if self.cosine else {"weight": 0 * means, "bias": 0 * means[:, 0]}
        for _ in range(self.steps):
            head = inner_step(loss, head, self.lr)
        return head

    def compare(self, fitted: Params, query_z: Tensor) -> Tensor:
        """Logits [n_query, ways]."""
        if self.cosine:
            return self.scale * cosines(query_z, fitted["weight"])
        return query_z @ fitted["weight"].mT + fitted["bias"]
