"""Learners that choose their own data."""

from functools import partial
from typing import Any

from mlcore.agents import RL2, LengtheningLives
from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles


def rl2(worlds: Any, **settings: Any) -> RL2:
    """RL2 in the worlds of a data set."""
    return RL2(worlds()[0], **settings)


def _bandit(arms: int, pulls: int, *, iterations: int, **changes: Any) -> Recipe:
    """RL2 on Bernoulli bandits, as in Duan et al. (2016), section 3.1; there a larger GRU, TRPO, 1,000 test worlds."""
    worlds = partial(load, "bandits", arms=arms, pulls=pulls)
    settings = {"expected": True} | changes.pop("settings", {})
    return Recipe(
        name=f"rl2-{arms}-arms-{pulls}-pulls",
        title=f"RL² on bandits of {arms} arms, {pulls} pulls",
        paper="duan2016rl2",
        tasks=worlds,
        net=None,
        learner=partial(rl2, worlds, **settings),
        training={"meta_batch": 256, "outer_lr": 1e-2, "decay": "cosine", "clip_norm": 1.0},
        evaluations=(
            Evaluation(
                f"{arms} arms, {pulls} pulls",
                f"duan2016rl2/bandit-n{pulls}-k{arms}" if pulls in (10, 100) else None,
            ),
        ),
        profiles=profiles(iterations, val_every=iterations, episodes=5_000, val_episodes=10, quick=(60, 500)),
        **changes,
    )


def _decisions(episodes: int, *, iterations: int, longer: bool = False) -> Recipe:
    """RL2 in random decision processes, as in Duan et al. (2016), section 3.2; there a larger GRU and TRPO."""
    worlds = partial(load, "random_mdps", episodes=episodes)
    # Transitions are nearly without pattern here, so little is lost by looking one step ahead, and much noise.
    settings = {"hidden": 128, "expected": True, "discount": 0.0, "trace": 0.0, "entropy": 0.005}
    return Recipe(
        name=f"rl2-mdps-{episodes}" + "-long" * longer,
        title=f"RL² in random decision processes, {episodes} episodes" + ", for longer" * longer,
        paper="duan2016rl2",
        tasks=worlds,
        net=None,
        learner=partial(rl2, worlds, **settings),
        training={"meta_batch": 128, "outer_lr": 1e-2, "decay": "cosine", "clip_norm": 1.0},
        evaluations=(Evaluation(f"{episodes} episodes of 10 steps", f"duan2016rl2/mdp-n{episodes}"),),
        profiles=profiles(iterations, val_every=iterations, episodes=2_000, val_episodes=10, quick=(40, 200)),
    )


AGENTS: tuple[Recipe, ...] = (
    _bandit(5, 10, iterations=1_000),
    _bandit(10, 10, iterations=1_000),
    # For the figure that one plays against.
    _bandit(5, 20, iterations=3_000, settings={"trace": 0.98}),
    # Ten pulls first: what to do with what one knows is learned in a short life.
    *(
        _bandit(
            arms,
            100,
            iterations=10_000,
            settings={"trace": 0.98},
            train_on=partial(LengtheningLives, first=10, hold=600, every=10),
        )
        for arms in (5, 10)
    ),
    _decisions(10, iterations=3_000),
    _decisions(10, iterations=15_000, longer=True),
    _decisions(25, iterations=1_500),
    Recipe(
        name="rl2-hidden-goal",
        title="RL² looks for a hidden goal",
        paper="zintgraf2020varibad",
        tasks=partial(load, "hidden_goal"),
        net=None,
        learner=partial(rl2, partial(load, "hidden_goal"), trace=0.95, discount=0.98, entropy=0.3),
        training={"meta_batch": 64, "outer_lr": 4e-3, "decay": "cosine", "clip_norm": 1.0},
        evaluations=(Evaluation("5 × 5 cells, 4 episodes of 15 steps"),),
        profiles=profiles(1_000, val_every=500, episodes=1_000, val_episodes=100, quick=(40, 200)),
    ),
)
