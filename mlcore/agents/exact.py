"""The best that can be done, by dynamic programming over what may be believed."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Arm = tuple[int, int]  # times won, times lost
Rule = Callable[[Arm, int], float]  # the score of an arm with that many pulls left


def indices(lifetime: int, discount: float = 1.0, levels: int = 100) -> Tensor:
    """The index of an arm with uniform prior: [moment, won, lost], of what can be reached by that moment.

    It is the sure payment λ for which one may as well give the arm up for all pulls that are left. For every one of
    ``levels`` payments the best use of one arm is a dynamic programme, backwards in time; between them the advantage
    of going on is taken for a line. With γ = 1 this is the index of Whittle (1988) for a life that ends; with
    γ < 1 it is at a moment m within γ^(lifetime - m) of the index of Gittins (1979).

    Args:
        lifetime: pulls in all.
        discount: γ.
        levels: payments between 0 and 1.

    Derived in: A learner that explores, :eq:`eq-index`.
    """
    pay = torch.linspace(0, 1, levels + 1)[:, None, None]
    won, lost = torch.arange(lifetime)[:, None], torch.arange(lifetime)
    chance = (1 + won) / (2 + won + lost)
    table = torch.zeros(lifetime, lifetime, lifetime)
    value, left = torch.zeros(levels + 1, lifetime + 1, lifetime + 1), 0.0
    for moment in reversed(range(lifetime)):
        n = moment + 1  # an arm has won or lost at most so often, less 1
        left = 1 + discount * left  # what a payment of 1 at every pull that is left is worth
        mean = chance[:n, :n]
        go_on = mean * (1 + discount * value[:, 1 : n + 1, :n]) + (1 - mean) * discount * value[:, :n, 1 : n + 1]
        gain = go_on - left * pay  # falls with λ, from above zero to below
        last = (gain > 0).sum(0).clamp(1, levels) - 1
        above, below = (gain.gather(0, level[None])[0] for level in (last, last + 1))
        table[moment, :n, :n] = (last + above / (above - below)) / levels
        value = torch.maximum(go_on, left * pay)
    return table


def expected_reward(arms: int, pulls: int, rule: Rule | None = None, discount: float = 1.0) -> float:
    """The exact expected reward on Bernoulli bandits with uniform chances, of a rule or of the best play there is.

    All beliefs that can be reached are looked at. Arms are exchangeable, so a belief is what was seen of the arms that
    were pulled, in any order, and the number of others; there are few enough where a life or the number of arms is
    short: all settings of 10 pulls, or two arms and 50.

    Args:
        arms, pulls: sizes of the bandit.
        rule: pulls the arm of the highest score; the best play by default (Bellman, 1956).
        discount: γ.

    Derived in: A learner that explores, :eq:`eq-bellman`.
    """

    @cache
    def value(seen: tuple[Arm, ...], left: int) -> float:
        if not left:
            return 0.0
        others = [(0, 0)] * (len(seen) < arms)
        choices = [arm for i, arm in enumerate(seen) if arm not in seen[:i]] + others
        if rule is not None:
            choices = [max(choices, key=lambda arm, score=rule: score(arm, left))]
        return max(pull(seen, arm, left) for arm in choices)

    def pull(seen: tuple[Arm, ...], arm: Arm, left: int) -> float:
        won, lost = arm
        rest = list(seen)
        if sum(arm):
            rest.remove(arm)
        after = (tuple(sorted([*rest, new])) for new in ((won + 1, lost), (won, lost + 1)))
        if_won, if_lost = (discount * value(belief, left - 1) for belief in after)
        chance = (1 + won) / (2 + won + lost)
        return chance * (1 + if_won) + (1 - chance) * if_lost

    return value((), pulls)
