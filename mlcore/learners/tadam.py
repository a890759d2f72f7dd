"""TADAM's task conditioning and metric scaling (Oreshkin, Rodríguez López and Lacoste, 2018)."""

from typing import Any

import torch
from torch import Tensor, nn

from mlcore.learners.film import FiLM
from mlcore.learners.metric import class_means
from mlcore.objective import Objective
from mlcore.task import Examples


class Tadam(FiLM):
    """Scales and shifts written from the mean of the class prototypes, each layer's through a multiplier of its own.

    The task is represented by the mean prototype of the unmodulated network. A layer's γ and β are a network's answer
    to it, times γ₀ and β₀, two numbers a layer that start at zero and are drawn back to it by a penalty: a layer is
    modulated only where that pays (Oreshkin et al., 2018). Logits are distances times a learned scale, as
    for :class:`FiLM` (theirs, too).

    Here the network under it is frozen. The paper trains it along, together with a classifier of all training classes.

    Args:
        net: as for :class:`FiLM`.
        penalty: on the squares of γ₀ and β₀, added to the loss of every task.
        settings: the others of :class:`FiLM`.

    Derived in: Writing weights from the support set, :eq:`eq-write-tadam`.
    """

    def __init__(self, net: nn.Module, *, penalty: float = 0.01, **settings: Any) -> None:
        super().__init__(net, **settings)
        if penalty < 0:
            raise ValueError(f"penalty={penalty} must not be negative.")
        self.penalty = penalty
        self.writer.reset_parameters()  # the multipliers begin at zero in its place
        self.multipliers = nn.Parameter(torch.zeros(len(self.channels), 2))  # γ₀ and β₀ of each layer

    def condition(self, z: Tensor, y: Tensor) -> Tensor:
        """What the writer reads: an encoding of the mean prototype, [width]."""
        return self.encoder(class_means(z, y).mean(0))

    def modulation(self, code: Tensor) -> list[tuple[Tensor, Tensor]]:
        """γ₀ g and β₀ h of each normalisation in turn, [channels] each."""
        written = zip(super().modulation(code), self.multipliers, strict=True)
        return [(gamma * most[0], beta * most[1]) for (gamma, beta), most in written]

    def loss(self, state: Any, outputs: Any, query: Examples, objective: Objective) -> Tensor:
        """The objective's loss on the queries, and the penalty."""
        return super().loss(state, outputs, query, objective) + self.penalty * self.multipliers.square().sum()
