"""A point that looks for a goal in the plane, as batched tensors (Finn, Abbeel and Levine, 2017, section 5.3)."""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from mlcore.objective import Metric, Objective
from mlcore.task import DrawnTasks, Examples, Task
from mlcore.tasks.sizes import check_positive

Act = Callable[[Tensor], tuple[Tensor, Tensor]]
"""What is seen [paths, seen] to the mean [paths, 2] and the log of the standard deviation [2] of an action."""


class Walks(NamedTuple):
    """Where some paths are to lead, and all the chance in them: a path is a function of what is done."""

    goal: Tensor  # [tasks, ...], what a policy is not told: in the plane [tasks, 2]
    noise: Tensor  # [tasks, paths, horizon, 2], standard normal; of a support set [tasks, stages, paths, horizon, 2]


class Paths(NamedTuple):
    """What came of some walks in one world."""

    seen: Tensor  # [paths, horizon, seen], before each action
    action: Tensor  # [paths, horizon, 2], in units of the largest action, as it was drawn
    reward: Tensor  # [paths, horizon]
    alive: Tensor  # [paths, horizon], 1 until the goal was reached

    @property
    def returns(self) -> Tensor:
        """The sum of rewards of each path [paths]."""
        return self.reward.sum(-1)


def mean_return(outputs: Tensor, y: Any) -> Tensor:
    """The mean of the returns of a task's paths [paths]."""
    return outputs.mean()


class Walking(DrawnTasks):
    """Worlds that a policy walks in before it is judged. A subclass says what is hidden in one, and what a walk is.

    Args:
        paths: walked by each policy in each world.
        stages: how often a policy walks before it is judged, once for every gradient step.
        horizon: moves of a path.
    """

    objective = Objective(lambda outputs, y: -mean_return(outputs, y), {"return": Metric(mean_return, percent=False)})
    actions: int
    seen: int

    def __init__(self, paths: int = 20, *, stages: int = 1, horizon: int = 100) -> None:
        check_positive(paths=paths, horizon=horizon)
        if stages < 0:
            raise ValueError(f"stages={stages} must not be negative; 0 is to be judged as one is.")
        self.paths, self.stages, self.horizon = paths, stages, horizon

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """What is hidden in ``n_tasks`` worlds."""
        raise NotImplementedError(f"{type(self).__name__} must define draw(n_tasks, generator).")

    def walk(self, goal: Tensor, noise: Tensor, act: Act) -> Paths:
        """The paths of a policy in one world, from what is hidden and its noise [paths, horizon, actions]."""
        raise NotImplementedError(f"{type(self).__name__} must define walk(goal, noise, act).")

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw what is hidden, and the chance of all paths."""
        goal = self.draw(n_tasks, generator)
        noise = torch.randn(n_tasks, self.stages + 1, self.paths, self.horizon, self.actions, generator=generator)
        return Task(Walks(goal, noise[:, 1:]), Examples(Walks(goal, noise[:, 0]))).to(self._device)

    def replace(self, *, paths: int | None = None, stages: int | None = None, **sizes: Any) -> Self:
        """The same worlds with other numbers of paths or stages."""
        super().replace(**sizes)  # refuses what there is not
        other = copy.copy(self)
        other.paths = self.paths if paths is None else paths
        other.stages = self.stages if stages is None else stages
        return other


class Navigation(Walking):
    """A goal is uniform on a square of side 1 around the start; nothing but the reward tells where it is.

    An action moves the point by up to ``LONGEST`` along each axis: it is clipped to [-1, 1] and scaled. The reward is
    minus the distance to the goal after the move, and a path ends within ``NEAR`` of it along both axes. So it is in
    the code of the paper; the text has the square of the distance.

    Args:
        paths, stages, horizon: as for :class:`Walking`.
        told: the goal is seen besides the position: the oracle.

    Derived in: Gradient steps in the world, :eq:`eq-world-navigation`.
    """

    LONGEST, NEAR = 0.1, 0.01
    actions = 2

    def __init__(self, paths: int = 20, *, stages: int = 1, horizon: int = 100, told: bool = False) -> None:
        super().__init__(paths, stages=stages, horizon=horizon)
        self.told, self.seen = told, 4 if told else 2  # length of what a policy sees

    def __repr__(self) -> str:
        return f"Navigation(paths={self.paths}, stages={self.stages}, horizon={self.horizon}, told={self.told})"

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Goals [n_tasks, 2]."""
        return torch.rand(n_tasks, 2, generator=generator) - 0.5

    def walk(self, goal: Tensor, noise: Tensor, act: Act) -> Paths:
        """The paths of a policy in one world, from its goal [2] and its noise [paths, horizon, 2]."""
        place, alive, steps = torch.zeros_like(noise[:, 0]), torch.ones_like(noise[:, 0, 0]), []
        for chance in noise.unbind(1):
            seen = torch.cat([place, goal.expand_as(place)], -1) if self.told else place
            mean, log_std = act(seen)
            action = mean + log_std.exp() * chance
            place = place + self.LONGEST * action.clamp(-1, 1)
            off = place - goal
            steps.append((seen, action, -alive * off.norm(dim=-1), alive))
            alive = alive * (off.abs().amax(-1) >= self.NEAR)
        return Paths(*(torch.stack(part, 1) for part in zip(*steps, strict=True)))

    def best(self, goal: Tensor) -> Tensor:
        """The largest return there is, for goals [..., 2]: both distances shrink as fast as they can, at once."""
        moves = torch.arange(1, self.horizon + 1, dtype=goal.dtype, device=goal.device)
        left = (goal.abs()[..., None] - self.LONGEST * moves).clamp_min(0)  # [..., 2, horizon]
        return -left.norm(dim=-2).sum(-1)

    @property
    def at_home(self) -> float:
        """The expected return of a policy that stays where it is: -horizon times the mean distance of a goal."""
        return -self.horizon * (math.sqrt(2) + math.log(1 + math.sqrt(2))) / 6
