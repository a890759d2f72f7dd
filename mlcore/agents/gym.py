"""Environments of gymnasium as worlds: those that a reader brings (extra ``robots``)."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlcore.agents.navigation import Act, Paths, Walking
from mlcore.agents.worlds import Worlds
from mlcore.tasks.sizes import check_positive

Make = Callable[[int], Any]
"""The number of a world to its environment, a ``gymnasium.Env``: what is hidden follows from the number."""


def _gymnasium() -> Any:
    try:
        import gymnasium.wrappers
    except ModuleNotFoundError as error:
        raise LookupError("gymnasium is not installed; pip install 'mlcore[robots]'.") from error
    return gymnasium


class Crew:
    """Environments that are stepped together, one after another, by ``gymnasium.vector.SyncVectorEnv``.

    Where an episode ends, by itself or by its time limit, the environment is reset, and what is seen is the start of
    the next episode.

    Args:
        make: the number of a world to its environment.
    """

    def __init__(self, make: Make) -> None:
        self.make, gym = make, _gymnasium()
        env = gym.wrappers.FlattenObservation(make(0))
        self.actions, self.seen = env.action_space, env.observation_space.shape[0]
        env.close()

    def reset(self, worlds: Tensor, luck: Tensor) -> tuple[Tensor, ...]:
        """What is seen [envs, seen] in new environments, of worlds [envs] and seeded by luck [envs]."""
        gym = _gymnasium()
        makers = [lambda world=world: gym.wrappers.FlattenObservation(self.make(world)) for world in worlds.tolist()]
        self.envs = gym.vector.SyncVectorEnv(makers, autoreset_mode=gym.vector.AutoresetMode.SAME_STEP)
        return (torch.as_tensor(self.envs.reset(seed=luck.tolist())[0], dtype=torch.float32),)

    def step(self, actions: Tensor) -> tuple[Tensor, ...]:
        """What is seen [envs, seen] after actions [envs, ...], the rewards [envs], and 1 where an episode ended."""
        seen, reward, terminated, truncated, _ = self.envs.step(actions.numpy())
        return tuple(torch.as_tensor(part, dtype=torch.float32) for part in (seen, reward, terminated | truncated))


class _Together(torch.autograd.Function):
    """A function of whole batches: ``vmap`` cannot look into it, and hands it the tensors of all tasks at once."""

    @staticmethod
    def forward(whole: Callable[..., tuple[Tensor, ...]], *parts: Tensor) -> tuple[Tensor, ...]:
        return tuple(out[0] for out in whole(*(part[None] for part in parts)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *args: Any) -> tuple:
        whole, *parts = args
        tasks = [
            part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
            for part, dim in zip(parts, in_dims[1:], strict=True)
        ]
        return whole(*tasks), 0


def _together(whole: Callable[..., tuple[Tensor, ...]], *parts: Tensor) -> tuple[Tensor, ...]:
    """``whole`` of the parts of all tasks, from where only one task's are seen; it computes on the CPU."""
    answers: Any = _Together.apply(whole, *(part.detach().cpu() for part in parts))
    return tuple(answer.to(parts[0].device) for answer in answers)


