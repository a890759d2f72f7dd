"""CAVIA: fast context adaptation via meta-learning (Zintgraf, Shiarlis, Kurin, Hofmann and Whiteson, 2019)."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from mlcore.inner import Params
from mlcore.learners.maml import MAML
from mlcore.task import Task


class CAVIA(MAML):
    """Adapt a few context parameters φ, inputs of the network, and leave its weights θ to the outer loop.

    φ starts at zero in every task and takes the inner steps φ' = φ - α ∇_φ L(φ, θ) (Zintgraf et al., 2019, equation 4).
    It is joined to the inputs: to rows as more features, to images as constant channels. (The paper's networks for
    images scale and shift feature maps instead.)

    Args:
        net: takes inputs with ``context`` more features or channels than the data have.
        context: the number of context parameters.
        inner_lr, inner_steps, test_steps, first_order, loss_fn, mapping, bfloat16: as for
            :class:`~mlcore.learners.maml.MAML`.

    Derived in: Rapid learning or feature reuse?, :eq:`eq-cavia`.
    """

    def __init__(self, net: nn.Module, *, context: int, **settings) -> None:
        if context < 1:
            raise ValueError(f"context={context} must be at least 1.")
        super().__init__(net, **settings)
        self.context = context

    def explained(self, task: Task) -> AbstractContextManager[None]:
        """Nothing: the first layer takes the context besides, so it does not say what x should be."""
        return nullcontext()

    def start(self) -> Params:
        """φ = 0."""
        like = next(self.net.parameters())
        return {"context": torch.zeros(self.context, dtype=like.dtype, device=like.device)}

    def predict(self, state: Params, x: Tensor) -> Tensor:
        """f_θ(x, φ')."""
        context = state["context"].view(1, -1, *[1] * (x.dim() - 2))
        return self.net(torch.cat([x, context.expand(len(x), -1, *x.shape[2:])], dim=1))
