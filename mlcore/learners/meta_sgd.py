"""Meta-SGD (Li, Zhou, Chen and Li, 2017)."""

from collections.abc import Mapping

import torch
from torch import nn

from mlcore.inner import Params
from mlcore.learners.maml import MAML


class MetaSGD(MAML):
    """MAML that also learns a rate for every single weight: θ' = θ - α ∘ ∇L(θ) (Li et al., 2017, equation 2).

    α, of the size of θ, starts at ``inner_lr`` everywhere and is learned with θ; an entry may become negative.

    Args:
        net, inner_lr, inner_steps, test_steps, first_order, loss_fn, mapping, bfloat16: as for
            :class:`~mlcore.learners.maml.MAML`; the paper takes one step.

    Derived in: Making MAML train, :eq:`eq-meta-sgd`.
    """

    def __init__(self, net: nn.Module, *, inner_lr: float | dict[str, float], **settings) -> None:
        super().__init__(net, inner_lr=inner_lr, **settings)
        start, rate = self.start(), super().rates()
        self.alpha = nn.ParameterList(
            torch.ones_like(value) * (rate[name] if isinstance(rate, Mapping) else rate)
            for name, value in start.items()
        )

    def rates(self) -> Params:
        """α, the same at every step."""
        return dict(zip(self.start(), self.alpha, strict=True))