class GymWorlds(Worlds):
    """Worlds whose actions are of a ``Discrete`` space, for an :class:`~mlcore.agents.Agent` such as ``RL2``.

    A life is a function of the number of the world, of the seed of its luck, and of what is done. The environments of
    a batch are stepped in Python; a network acts for all of them at once. Only one batch of lives is lived at a time:
    the next one ends it.

    Args:
        make: the number of a world to its environment.
        lifetime: actions of a life, over all its episodes.

    Raises:
        ValueError: the actions are not of a ``Discrete`` space.
        LookupError: gymnasium is not installed.

    Derived in: A learner that explores, :eq:`eq-life`.
    """

    chances = 0

    def __init__(self, make: Make, lifetime: int) -> None:
        check_positive(lifetime=lifetime)
        self.crew, self.lifetime = Crew(make), lifetime
        space = self.crew.actions
        if not isinstance(space, _gymnasium().spaces.Discrete):
            raise ValueError(f"GymWorlds takes Discrete actions, not {space}; GymWalks takes a Box.")
        self.actions, self.first, self.observations = int(space.n), int(space.start), self.crew.seen

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Numbers of worlds, and seeds of their luck [n_tasks, 2]."""
        return torch.randint(2**31, (n_tasks, 2), generator=generator)

    def start(self, hidden: Tensor) -> Tensor:
        """New environments; what is seen in them."""
        return _together(self.crew.reset, *hidden)[0]

    def see(self, place: Tensor) -> Tensor:
        """What is seen: that is all that is known of a place."""
        return place

    def step(self, hidden: Tensor, place: Tensor, action: Tensor, luck: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        """One step of the environments; nobody knows what reward was to be expected but that which came."""
        # With the world's number beside it, for an action that is the same in all worlds is seen to be of each.
        seen, reward, ended = _together(
            lambda _, actions: self.crew.step(actions), hidden, action.argmax() + self.first
        )
        return seen, reward, reward, ended


class GymWalks(Walking):
    """Worlds whose actions are of a bounded ``Box`` of one dimension, for a policy such as ``PolicyGradientMAML``.

    Actions are clipped to [-1, 1] and scaled to the box. A path ends with its first episode. Its luck is seeded by the
    first number of its noise, so it differs between the paths, and before and after an update.

    Args:
        make: the number of a world to its environment.
        paths, stages, horizon: as for :class:`~mlcore.agents.navigation.Walking`.

    Raises:
        ValueError: the actions are not of such a box.
        LookupError: gymnasium is not installed.

    Derived in: Gradient steps in the world, :eq:`eq-world-inner`.
    """

    def __init__(self, make: Make, paths: int = 20, *, stages: int = 1, horizon: int = 100) -> None:
        super().__init__(paths, stages=stages, horizon=horizon)
        self.crew = Crew(make)
        space = self.crew.actions
        if not isinstance(space, _gymnasium().spaces.Box) or len(space.shape) != 1 or not space.is_bounded():
            raise ValueError(f"GymWalks takes actions of a bounded Box of one dimension, not {space}.")
        self.actions, self.seen = space.shape[0], self.crew.seen
        self.low, self.high = torch.tensor(space.low), torch.tensor(space.high)

    def draw(self, n_tasks: int, generator: torch.Generator) -> Tensor:
        """Numbers of worlds [n_tasks]."""
        return torch.randint(2**31, (n_tasks,), generator=generator)

    def walk(self, goal: Tensor, noise: Tensor, act: Act) -> Paths:
        """The paths of a policy in one world, from its number and its noise [paths, horizon, actions]."""
        seen, alive, steps = self._reset(goal, noise), torch.ones_like(noise[:, 0, 0]), []
        for chance in noise.unbind(1):
            mean, log_std = act(seen)
            action = mean + log_std.exp() * chance
            after, reward, ended = _together(self._step, action)
            steps.append((seen, action, alive * reward, alive))
            seen, alive = after, alive * (1 - ended)
        return Paths(*(torch.stack(part, 1) for part in zip(*steps, strict=True)))

    def _reset(self, goal: Tensor, noise: Tensor) -> Tensor:
        def whole(worlds: Tensor, first: Tensor) -> tuple[Tensor, ...]:
            luck = first.float().contiguous().view(torch.int32).long().abs()
            (seen,) = self.crew.reset(worlds[:, None].expand_as(first).flatten(), luck.flatten())
            return (seen.unflatten(0, first.shape),)

        return _together(whole, goal, noise[:, 0, 0])[0]

    def _step(self, action: Tensor) -> tuple[Tensor, ...]:
        scaled = self.low + (action.clamp(-1, 1) + 1) / 2 * (self.high - self.low)
        parts = self.crew.step(scaled.flatten(0, 1).to(self.low.dtype))
        return tuple(part.unflatten(0, action.shape[:2]) for part in parts)
