"""Reptile (Nichol, Achiam and Schulman, 2018)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mlcore.learners.base import LossFn, Mapping
from mlcore.learners.maml import MAML, Params, detached, inner_step, support_gradient
from mlcore.tasks import Task


class Reptile(MAML):
    """Move the initialisation towards the weights that training on each task ends with: θ ← θ + ε mean(θ' - θ).

    No derivative passes through the inner loop, and no query set is needed: θ - θ' takes the place of the meta-gradient
    (Nichol et al., 2018, algorithm 2; with a meta-batch of one task, algorithm 1). The paper's code trains it with
    ``meta_train(…, optimizer="sgd", outer_lr=1.0, decay="linear")`` and with several times the shots of the test.

    Args:
        net: the network f_θ; all its trainable parameters are adapted.
        inner_lr: rate of the inner optimiser.
        inner_steps, test_steps: its steps, in meta-training and in evaluation.
        batch_size: examples in an inner step, at most the support set: batch i of b takes every b-th example from the
            i-th on, so that a support set in order of class gives balanced batches. The paper draws them at random.
        test_batch_size: the same in evaluation.
        inner_optimizer: ``"adam"``, with β₁ = 0 as in the paper's code, or ``"sgd"``.
        keep_moments: let Adam's second moment go on from meta-update to meta-update, as the paper's code does, where
            that of a meta-batch is the mean over its tasks. By default Adam starts afresh in every task, and its first
            step moves each weight by the full rate, however small its gradient.
        loss_fn, mapping: as for :class:`~mlcore.learners.base.Learner`.

    Derived in: Forget the Hessian?, :eq:`eq-reptile`.
    """

    batch_norm = "one_query"

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int,
        test_steps: int | None = None,
        batch_size: int = 10,
        test_batch_size: int | None = None,
        inner_optimizer: Literal["adam", "sgd"] = "adam",
        keep_moments: bool = False,
        loss_fn: LossFn = F.cross_entropy,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(
            net, inner_lr=inner_lr, inner_steps=inner_steps, test_steps=test_steps, loss_fn=loss_fn, mapping=mapping
        )
        test_batch_size = batch_size if test_batch_size is None else test_batch_size
        if min(batch_size, test_batch_size) < 1:
            raise ValueError(f"batch_size={batch_size} and test_batch_size={test_batch_size} must be at least 1.")
        if inner_optimizer not in ("adam", "sgd"):
            raise ValueError(f"inner_optimizer must be 'adam' or 'sgd', not {inner_optimizer!r}.")
        self.batch_size, self.test_batch_size, self.inner_optimizer = batch_size, test_batch_size, inner_optimizer
        self.keep_moments = keep_moments
        if inner_optimizer == "adam":
            self.register_buffer("adam_steps", torch.tensor(0))
            for i, value in enumerate(self.start().values()):
                self.register_buffer(f"second_moment_{i}", torch.zeros_like(value))

    def second_moment(self) -> Params:
        """Where Adam's second moment begins in a task, by name; nothing for SGD."""
        names = self.start() if self.inner_optimizer == "adam" else ()
        return {name: self.get_buffer(f"second_moment_{i}") for i, name in enumerate(names)}

    def adapt(self, support_x: Tensor, support_y: Tensor) -> tuple[Params, Params]:
        """Weights θ' after training on one support set, as constants, and Adam's second moment."""
        params, second_moment = detached(self.start()), self.second_moment()
        batch_size = self.batch_size if self.training else self.test_batch_size
        batches = max(1, len(support_x) // batch_size)
        for step in range(self.inner_steps if self.training else self.test_steps):
            x, y = (part[step % batches :: batches] for part in (support_x, support_y))

            def support_loss(params: Params, x: Tensor = x, y: Tensor = y) -> Tensor:
                return self.row_loss(functional_call(self.net, params, (x,)), y)

            if self.inner_optimizer == "sgd":
                params = inner_step(support_loss, params, self.inner_lr)
                continue
            unbiased = 1 - _BETA2 ** (int(self.adam_steps) + step + 1)
            for name, g in support_gradient(support_loss, params, constant=True)[0].items():
                second_moment[name] = _BETA2 * second_moment[name] + (1 - _BETA2) * g.square()
                root = (second_moment[name] / unbiased).sqrt() + 1e-8
                params[name] = params[name] - self.inner_lr * g / root
        return params, second_moment

    def predict(self, adapted: tuple[Params, Params], query_x: Tensor) -> Tensor:
        """f_θ'(x) for one task's queries."""
        return super().predict(adapted[0], query_x)

    @torch.no_grad()
    def meta_backward(self, batch: Task) -> tuple[Tensor, Tensor]:
        """Accumulate θ - θ', averaged over tasks, in ``.grad``. Loss and outputs are those of the query sets."""
        outputs, *adapted = self.run(batch, "transductive", keep=lambda pair: (*pair[0].values(), *pair[1].values()))
        start, moments = self.start(), self.second_moment()
        for value, tuned in zip(start.values(), adapted, strict=False):
            direction = value - tuned.mean(0)
            value.grad = direction if value.grad is None else value.grad + direction
        if self.keep_moments and moments:
            for moment, tuned in zip(moments.values(), adapted[len(start) :], strict=True):
                moment.copy_(tuned.mean(0))
            self.adam_steps += self.inner_steps
        return self.query_loss(outputs, batch.query_y), outputs


_BETA2 = 0.999
