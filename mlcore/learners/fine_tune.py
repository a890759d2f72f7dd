"""Fine-tuning a pre-trained network on each task: transfer without meta-learning."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from mlcore.learner import Judged
from mlcore.learners.reptile import Reptile
from mlcore.nets.scale_shift import Change, changeable
from mlcore.objective import Objective
from mlcore.task import Task


class FineTune(Reptile):
    """Gradient steps on a support set, from pre-trained weights and an empty head: Reptile's inner loop alone.

    It needs no meta-training. Batch normalisation keeps the averages of pre-training; a support set is too small to
    replace them.

    Args:
        net: pre-trained features, without their head.
        ways: N; the head starts at zero, so that no class is preferred.
        features: length of an embedding.
        change, layers: what of ``net`` takes part besides the head, as for :func:`~mlcore.nets.scale_shift.changeable`.
        lr, steps: of gradient descent.
        batch_size: examples in a step, as for :class:`~mlcore.learners.reptile.Reptile`.

    Derived in: Transfer, then meta-transfer, :eq:`eq-fine-tune`.
    """

    batch_norm = "running"

    def __init__(
        self,
        net: nn.Module,
        *,
        ways: int,
        features: int,
        change: Change = "weights",
        layers: Sequence[str] | None = None,
        lr: float = 0.01,
        steps: int = 20,
        batch_size: int = 50,
    ) -> None:
        head = nn.Linear(features, ways)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        body = changeable(net, change, layers=layers)
        # One task after another: every task has filters of its own, and vmap would convolve them in groups, slowly.
        super().__init__(
            nn.Sequential(OrderedDict(body=body, head=head)),
            inner_lr=lr,
            inner_steps=steps,
            batch_size=batch_size,
            inner_optimizer="sgd",
            mapping="loop",
        )

    def meta_backward(self, task: Task, objective: Objective) -> Judged:
        """Refused: there is nothing to accumulate."""
        raise ValueError("FineTune has no meta-training: hand it to evaluate as it is.")
