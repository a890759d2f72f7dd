"""Experiments of *Gradient steps in the world*: a point and its goal, and pendulums that stand on their heads."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD

from mlcore.agents import GaussianPolicy, PolicyGradientCAVIA, PolicyGradientMAML
from mlcore.datasets import load
from mlcore.datasets.plants import Physics
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learners import MAML, Alpaca
from mlcore.nets import mlp
from mlcore.objective import mse

_FIGURE = "finn2017maml/navigation"
_EXAM = {"stages": 3, "paths": 40}


def in_the_plane(
    net: nn.Module, *, of: Any = PolicyGradientMAML, told: bool = False, **settings: Any
) -> PolicyGradientMAML:
    """A learner of this class that walks in the plane."""
    return of(net, load("navigation", told=told)[0], **settings)


def at_rate(rate: float, learner: Any) -> Any:
    """The same policy, to be fine-tuned at another rate."""
    return learner.replace(inner_lr=rate)


def _walked(published: str | None, steps: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[Evaluation, ...]:
    """A row for each number of steps, beside the figure's."""
    return tuple(
        Evaluation(f"{k} step{'s' * (k != 1)}", published and published.format(k), test_steps=k, sizes=_EXAM)
        for k in steps
    )


def _navigation(
    name: str,
    title: str,
    rows: tuple[Evaluation, ...],
    *,
    iterations: int,
    val_every: int | None = None,
    seen: int = 2,
    paper: str = "finn2017maml",
    **settings: Any,
) -> Recipe:
    """Finn et al. (2017), Figure 4, with the sizes of the released code and half of its meta-batch, as the figure's."""
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "navigation", told=settings.get("told", False), stages=settings.get("inner_steps", 1)),
        net=partial(GaussianPolicy, seen),
        learner=partial(in_the_plane, **settings),
        training={"meta_batch": 20, "optimizer": SGD, "outer_lr": 1.0},
        evaluations=rows,
        profiles=profiles(
            iterations,
            val_every=val_every or max(1, iterations),
            episodes=40,
            val_episodes=20,
            quick=(10, 20),
            quick_val_episodes=10,
        ),
    )


def _pendulums(name: str, title: str, paper: str, learner: Any, net: Any, **training: Any) -> Recipe:
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "pendulums"),
        net=net,
        learner=learner,
        training={"meta_batch": 16, "outer_lr": 3e-3, "decay": "cosine", "clip_norm": 1.0} | training,
        evaluations=tuple(Evaluation(f"{k} transitions", sizes={"shots": k}) for k in (3, 10, 50)),
        profiles=profiles(3_000, val_every=3_000, episodes=1_000, quick=(200, 200)),
    )


_tanh = partial(mlp, activation=nn.Tanh)


# Chosen on other goals, of 0.05, 0.1, 0.2 and 0.5.
_TUNED = 0.2

WALKS: tuple[Recipe, ...] = (
    _navigation(
        "navigation-maml",
        "MAML finds a goal in the plane",
        _walked(_FIGURE + "-step{}"),
        iterations=100,
        val_every=25,
    ),
    _navigation(
        "navigation-pretrained",
        "One policy for all goals, fine-tuned",
        (
            *_walked(_FIGURE + "-pretrained-step{}"),
            *(
                replace(row, setting=f"{row.setting}, rate {_TUNED}", learner=partial(at_rate, _TUNED))
                for row in _walked(None, steps=(1, 2, 3))
            ),
        ),
        iterations=60,
        inner_steps=0,
    ),
    _navigation(
        "navigation-random",
        "A policy of random weights, fine-tuned",
        _walked(_FIGURE + "-random-step{}"),
        iterations=0,
    ),
    _navigation(
        "navigation-oracle",
        "A policy that sees the goal",
        _walked(_FIGURE + "-oracle", steps=(0,)),
        iterations=100,
        seen=4,
        told=True,
        inner_steps=0,
    ),
    _navigation(
        "navigation-cavia",
        "Two context parameters find a goal in the plane",
        _walked(None),
        iterations=100,
        val_every=25,
        seen=4,
        paper="zintgraf2019cavia",
        of=PolicyGradientCAVIA,
    ),
    _pendulums(
        "pendulums-maml",
        "MAML on pendulums",
        "finn2017maml",
        partial(MAML, inner_lr=0.1, inner_steps=3, loss_fn=mse),
        partial(_tanh, 3, 40, 40, 1),
    ),
    _pendulums(
        "pendulums-features",
        "A learned prior on learned features of pendulums",
        "harrison2018alpaca",
        partial(Alpaca, features=8, noise=0.3),
        partial(_tanh, 3, 32, 32, 8),
    ),
    _pendulums(
        "pendulums-physics",
        "A learned prior on the features of Newton's law",
        "harrison2018alpaca",
        partial(Alpaca, features=3, noise=0.3),
        Physics,
        outer_lr=1e-2,
    ),
)
