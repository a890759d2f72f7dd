"""Rules that play bandits without any meta-training: what a learned explorer has to beat."""

from typing import NamedTuple

import torch
from torch import Tensor

from mlcore.agents.agent import Agent, one_hot
from mlcore.agents.exact import indices
from mlcore.agents.worlds import Bandits, Step
from mlcore.mapping import Mapping


class Counts(NamedTuple):
    """What has been seen of each arm; with a uniform prior, the belief is Beta(1 + won, 1 + lost)."""

    won: Tensor  # [arms]
    lost: Tensor  # [arms]

    @property
    def mean(self) -> Tensor:
        """The chance to be expected of each arm [arms]."""
        return (1 + self.won) / (2 + self.won + self.lost)

    @property
    def pulls(self) -> Tensor:
        """How often arms were pulled, in all []."""
        return (self.won + self.lost).sum()


class Greedy(Agent):
    """Pull the arm of the highest expected chance, and with probability ``epsilon`` any arm.

    The state is the exact posterior of uniform chances, and its update is counting.

    Args:
        worlds: bandits.
        epsilon: ε.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: A learner that explores, :eq:`eq-bandit-belief`.
    """

    def __init__(self, worlds: Bandits, *, epsilon: float = 0.0, mapping: Mapping = "vmap") -> None:
        super().__init__(worlds, mapping=mapping)
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon={epsilon} must lie between 0 and 1.")
        self.epsilon = epsilon

    def begin(self) -> Counts:
        """Nothing seen."""
        return Counts(torch.zeros(self.worlds.actions), torch.zeros(self.worlds.actions))

    def update(self, state: Counts, data: Step) -> Counts:
        """Count."""
        return Counts(state.won + data.reward * data.action, state.lost + (1 - data.reward) * data.action)

    def act(self, state: Counts) -> Tensor:
        """A score for each arm [arms]."""
        return state.mean

    def choose(self, said: Tensor, dice: Tensor) -> Tensor:
        """The best arm, or any."""
        # Of k numbers in [0, 1) the smallest is below 1 - (1 - ε)^(1/k) with probability ε, whichever is the largest.
        explores = dice.amin() < 1 - (1 - self.epsilon) ** (1 / len(dice))
        return torch.where(explores, one_hot(dice), super().choose(said, dice))


class UCB(Greedy):
    """Pull the arm of the highest upper bound, mean + c √(2 log t / n) (Auer et al., 2002, UCB1, there c = 1).

    Every arm begins with one success and one failure, its prior.

    Args:
        worlds, mapping: as for :class:`Greedy`.
        width: c.
    """

    def __init__(self, worlds: Bandits, *, width: float = 1.0, mapping: Mapping = "vmap") -> None:
        super().__init__(worlds, mapping=mapping)
        self.width = width

    def act(self, state: Counts) -> Tensor:
        """Upper bounds [arms]."""
        seen = 2 + state.won + state.lost
        return state.mean + self.width * (2 * seen.sum().log() / seen).sqrt()


class Thompson(Greedy):
    """Draw each arm's chance from its posterior, and pull the arm of the highest draw (Thompson, 1933).

    Args:
        worlds, mapping: as for :class:`Greedy`.
    """

    def act(self, state: Counts) -> Tensor:
        """A draw for each arm [arms]."""
        # A beta variable is a share of two gamma variables. torch.distributions has no rule under vmap.
        counts = 1 + torch.stack([state.won, state.lost])
        drawn = torch._standard_gamma(counts)  # pyright: ignore[reportPrivateImportUsage]
        return drawn[0] / drawn.sum(0)


class Index(Greedy):
    """Pull the arm of the highest index: a number that depends on one arm's counts and on the time that is left.

    Args:
        worlds, mapping: as for :class:`Greedy`.
        discount: payments to come count γ each step; 1 for lives that end, the index of Whittle (1988).

    Derived in: A learner that explores, :eq:`eq-index`.
    """

    def __init__(self, worlds: Bandits, *, discount: float = 1.0, mapping: Mapping = "vmap") -> None:
        super().__init__(worlds, mapping=mapping)
        self.table = indices(worlds.lifetime, discount)

    def act(self, state: Counts) -> Tensor:
        """Indices [arms]."""
        place = (state.pulls * len(self.table) + state.won) * len(self.table) + state.lost
        return self.table.flatten()[place.long()]
