"""Fine-tuning a pre-trained network on each task: transfer without meta-learning."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from mlcore.learners.maml import MAML
from mlcore.transfer import Change, changeable


class FineTune(MAML):
    """Gradient steps on a support set from pre-trained weights and an empty head: MAML's inner loop and nothing else.

    It needs no meta-training. With it, it is first-order MAML from a pre-trained start. Batch normalisation keeps the
    averages of pre-training; a support set is too small to replace them.

    Args:
        net: pre-trained features, without their head.
        ways: N; the head starts at zero, so that no class is preferred.
        features: length of an embedding.
        change, layers: what of ``net`` takes part besides the head, as for :func:`~mlcore.transfer.changeable`.
        lr, steps: of gradient descent over the whole support set.

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
            first_order=True,
            mapping="loop",
        )
