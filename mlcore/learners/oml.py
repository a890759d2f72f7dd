"""Online-aware meta-learning (Javed and White, 2019)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner
from mlcore.mapping import Mapping
from mlcore.task import Examples


class OML(MetricLearner):
    """Features on which a linear head can learn from a stream by gradient descent, one step an example, and keep it.

    It begins with an empty head and reads the support set once, in its order. The representation is meta-learned by
    what the head still knows at the end of the stream, and stays as it is during a task; so its embeddings are computed
    for the whole stream at once, and a step is one outer product (Javed and White, 2019, algorithm 2, with one linear
    layer as the head). The paper's head has a row for every training class, which is meta-learned too; here a class has
    no number outside its task. Batch normalisation uses the whole stream's statistics in training and running averages
    in evaluation, so that nothing of a stream's future is seen there.

    Args:
        net: the representation, inputs to vectors [n, features].
        inner_lr: α, of the steps on the head.
        portion: examples seen in one step.
        regression: targets are numbers, not classes: the head's loss is half the squared error.
        first_order: steps count as constants: the representation then learns from queries alone, and never of what a
            step does.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Raises:
        ValueError: a rate or a portion that is not positive.

    Derived in: Learning without forgetting, :eq:`eq-forget-step`.
    """

    reads_order = True

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float = 0.03,
        portion: int = 1,
        regression: bool = False,
        first_order: bool = False,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        if inner_lr <= 0 or portion < 1:
            raise ValueError(f"inner_lr={inner_lr} and portion={portion} must be positive.")
        self.inner_lr, self.portion, self.regression, self.first_order = inner_lr, portion, regression, first_order

    def stream(self, support: Examples) -> Iterable[Examples]:
        """The support set's embeddings in their order, a portion a step."""
        return map(Examples, support.x.split(self.portion), support.y.split(self.portion))

    def update(self, state: Any, data: Examples) -> Tensor:
        """One gradient step of the head [features + 1, ways], whose last row is the bias."""
        z = with_bias(data.x)
        head = state if isinstance(state, Tensor) else z.new_zeros(z.shape[-1], data.y.shape[-1])
        before, z_now = (head.detach(), z.detach()) if self.first_order else (head, z)
        outputs = z_now @ before
        errors = data.y - (outputs if self.regression else outputs.softmax(-1))
        return torch.addmm(head, z_now.mT, errors, alpha=self.inner_lr / len(z))

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """Logits, or numbers, [n, ways] of embeddings [n, features]."""
        return with_bias(x) @ state


def with_bias(z: Tensor) -> Tensor:
    """Embeddings with a one behind them: [n, features + 1]."""
    return torch.cat([z, z.new_ones(*z.shape[:-1], 1)], -1)
