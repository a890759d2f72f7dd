"""Baseline and Baseline++: supervised pre-training, then a new head (Chen, Liu, Kira, Wang and Huang, 2019)."""

from collections.abc import Iterable
from itertools import repeat
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.inner import SGD, Params, unroll
from mlcore.learners.metric import MetricLearner, class_means, cosines
from mlcore.mapping import Mapping
from mlcore.objective import Objective, cross_entropy
from mlcore.task import Examples


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

    only_in_training = ("head.",)

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

    def begin(self) -> Params:
        """The head of the training classes, which answers where there is no support set."""
        return dict(self.head)

    def stream(self, support: Examples) -> Iterable[Examples]:
        """The support set, if there is one."""
        return (support,) if len(support.x) else ()

    def update(self, state: Params, data: Examples) -> Params:
        """A new head, trained on the support set: its "weight" [ways, features], and without ``cosine`` a "bias"."""
        if self.training:
            raise ValueError(
                "Baseline trains on minibatches of all classes: give meta_train SupervisedTasks(tasks), not episodes."
            )
        z = data.x.detach()
        means = class_means(z, data.y)
        head = {"weight": F.normalize(means)} if self.cosine else {"weight": 0 * means, "bias": 0 * means[:, 0]}

        def loss(head: Params, data: Examples) -> Tensor:
            decay = self.weight_decay / 2 * head["weight"].square().sum()
            return cross_entropy(self.predict(head, data.x), data.y) + decay

        return unroll(loss, head, SGD(self.lr), repeat(Examples(z, data.y), self.steps), first_order=True)[0]

    def predict(self, state: Params, x: Any) -> Tensor:
        """Logits [n, ways]."""
        if x.shape[-1] != (features := self.head["weight"].shape[1]):
            raise ValueError(f"features={features}, but an embedding has length {x.shape[-1]}; let features say that.")
        if self.cosine:
            return self.scale * cosines(x, state["weight"])
        return x @ state["weight"].mT + state["bias"]

    def loss(self, state: Params, outputs: Tensor, query: Examples, objective: Objective) -> Tensor:
        """The objective's loss, once the classes of the task are those of the head."""
        if outputs.shape[-1] < query.y.shape[-1]:
            raise ValueError(f"classes={outputs.shape[-1]}, but there are {query.y.shape[-1]}; raise classes.")
        return super().loss(state, outputs, query, objective)
