"""Reptile (Nichol, Achiam and Schulman, 2018)."""

from collections.abc import Iterator
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from mlcore.inner import SGD, Adam, AdamMemory, LossFn, Optimiser, Params, detached, unroll
from mlcore.learners.maml import MAML
from mlcore.mapping import Mapping
from mlcore.objective import Objective, cross_entropy
from mlcore.task import Examples


class Reptile(MAML):
    """Move the initialisation towards the weights that training on each task ends with: θ ← θ + ε mean(θ' - θ).

    No derivative passes through the inner loop, and no query set is needed: θ - θ' takes the place of the meta-gradient
    (Nichol et al., 2018, algorithm 2; with a meta-batch of one task, algorithm 1). The paper's code trains it with
    ``meta_train(…, optimizer=torch.optim.SGD, outer_lr=1.0, decay="linear")`` and several times the shots of the test.

    Args:
        net: the network f_θ; all its trainable parameters are adapted.
        inner_lr: rate of the inner optimiser.
        inner_steps, test_steps: its steps, in meta-training and in evaluation.
        batch_size: examples in an inner step, at most the support set: with its examples sorted by class, batch i of b
            takes every b-th from the i-th on, so that batches are balanced.
        test_batch_size: the same in evaluation.
        shuffle: shuffle the examples at each pass through them instead, as the paper's code does: batches then hold
            random numbers of each class.
        inner_optimizer: ``"adam"``, with β₁ = 0 as in the paper's code, or ``"sgd"``.
        keep_moments: let Adam's second moment go on from meta-update to meta-update, as the paper's code does, where
            that of a meta-batch is the mean over its tasks. By default Adam starts afresh in every task, and its first
            step moves each weight by the full rate, however small its gradient.
        loss_fn, mapping: as for :class:`~mlcore.learners.maml.MAML`.

    Derived in: Forget the Hessian?, :eq:`eq-reptile`.
    """

    batch_norm = "one_query"
    reads_order = True  # which examples of a class meet in a minibatch

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int,
        test_steps: int | None = None,
        batch_size: int = 10,
        test_batch_size: int | None = None,
        shuffle: bool = False,
        inner_optimizer: Literal["adam", "sgd"] = "adam",
        keep_moments: bool = False,
        loss_fn: LossFn = cross_entropy,
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
        if keep_moments and inner_optimizer == "sgd":
            raise ValueError("keep_moments=True needs inner_optimizer='adam': gradient descent has no moments.")
        self.batch_size, self.test_batch_size, self.shuffle = batch_size, test_batch_size, shuffle
        self.inner_optimizer, self.keep_moments = inner_optimizer, keep_moments
        if keep_moments:
            self.register_buffer("adam_steps", next(iter(self.start().values())).new_zeros(()))
            for i, value in enumerate(self.start().values()):
                self.register_buffer(f"second_moment_{i}", torch.zeros_like(value))

    @property
    def optimiser(self) -> Optimiser:
        """The inner optimiser."""
        return Adam(cast(float, self.inner_lr)) if self.inner_optimizer == "adam" else SGD(self.rates())

    def begin(self) -> tuple[Params, Any]:
        """θ as constants, and what the inner optimiser remembers."""
        params = detached(self.start())
        if not self.keep_moments:
            return params, self.optimiser.begin(params)
        moments = {name: self.get_buffer(f"second_moment_{i}") for i, name in enumerate(params)}
        return params, AdamMemory(self.get_buffer("adam_steps"), moments)

    def stream(self, support: Examples) -> Iterator[Examples]:
        """A minibatch for each step."""
        batch_size = self.batch_size if self.training else self.test_batch_size
        batches = max(1, len(support.x) // batch_size)
        order = support.y.flatten(1).argmax(-1).argsort(stable=True)  # by class, where there are classes
        for step in range(self.steps):
            done, i = divmod(step, batches)
            if self.shuffle:  # rows come in random order, so one list of permutations serves all tasks
                order = torch.as_tensor(np.random.default_rng(done).permutation(len(order)), device=order.device)
            mine = order[i * batch_size :][:batch_size] if self.shuffle else order[i::batches]
            yield Examples(support.x[mine], support.y[mine]) if batches > 1 else support

    def update(self, state: tuple[Params, Any], data: Examples) -> tuple[Params, Any]:
        """A step of the inner optimiser, through which no derivative passes."""
        params, memory = state
        return unroll(self.support_loss_of, params, self.optimiser, (data,), memory=memory, first_order=True)

    def support_loss_of(self, params: Params, data: Examples) -> Tensor:
        """The loss of weights on a minibatch."""
        return self.loss_fn(super().predict(params, data.x), data.y)

    def predict(self, state: tuple[Params, Any], x: Any) -> Tensor:
        """f_θ'(x)."""
        return super().predict(state[0], x)

    def loss(self, state: tuple[Params, Any], outputs: Tensor, query: Examples, objective: Objective) -> Tensor:
        """The query loss in value, with θ - θ' as its gradient: that of ½ ‖θ - θ'‖²."""
        moved = [(value - state[0][name]).square().sum() / 2 for name, value in self.start().items()]
        distance = torch.stack(moved).sum()
        return super().loss(state, outputs, query, objective).detach() + distance - distance.detach()

    def leave(self, state: tuple[Params, Any]) -> tuple[Tensor, ...]:
        """What the optimiser remembers, if it is to go on with it."""
        memory = state[1]
        return (memory.steps, *memory.second_moment.values()) if self.keep_moments else ()

    def receive(self, *means: Tensor) -> None:
        """Begin the next tasks with the mean memory of these."""
        if means:
            steps, *moments = means
            self.get_buffer("adam_steps").copy_(steps)
            for i, moment in enumerate(moments):
                self.get_buffer(f"second_moment_{i}").copy_(moment)
