"""An optimiser that is learned: an LSTM in place of the gradient step (Andrychowicz et al., 2016)."""

import math
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mlcore.inner import LossFn, Params, detached, support_gradient
from mlcore.learners.maml import MAML
from mlcore.mapping import Mapping
from mlcore.nets.lstm import LSTMCell
from mlcore.objective import Objective, cross_entropy
from mlcore.task import Examples


class Iterate(NamedTuple):
    """Where an optimiser is on one problem, what it remembers, and where it was."""

    params: Params  # θ_t
    memory: tuple[tuple[Tensor, Tensor], ...]  # of each LSTM layer: hidden and cell, [coordinates, hidden]
    path: tuple[Params, ...]  # θ_0 … θ_t


class LearnedOptimizer(MAML):
    """Learn the update θ_{t+1} = θ_t + α m(∇f(θ_t), h_t): m is an LSTM that all coordinates share.

    A task is a problem, and its loss f that of ``net`` on the support set. It begins where ``net`` does, which is not
    learned, with an empty memory; an update is one step on the problem. The meta-loss is the mean of the objective at
    θ_0 … θ_T (Andrychowicz et al., 2016, equation 3, with equal weights). Gradients of f that the LSTM reads count as
    constants, as there.

    Args:
        net: the network whose parameters θ are optimised.
        inner_lr: α, the scale of the LSTM's output.
        inner_steps: T, steps on a problem in meta-training.
        test_steps: steps in evaluation mode; as many as ``inner_steps`` by default.
        unroll: the meta-gradient is cut after every so many steps (truncated backpropagation); after all by default.
        hidden: sizes of the LSTM's layers.
        loss_fn, mapping: as for :class:`~mlcore.learners.maml.MAML`.

    Derived in: Learning the optimiser, :eq:`eq-learned-update` and :eq:`eq-trajectory-loss`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int = 100,
        test_steps: int | None = None,
        unroll: int | None = None,
        hidden: tuple[int, ...] = (20, 20),
        loss_fn: LossFn = cross_entropy,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(
            net, inner_lr=inner_lr, inner_steps=inner_steps, test_steps=test_steps, loss_fn=loss_fn, mapping=mapping
        )
        if unroll is not None and unroll < 1:
            raise ValueError(f"unroll={unroll} must be at least 1; leave it out to differentiate through all steps.")
        self.unroll, self.hidden = unroll, hidden
        self.layers = nn.ModuleList(LSTMCell(size, after) for size, after in zip((2, *hidden), hidden, strict=False))
        self.out = nn.Linear(hidden[-1], 1)

    def begin(self) -> Iterate:
        """The network's own parameters, as constants, and an empty memory for every coordinate."""
        params = detached(self.start())
        coordinates = sum(value.numel() for value in params.values())
        zeros = [self.out.weight.new_zeros(coordinates, size) for size in self.hidden]
        return Iterate(params, tuple((zero, zero) for zero in zeros), (params,))

    def update(self, state: Iterate, data: Examples) -> Iterate:
        """One step of the learned optimiser."""
        params, memory, path = state
        if self.unroll is not None and (len(path) - 1) % self.unroll == 0:
            params, memory = detached(params), tuple((h.detach(), c.detach()) for h, c in memory)
        gradient, *_ = support_gradient(lambda p: self.loss_fn(self.at(p, data.x), data.y), params, constant=True)
        move, memory = self.move(torch.cat([g.flatten() for g in gradient.values()]), memory)
        moves = move.split([value.numel() for value in params.values()])
        params = {
            name: value + cast(float, self.inner_lr) * part.view_as(value)
            for (name, value), part in zip(params.items(), moves, strict=True)
        }
        return Iterate(params, memory, (*path, params))

    def move(self, gradient: Tensor, memory: tuple) -> tuple[Tensor, tuple]:
        """What the LSTM makes of a gradient [coordinates]: m of the same shape, and the next memory."""
        x, after = log_and_sign(gradient), []
        for layer, (hidden, cell) in zip(self.layers, memory, strict=True):
            after.append(layer(x, hidden, cell))
            x = after[-1][0]
        return self.out(x)[:, 0], tuple(after)

    def at(self, params: Params, x: Any) -> Tensor:
        """f's network with parameters θ: outputs [n, outputs]."""
        return functional_call(self.net, params, (x,))

    def predict(self, state: Iterate, x: Any) -> Tensor:
        """The network's outputs at the last iterate."""
        return self.at(state.params, x)

    def loss(self, state: Iterate, outputs: Tensor, query: Examples, objective: Objective) -> Tensor:
        """The mean of the objective along the path."""
        return torch.stack([objective.loss(self.at(params, query.x), query.y) for params in state.path]).mean()


def log_and_sign(gradient: Tensor, p: float = 5.0) -> Tensor:
    """Size and sign of numbers [...], both between about -1 and 1: [..., 2].

    Of g with log|g| ≥ -p it is (log|g| / p, sign g), of smaller ones (-1, e^p g); the paper's appendix A. The paper has
    p = 10, its code 5.
    """
    size = (gradient.abs().log() / p).clamp(min=-1)
    return torch.stack([size, (gradient * math.exp(p)).clamp(-1, 1)], -1)
