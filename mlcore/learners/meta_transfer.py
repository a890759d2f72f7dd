"""Meta-transfer learning (Sun, Liu, Chua and Schiele, 2019)."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Self

import torch
from torch import Tensor, nn

from mlcore.inner import SGD, Params, unroll
from mlcore.learners.metric import MetricLearner
from mlcore.mapping import Mapping
from mlcore.nets.norms import BatchNormPolicy, check_policy
from mlcore.nets.scale_shift import Change, changeable
from mlcore.objective import cross_entropy
from mlcore.task import Examples, Task


class MetaTransfer(MetricLearner):
    """Meta-learn how to transfer: a scale and a shift over pre-trained, frozen features, and the start of a new head.

    In a task, only the head θ' = θ - β ∇L(θ) takes gradient steps on the support set; the outer loop then moves the
    scales, the shifts and θ by the query loss (Sun et al., 2019). The gradient goes through the steps
    of the head. Unless ``batch_norm`` says otherwise, batch normalisation keeps the averages of pre-training
    throughout, in meta-training too: an image has one embedding, whatever else is in its episode.

    Args:
        net: pre-trained features, without their head: any module with convolutions.
        ways: N; the head has a row for each class.
        features: length of an embedding.
        change, layers: what of ``net`` the outer loop may move, as for
            :func:`~mlcore.nets.scale_shift.changeable`. The paper compares ``"scale_shift"`` with ``"weights"`` (FT)
            and with the head alone, ``"nothing"``.
        inner_lr: β, the rate on the support set.
        inner_steps: gradient steps of the head in meta-training, over the whole support set.
        test_steps: the same in evaluation mode; as many as ``inner_steps`` by default.
        batch_norm: whose statistics normalise, in meta-training too. The authors' TensorFlow code has
            ``"transductive"``: support set and queries apart, each by its own.
        mirror: show the support images mirrored as well in evaluation, as that code does; it adds their losses up, so
            that a step is twice as long.
        random_head: start the head's weights at random (Glorot and Bengio, 2010), as that code does, not at zero.
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
        batch_norm: BatchNormPolicy = "running",
        mirror: bool = False,
        random_head: bool = False,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(changeable(net, change, layers=layers), mapping=mapping, bfloat16=bfloat16)
        test_steps = inner_steps if test_steps is None else test_steps
        if inner_lr <= 0:
            raise ValueError(f"inner_lr must be positive, not {inner_lr}.")
        if min(inner_steps, test_steps) < 1:
            raise ValueError(f"inner_steps={inner_steps} and test_steps={test_steps} must be at least 1.")
        check_policy(batch_norm)
        self.inner_lr, self.inner_steps, self.test_steps = inner_lr, inner_steps, test_steps
        self.batch_norm, self.mirror = batch_norm, mirror
        self.head = nn.ParameterDict({"weight": torch.zeros(ways, features), "bias": torch.zeros(ways)})
        if random_head:
            nn.init.xavier_uniform_(self.head["weight"])
        self.net.eval()

    def train(self, mode: bool = True) -> Self:
        """Switch the inner loop's steps; the frozen network stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    @property
    def embeds_each_input_alone(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Not where a support image comes with its mirror image."""
        return not self.mirror

    @property
    def training_policy(self) -> BatchNormPolicy:
        """The averages of pre-training, in meta-training too; or those of support set and queries apart."""
        return "running" if self.batch_norm == "running" else "transductive"

    @property
    def steps(self) -> int:
        """Gradient steps of the head in the mode at hand, training or evaluation."""
        return self.inner_steps if self.training else self.test_steps

    @property
    def mirrors(self) -> bool:
        """Whether support images are mirrored in the mode at hand."""
        return self.mirror and not self.training

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """The embedded tasks; in evaluation, if so asked, with the mirror image of each support image."""
        if self.mirrors:
            x, y = task.support
            task = task._replace(support=Examples(torch.cat([x, x.flip(-1)], 1), torch.cat([y, y], 1)))
        return super().prepare(task, policy)

    def begin(self) -> Params:
        """θ, the head: "weight" [ways, features] and "bias" [ways]."""
        return dict(self.head)

    def update(self, state: Params, data: Examples) -> Params:
        """θ', the head after its steps on the support embeddings."""

        def loss(head: Params, data: Examples) -> Tensor:
            return cross_entropy(self.predict(head, data.x), data.y)

        rate = self.inner_lr * (2 if self.mirrors else 1)
        return unroll(loss, state, SGD(rate), repeat(data, self.steps))[0]

    def predict(self, state: Params, x: Any) -> Tensor:
        """Logits [n, ways]."""
        return x @ state["weight"].mT + state["bias"]
