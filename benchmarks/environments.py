"""Steps a second of one world, the plane of *Gradient steps in the world*, as mlcore has it and as gymnasium has it.

    python benchmarks/environments.py

The world is written a second time as a ``gymnasium.Env``, and its environments are stepped by gymnasium's own vector
class. First both are given the same actions, and must give the same observations and rewards. Then they take turns,
each on one thread; no policy is computed on either side. Writes data/benchmarks/environments.json, from which the book
takes its numbers.
"""

from collections.abc import Callable
from functools import partial

import gymnasium
import numpy as np
import torch
from gymnasium.vector import SyncVectorEnv
from timing import measured, save
from torch import Tensor
from tqdm import tqdm

from mlcore import seeded
from mlcore.agents import Navigation
from mlcore.agents.navigation import Paths, Walks

ROUNDS, HORIZON = 5, 100
# Worlds, and paths in each; 20 × 20 is a meta-batch of the paper, 40 × 40 its test.
SIZES = ((1, 1), (1, 20), (20, 20), (40, 40))


class Plane(gymnasium.Env):
    """A point in the plane that looks for a goal, in the standard form."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def __init__(self, goal: np.ndarray) -> None:
        self.goal = goal

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.place, self.moves = np.zeros(2, np.float32), 0
        return self.place, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.place = self.place + np.float32(Navigation.LONGEST) * np.clip(action, -1, 1)
        self.moves += 1
        x, y = (self.place - self.goal).tolist()
        arrived = max(abs(x), abs(y)) < Navigation.NEAR
        return self.place, -((x * x + y * y) ** 0.5), arrived, self.moves == HORIZON, {}


def ours(plane: Navigation, walks: Walks) -> Paths:
    """All paths of all worlds, of actions that are drawn without looking."""

    def act(seen: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(seen), torch.zeros(2)

    return torch.vmap(lambda walk: plane.walk(walk.goal, walk.noise, act))(walks)


def theirs(envs: SyncVectorEnv, actions: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Observations before each of actions [horizon, envs, 2], and rewards."""
    place, _ = envs.reset()
    seen, rewards = [], []
    for action in actions:
        seen.append(place)
        place, reward, *_ = envs.step(action)
        rewards.append(reward)
    return seen, rewards


def check(paths: Paths, seen: list[np.ndarray], rewards: list[np.ndarray]) -> None:
    """Both sides say the same, as long as a path goes on."""
    alive = paths.alive.flatten(0, 1)
    for got, wanted in ((paths.reward, np.stack(rewards, 1)), (paths.seen, np.stack(seen, 1))):
        got = got.flatten(0, 1)
        mask = alive.reshape(*alive.shape, *[1] * (got.dim() - 2))
        torch.testing.assert_close(got * mask, torch.as_tensor(wanted).float() * mask, rtol=1e-4, atol=1e-5)


def compare(worlds: int, paths: int) -> dict:
    """Seconds a step of either, in turns."""
    plane = Navigation(paths, horizon=HORIZON)
    walks = plane.sample(worlds, seeded(0)).query.x
    goals = walks.goal.repeat_interleave(paths, 0).numpy()
    actions = walks.noise.flatten(0, 1).transpose(0, 1).contiguous().numpy()
    envs = SyncVectorEnv([partial(Plane, goal) for goal in goals])
    check(ours(plane, walks), *theirs(envs, actions))
    ways: dict[str, Callable[[], object]] = {
        "mlcore": partial(ours, plane, walks),
        "gymnasium": partial(theirs, envs, actions),
    }
    found = measured(ways, ROUNDS, per=worlds * paths * HORIZON)
    return {"worlds": worlds, "paths": paths} | found


def main() -> None:
    torch.set_num_threads(1)
    rows = [compare(*size) for size in tqdm(SIZES, desc="environments")]
    save("environments", ["torch", "gymnasium", "numpy"], {"rounds": ROUNDS, "horizon": HORIZON, "rows": rows})
    for row in rows:
        speeds = {name: 1 / row[name]["seconds"] for name in ("mlcore", "gymnasium")}
        said = ", ".join(f"{name} {speed:,.0f}" for name, speed in speeds.items())
        print(f"{row['worlds']} × {row['paths']}: {said} steps a second, {speeds['mlcore'] / speeds['gymnasium']:.1f}×")


if __name__ == "__main__":
    main()
