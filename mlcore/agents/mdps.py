"""Decision processes made by chance, the best that can be done in them, and rules that plan (Duan et al., 2016)."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlcore.agents.agent import Agent, one_hot
from mlcore.agents.worlds import Step, Worlds
from mlcore.mapping import Mapping
from mlcore.tasks.sizes import check_positive


def plan(reward: Tensor, transition: Tensor, horizon: int) -> Tensor:
    """What each action is worth, [..., horizon, states, actions], if the best ones follow; by value iteration.

    Args:
        reward: expected in a state for an action [..., states, actions].
        transition: chances of the next state [..., states, actions, states].
        horizon: moments of an episode; the first of the table is its begin.

    Derived in: A learner that explores, :eq:`eq-mdp-plan`.
    """
    value, table = reward.new_zeros(reward.shape[:-1]), []
    for _ in range(horizon):
        table.append(reward + (transition @ value[..., None, :, None])[..., 0])
        value = table[-1].amax(-1)
    return torch.stack(table[::-1], -3)


class RandomMDPs(Worlds):
    """States and actions whose rewards and transitions are drawn by chance (Duan et al., 2016, section 3.2).

    A reward is normal with variance 1, its mean is normal with mean 1 and variance 1; the chances of the next state are
    uniform on all distributions. Every episode begins in the first state, and the agent sees in which it is.

    Args:
        states, actions: how many.
        horizon: steps of an episode.
        episodes: of a life.

    Derived in: A learner that explores, :eq:`eq-mdp-plan`.
    """

    chances = 2

    def __init__(self, states: int = 10, actions: int = 5, horizon: int = 10, episodes: int = 10) -> None:
        check_positive(states=states, actions=actions, horizon=horizon, episodes=episodes)
        self.observations, self.actions, self.horizon, self.lifetime = states, actions, horizon, horizon * episodes

    def __repr__(self) -> str:
        sizes = f"{self.observations}, {self.actions}, {self.horizon}, {self.lifetime / self.horizon:g}"
        return f"RandomMDPs({sizes})"

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Mean rewards, and beside each the chances of next states [n_tasks, states, actions, 1 + states]."""
        pairs = (n_tasks, self.observations, self.actions)
        mean = 1 + torch.randn(*pairs, 1, generator=generator)
        weight = -torch.rand(*pairs, self.observations, generator=generator).clamp_min(1e-30).log()
        return torch.cat([mean, weight / weight.sum(-1, keepdim=True)], -1)

    def best(self, hidden: Tensor) -> Tensor:
        """The most that can be expected of an episode [...] in worlds [..., states, actions, 1 + states] known."""
        return plan(hidden[..., 0], hidden[..., 1:], self.horizon)[..., 0, 0, :].amax(-1)

    def start(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The first state, one-hot, and the number of steps in the episode."""
        return one_hot(-torch.arange(float(self.observations))), torch.zeros(())

    def see(self, place: tuple[Tensor, Tensor]) -> Tensor:
        """1 at the state where it is [states]."""
        return place[0]

    def step(self, hidden: Tensor, place: Any, action: Tensor, luck: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Draw a reward and the next state; after the last step of an episode, back to the first."""
        state, count = place
        pair = action @ (state @ hidden.flatten(1)).unflatten(0, (self.actions, -1))
        reward = pair[0] + math.sqrt(2) * (2 * luck[0] - 1).clamp(-1 + 1e-6, 1 - 1e-6).erfinv()
        below = pair[1:].cumsum(0)
        passed = (below > luck[1] * below[-1]).to(pair.dtype)
        after = passed - torch.cat([torch.zeros_like(passed[:1]), passed[:-1]])
        ended = (count + 1 == self.horizon).to(pair.dtype)
        first, _ = self.start(hidden)
        return (ended * first + (1 - ended) * after, (1 - ended) * (count + 1)), reward, pair[0], ended


class Known(NamedTuple):
    """What has been seen of a decision process, and the plan of the episode."""

    tried: Tensor  # [states, actions], how often
    paid: Tensor  # [states, actions], the sum of rewards
    led: Tensor  # [states, actions, states], how often to which state; where an episode ended that is not seen
    here: Tensor  # [states], where it is
    moment: Tensor  # [] of the episode
    table: Tensor  # [horizon, states, actions], what the plan takes each action to be worth

    def reward(self, prior: float) -> Tensor:
        """The expectation of the mean rewards [states, actions]: what was expected before counts for one reward."""
        return (prior + self.paid) / (1 + self.tried)

    @property
    def transition(self) -> Tensor:
        """The expectation of the chances [states, actions, states]: the prior counts every state once."""
        return (1 + self.led) / (1 + self.led).sum(-1, keepdim=True)


class PlanGreedily(Agent):
    """Plan every episode as if what is expected of the world were true; with probability ``epsilon`` do anything.

    The belief is exact, and its update is counting. What follows plans with something else than the expectation.

    Args:
        worlds: decision processes.
        epsilon: ε.
        prior: the mean reward to be expected of a pair that was never tried; these worlds have 1.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: A learner that explores, :eq:`eq-mdp-plan` and :eq:`eq-mdp-belief`.
    """

    worlds: RandomMDPs

    def __init__(
        self, worlds: RandomMDPs, *, epsilon: float = 0.0, prior: float = 1.0, mapping: Mapping = "vmap"
    ) -> None:
        super().__init__(worlds, mapping=mapping)
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon={epsilon} must lie between 0 and 1.")
        self.epsilon, self.prior = epsilon, prior

    def begin(self) -> Known:
        """Nothing seen, and before the first moment."""
        s, a, h = self.worlds.observations, self.worlds.actions, self.worlds.horizon
        pairs = torch.zeros(s, a)
        return Known(pairs, pairs, torch.zeros(s, a, s), torch.zeros(s), -torch.ones(()), torch.zeros(h, s, a))

    def update(self, state: Known, data: Step) -> Known:
        """Count; where an episode begins, plan."""
        pair = state.here[:, None] * data.action  # of nothing before the first step
        known = state._replace(
            tried=state.tried + pair,
            paid=state.paid + data.reward * pair,
            led=state.led + (1 - data.ended) * pair[..., None] * data.observation,
            here=data.observation,
            moment=(state.moment + 1) % self.worlds.horizon,
        )
        # The clock is the agent's own, and the same in all worlds, so one may branch on it.
        return known._replace(table=self.imagine(known)) if int(known.moment) == 0 else known

    def imagine(self, known: Known) -> Tensor:
        """What each action is taken to be worth [horizon, states, actions]."""
        return plan(known.reward(self.prior), known.transition, self.worlds.horizon)

    def act(self, state: Known) -> Tensor:
        """The worth of each action here and now [actions]."""
        return state.here @ state.table[int(state.moment)]

    def choose(self, said: Tensor, dice: Tensor) -> Tensor:
        """The best action, or any."""
        explores = dice.amin() < 1 - (1 - self.epsilon) ** (1 / len(dice))
        return torch.where(explores, one_hot(dice), super().choose(said, dice))


class PSRL(PlanGreedily):
    """Posterior sampling (Strens, 2000; Osband et al., 2013): draw a world from what is believed, plan as if in it.

    With more than one draw, of every action the highest worth in any of them counts: the optimistic variant.

    Args:
        worlds, prior, mapping: as for :class:`PlanGreedily`.
        draws: worlds that are drawn for an episode.
    """

    def __init__(self, worlds: RandomMDPs, *, draws: int = 1, prior: float = 1.0, mapping: Mapping = "vmap") -> None:
        super().__init__(worlds, prior=prior, mapping=mapping)
        check_positive(draws=draws)
        self.draws = draws

    def imagine(self, known: Known) -> Tensor:
        """The highest worth in worlds that are drawn from the posterior."""
        tried, led = (part.expand(self.draws, *part.shape) for part in (known.tried, known.led))
        reward = known.reward(self.prior) + torch.randn_like(tried) / (1 + tried).sqrt()
        # torch.distributions has no rule under vmap.
        weight = torch._standard_gamma(1 + led)  # pyright: ignore[reportPrivateImportUsage]
        return plan(reward, weight / weight.sum(-1, keepdim=True), self.worlds.horizon).amax(0)


class UCRL2(PlanGreedily):
    """Plan as if in the best of all worlds that are not ruled out (Jaksch et al., 2010).

    Rewards may be higher by √(7 log(2 S A t / δ) / 2n), and chances differ by √(14 S log(2 A t / δ) / n) in all, with n
    how often a pair was tried, t all steps, and δ = 0.05.

    Args:
        worlds, prior, mapping: as for :class:`PlanGreedily`.
        width: both bounds are multiplied by it; 1 in the paper, where the theorem needs it.
    """

    def __init__(
        self, worlds: RandomMDPs, *, width: float = 1.0, prior: float = 1.0, mapping: Mapping = "vmap"
    ) -> None:
        super().__init__(worlds, prior=prior, mapping=mapping)
        self.width = width

    def imagine(self, known: Known) -> Tensor:
        """Extended value iteration: at every moment the chances that are best for the values of the next."""
        s, a = known.tried.shape
        n, time = known.tried.clamp_min(1), known.tried.sum().clamp_min(1)
        reward = known.reward(self.prior) + self.width * (7 * (2 * s * a * time / 0.05).log() / (2 * n)).sqrt()
        spare = self.width * (14 * s * (2 * a * time / 0.05).log() / n).sqrt()
        value, table = torch.zeros(s), []
        for _ in range(self.worlds.horizon):
            order = value.argsort(descending=True)
            chance = known.transition[..., order]
            # To the best state as much as may be; what is too much is taken from the worst.
            most = (chance[..., :1] + spare[..., None] / 2).clamp_max(1)
            upto = torch.cat([most, most + chance[..., 1:].cumsum(-1)], -1).clamp_max(1)
            moved = upto - torch.cat([torch.zeros_like(most), upto[..., :-1]], -1)
            table.append(reward + moved @ value[order])
            value = table[-1].amax(-1)
        return torch.stack(table[::-1])
