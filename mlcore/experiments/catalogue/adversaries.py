"""Experiments of the chapter *Adversaries*: one small network, trained on inputs as they are, noisy, and attacked."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from mlcore.adversaries import Adversarial, Noise
from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import ProtoNet
from mlcore.nets import conv4

_LEVELS = 1 / 255
"""A grey level of a photograph."""


def _noisy(net: nn.Module, *, eps: float = 0.1) -> Learner:
    """A Prototypical Network that trains on noise as large as the attacks of its rival."""
    return ProtoNet(nn.Sequential(Noise(eps), net))


def _queried(net: nn.Module, *, eps: float = 0.1) -> Learner:
    """A Prototypical Network that trains on attacked queries."""
    return Adversarial(ProtoNet(net), eps=eps, steps=3)


def _attacked(eps: float) -> Callable[[Learner], Learner]:
    """A trained learner under ten steps of PGD."""
    return partial(Adversarial, eps=eps, steps=10)


def _robust(
    name: str,
    title: str,
    paper: str,
    learner: Callable[..., Learner],
    *,
    attacks: dict[str, float],
    iterations: int = 500,
    **made: Any,
) -> Recipe:
    """Short runs of half the usual width, since an attack costs as much as its steps; 1-shot, no validation."""
    sizes = {"ways": 5, "queries": 2}
    return Recipe(
        name=f"adversary-{name}-1s",
        title=title,
        paper=paper,
        learner=learner,
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=tuple(
            Evaluation(f"ε = {words}", batch_norm="running", sizes=sizes, learner=_attacked(eps))
            for words, eps in attacks.items()
        ),
        profiles=profiles(
            iterations, val_every=iterations, val_episodes=2, episodes=200, quick=(50, 20), quick_val_episodes=2
        ),
        validation=sizes,
        **made,
    )


def _drawings(key: str, title: str, paper: str, learner: Callable[..., Learner], **length: int) -> Recipe:
    """On Omniglot, whose pixels are nearly black and white."""
    return _robust(
        f"{key}-omniglot",
        title,
        paper,
        learner,
        attacks={f"{eps}": eps for eps in (0.0, 0.05, 0.1, 0.2, 0.3)},
        tasks=partial(load, "omniglot", split="vinyals", rotated_classes=True, ways=20, shots=1, queries=2),
        net=partial(conv4, 1, filters=32, downsample="pool"),
        **length,
    )


def _photographs(key: str, title: str, paper: str, learner: Callable[..., Learner], *, iterations: int) -> Recipe:
    """On CIFAR-FS, at changes of a few grey levels."""
    return _robust(
        f"{key}-cifar",
        title,
        paper,
        learner,
        attacks={f"{levels}/255": levels * _LEVELS for levels in (0, 1, 2, 4, 8)},
        iterations=iterations,
        tasks=partial(load, "cifar", split="cifar_fs", ways=16, shots=1, queries=2),
        net=partial(conv4, 3, filters=32, downsample="pool", image_size=32),
    )


_SNELL, _GOLDBLUM = "snell2017prototypical", "goldblum2020adversarial"
_AT = 4 * _LEVELS

ADVERSARIES = (
    _drawings("clean", "Prototypical Network under attack, trained on clean Omniglot", _SNELL, ProtoNet),
    _drawings("noisy", "Prototypical Network under attack, trained on noisy Omniglot", _SNELL, _noisy),
    _drawings("queried", "Prototypical Network under attack, adversarially queried", _GOLDBLUM, _queried),
    # As long by the clock as the queried one, which takes nine times as long a step.
    _drawings(
        "clean-long", "Prototypical Network under attack, trained for longer", _SNELL, ProtoNet, iterations=4_500
    ),
    _photographs(
        "clean", "Prototypical Network under attack, trained on clean CIFAR-FS", _SNELL, ProtoNet, iterations=2_000
    ),
    _photographs(
        "noisy",
        "Prototypical Network under attack, trained on noisy CIFAR-FS",
        _SNELL,
        partial(_noisy, eps=_AT),
        iterations=2_000,
    ),
    _photographs(
        "queried",
        "Prototypical Network under attack, adversarially queried on CIFAR-FS",
        _GOLDBLUM,
        partial(_queried, eps=_AT),
        iterations=2_000,
    ),
)
