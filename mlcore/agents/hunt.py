"""The best search for a hidden goal, and search by guessing."""

from typing import NamedTuple

import torch
from torch import Tensor

from mlcore.agents.agent import Agent
from mlcore.agents.worlds import HiddenGoal, Step

Cell = tuple[int, int]


def found_at(worlds: HiddenGoal, goal: Cell, moment: int) -> float:
    """The reward of a life that steps onto the goal first at a moment (from 0 on), and knows it from then on."""
    episode, step = divmod(moment, worlds.steps)
    there = worlds.steps - step
    later = worlds.episodes - episode - 1
    way = sum(goal) - 1  # steps to it from the corner that are not yet worth anything
    return there - 0.1 * moment + later * (worlds.steps - way - 0.1 * way)


def best_hunt(worlds: HiddenGoal, *, width: int = 300) -> tuple[float, list[Cell]]:
    """The exact reward of the best play, and its walk until the goal is found: a cell for each moment.

    Until then nothing is learned but where the goal is not, so a plan is a walk, and what is believed is the set of
    cells it has not met. A dynamic programme goes through the moments and keeps for every cell and set the best walk so
    far; those are dropped that could not catch up if they met a new cell at every step. A first pass that keeps
    ``width`` of them at each moment finds what is to be beaten.

    Derived in: A learner that explores, :eq:`eq-hunt`.
    """
    value, _ = _search(worlds, least=-float("inf"), width=width)
    return _search(worlds, least=value, width=None)


def _search(worlds: HiddenGoal, least: float, width: int | None) -> tuple[float, list[Cell]]:
    goals = worlds.goals
    number = {cell: i for i, cell in enumerate(goals)}
    chance, inside = 1 / len(goals), range(worlds.side)
    # At every moment, for cell and set: the reward of goals met so far, and the walk as a chain (cell, chain before).
    reached: dict[tuple[Cell, int], tuple[float, tuple]] = {((0, 0), (1 << len(goals)) - 1): (0.0, ())}
    best: tuple[float, tuple] = (-float("inf"), ())
    for moment in range(worlds.lifetime):
        after: dict[tuple[Cell, int], tuple[float, tuple]] = {}
        for (cell, left), (gained, walk) in reached.items():
            for move in worlds.MOVES:
                new = (cell[0] + move[0], cell[1] + move[1])
                if new[0] not in inside or new[1] not in inside:
                    continue
                value, remain = gained, left
                if new in number and left >> number[new] & 1:
                    remain = left & ~(1 << number[new])
                    value += chance * found_at(worlds, new, moment)
                if not remain:
                    best = max(best, (value, (new, walk)), key=lambda pair: pair[0])
                    continue
                place = ((0, 0) if (moment + 1) % worlds.steps == 0 else new, remain)
                if place not in after or value > after[place][0]:
                    after[place] = value, (new, walk)
        hope = {left: _hope(worlds, moment + 1, left) for left in {left for _, left in after}}
        least = max(least, best[0])
        kept = [(k, v) for k, v in after.items() if v[0] + hope[k[1]] >= least - 1e-9]
        kept.sort(key=lambda pair: pair[1][0] + hope[pair[0][1]], reverse=True)
        reached = dict(kept[:width])
        if not reached:
            break
    never = 0.1 * worlds.lifetime * chance
    ends = [(value - never * left.bit_count(), walk) for (_, left), (value, walk) in reached.items()]
    best = max([best, *ends], key=lambda pair: pair[0])
    walk, chain = [], best[1]
    while chain:
        walk.append(chain[0])
        chain = chain[1]
    return best[0], walk[::-1]


def _hope(worlds: HiddenGoal, moment: int, left: int) -> float:
    """What goals that are left would bring if every step but an episode's first met one, near ones first."""
    goals = sorted((goal for i, goal in enumerate(worlds.goals) if left >> i & 1), key=sum)
    total = 0.0
    for goal in goals:
        if moment % worlds.steps == 0:
            moment += 1
        if moment >= worlds.lifetime:
            total -= 0.1 * worlds.lifetime
        else:
            total += found_at(worlds, goal, moment)
            moment += 1
    return total / len(worlds.goals)


class Search(NamedTuple):
    """What a guesser believes."""

    possible: Tensor  # [cells] 1 where the goal may still be
    guess: Tensor  # [cells] one-hot
    cell: Tensor  # [cells] one-hot, where it is


class GuessAndGo(Agent):
    """Draw a goal from what is still possible, walk to it, and draw again: posterior sampling (Strens, 2000)."""

    worlds: HiddenGoal

    def begin(self) -> Search:
        """Any of the goals."""
        side = self.worlds.side
        possible = torch.zeros(side, side)
        for cell in self.worlds.goals:
            possible[cell] = 1
        return Search(possible.flatten(), torch.zeros(side**2), torch.zeros(side**2))

    def update(self, state: Search, data: Step) -> Search:
        """Cross out the cell stepped on, or all others."""
        # At the end of an episode the cell seen is the corner again: what was met is where the last step led.
        met = torch.where(data.ended > 0, self.moved(state.cell, data.action), data.observation)
        possible = torch.where(data.reward == 1, met, state.possible * (1 - met))
        again = (possible * state.guess).sum() == 0
        fresh = (possible * (1 + torch.rand(len(met)))).argmax() == torch.arange(len(met))
        return Search(possible, torch.where(again, fresh.float(), state.guess), data.observation)

    def places(self) -> Tensor:
        """Row and column of every cell [cells, 2]."""
        side = self.worlds.side
        return torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()

    def moved(self, cell: Tensor, action: Tensor) -> Tensor:
        """The cell [cells] to which an action leads."""
        side = self.worlds.side
        row, column = (cell @ self.places() + action @ torch.tensor(self.worlds.MOVES).float()).clamp(0, side - 1)
        return (torch.arange(side**2) == side * row + column).float()

    def act(self, state: Search) -> Tensor:
        """How near to the guess each action leads [actions]."""
        way = (state.guess - state.cell) @ self.places()
        return -(way - torch.tensor(self.worlds.MOVES).float()).abs().sum(-1)
