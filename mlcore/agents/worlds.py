"""Tasks that answer back: what a learner sees depends on what it does."""

import copy
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mlcore.objective import Metric, Objective
from mlcore.task import DrawnTasks, Examples, Task, Tasks


class World(NamedTuple):
    """A batch of worlds. All that will happen by chance is decided before: a life is a function of what is done.

    So two agents meet the same worlds with the same luck, and are compared in pairs.
    """

    hidden: Tensor  # [tasks, ...] what the agent is not told: an arm's chances, where a goal is
    luck: Tensor  # [tasks, lifetime, chances] in [0, 1), the world's
    dice: Tensor  # [tasks, lifetime, actions] in [0, 1), for agents that choose at random


class Step(NamedTuple):
    """What an agent did, and what came of it. Before its first action it has done nothing: zeros."""

    action: Tensor  # [actions], one-hot
    reward: Tensor  # []
    observation: Tensor  # [observations], where it is now
    ended: Tensor  # [] 1 where an episode has ended, and the observation is the start of the next
    worth: Tensor  # [] the reward expected of this action here, which the agent does not see


def total(outputs: Tensor, y: Any) -> Tensor:
    """The sum of rewards [lifetime]."""
    return outputs.sum()


class Worlds(DrawnTasks):
    """A distribution of worlds. A subclass says what is hidden, where a life starts, and what an action does.

    Its methods are of *one* world, pure and without branches on tensors, so that thousands are lived in at once.

    Attributes:
        actions: how many there are.
        lifetime: how many of them a life has, over all its episodes.
        observations: length of an observation; 0 where there is nothing to see but rewards.
        chances: random numbers that the world uses in a step.

    Derived in: A learner that explores, :eq:`eq-life`.
    """

    objective = Objective(lambda outputs, y: -total(outputs, y), {"reward": Metric(total, percent=False)})
    actions: int
    lifetime: int
    observations: int = 0
    chances: int = 1

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """What is hidden in ``n_tasks`` worlds."""
        raise NotImplementedError(f"{type(self).__name__} must define draw(n_tasks, generator).")

    def start(self, hidden: Tensor) -> Any:
        """Where a life begins: tensors that :meth:`step` is handed back."""
        return ()

    def see(self, place: Any) -> Tensor:
        """What is seen there [observations]."""
        return torch.zeros(self.observations)

    def step(self, hidden: Tensor, place: Any, action: Tensor, luck: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        """The next place, the reward, its expectation, and 1 where an episode ended; of an action [actions]."""
        raise NotImplementedError(f"{type(self).__name__} must define step(hidden, place, action, luck).")

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw worlds, their luck and an agent's dice."""
        hidden = self.draw(n_tasks, generator)
        luck, dice = (
            torch.rand(n_tasks, self.lifetime, each, generator=generator) for each in (self.chances, self.actions)
        )
        return Task(World(hidden, luck, dice), Examples(hidden)).to(self._device)

    def replace(self, *, lifetime: int | None = None, **sizes: Any) -> Self:
        """The same worlds, to live in for longer or shorter."""
        super().replace(**sizes)  # refuses what there is not
        other = copy.copy(self)
        other.lifetime = self.lifetime if lifetime is None else lifetime
        return other


class Bandits(Worlds):
    """Arms that pay 1 or nothing, each with a chance of its own, uniform on [0, 1] (Duan et al., 2016, section 3.1).

    Args:
        arms: k.
        pulls: n, the length of a life.

    Derived in: A learner that explores, :eq:`eq-bandit-belief`.
    """

    def __init__(self, arms: int = 5, pulls: int = 10) -> None:
        if arms < 2 or pulls < 1:
            raise ValueError(f"a bandit needs at least 2 arms and 1 pull, not arms={arms}, pulls={pulls}.")
        self.actions, self.lifetime = arms, pulls

    def __repr__(self) -> str:
        return f"Bandits(arms={self.actions}, pulls={self.lifetime})"

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """The arms' chances [n_tasks, arms]."""
        return torch.rand(n_tasks, self.actions, generator=generator)

    def step(self, hidden: Tensor, place: Any, action: Tensor, luck: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Pull an arm."""
        chance = hidden @ action
        return place, (luck[0] < chance).to(chance.dtype), chance, torch.zeros_like(chance)


class HiddenGoal(Worlds):
    """A square of cells with a goal in one of them, which is not seen (Zintgraf et al., 2020, section 5.1).

    A life has several episodes, each from the lower left corner; the goal stays. It is nowhere next to the corner. A
    step onto the goal, or staying there, is worth 1, every other step -0.1. The agent sees where it is.

    Args:
        side: cells along an edge.
        steps: of an episode.
        episodes: of a life.

    Derived in: A learner that explores, :eq:`eq-hunt`.
    """

    MOVES = ((0, 0), (1, 0), (0, 1), (-1, 0), (0, -1))  # of (row, column); into a wall nothing moves
    chances = 0
    actions = len(MOVES)

    def __init__(self, side: int = 5, steps: int = 15, episodes: int = 4) -> None:
        if side < 3 or steps < 1 or episodes < 1:
            raise ValueError(
                f"a hidden goal needs 3 cells a side and 1 step and episode, not {side=}, {steps=}, {episodes=}."
            )
        self.side, self.steps, self.episodes = side, steps, episodes
        self.lifetime, self.observations = steps * episodes, side**2

    def __repr__(self) -> str:
        return f"HiddenGoal(side={self.side}, steps={self.steps}, episodes={self.episodes})"

    @property
    def goals(self) -> list[tuple[int, int]]:
        """The cells (row, column) in which a goal may be."""
        every = [(row, column) for row in range(self.side) for column in range(self.side)]
        return [cell for cell in every if max(cell) > 1]

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Goals [n_tasks, 2]."""
        return torch.tensor(self.goals)[torch.randint(len(self.goals), (n_tasks,), generator=generator)]

    def start(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The corner, and the number of steps in the episode."""
        return torch.zeros_like(hidden), hidden.new_zeros(())

    def see(self, place: tuple[Tensor, Tensor]) -> Tensor:
        """1 at the cell where it is [cells]."""
        row, column = place[0]
        return (torch.arange(self.side**2) == self.side * row + column).float()

    def step(self, hidden: Tensor, place: Any, action: Tensor, luck: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Move; after the last step of an episode, back to the corner."""
        cell, count = place
        cell = (cell + (action @ torch.tensor(self.MOVES, dtype=action.dtype)).long()).clamp(0, self.side - 1)
        reward = torch.where((cell == hidden).all(), 1.0, -0.1)
        ended = count + 1 == self.steps
        place = torch.where(ended, torch.zeros_like(cell), cell), torch.where(ended, 0, count + 1)
        return place, reward, reward, ended.float()


class LengtheningLives(Tasks):
    """The same worlds, in which lives are short for a while, and then one step longer after every few meta-batches.

    What to do with what one knows is learned in a short life, and finding out more pays only after that.

    Args:
        worlds: whose own lifetime is the last.
        first: the first lifetime, and ``hold``, for how many meta-batches.
        every: meta-batches of each lifetime after that.
    """

    def __init__(self, worlds: Worlds, *, first: int = 10, hold: int = 300, every: int = 5) -> None:
        if first < 1 or every < 1:
            raise ValueError(f"lives need a first length and meta-batches of each, not first={first}, every={every}.")
        self.worlds, self.first, self.hold, self.every, self.drawn = worlds, first, hold, every, 0
        self.objective = worlds.objective

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw worlds for lives of the length that it is time for."""
        longer = -(-max(0, self.drawn + 1 - self.hold) // self.every)
        now = min(self.worlds.lifetime, self.first + longer)
        return self.worlds.replace(lifetime=now).sample(n_tasks, generator)

    def to(self, device: torch.device | str) -> "LengtheningLives":
        """The same, its worlds delivered on ``device``."""
        other = copy.copy(self)
        other.worlds = self.worlds.to(device)
        return other

    def feedback(self, scores: dict[str, Tensor]) -> None:
        """Count meta-batches."""
        self.drawn += 1

    def state_dict(self) -> dict[str, Any]:
        """The count."""
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a count."""
        self.drawn = state["drawn"]
