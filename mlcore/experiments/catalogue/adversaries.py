"""Experiments of the chapter *Adversaries*: one small network, trained on inputs as they are, noisy, and attacked."""

from collections.abc import Callable
from functools import partial

from torch import nn

from mlcore.adversaries import Adversarial, Noise
from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import ProtoNet
from mlcore.nets import conv4

_TRAINED_AT = 0.1


def _noisy(net: nn.Module) -> Learner:
    """A Prototypical Network that trains on noise as large as the attacks of its rival."""
    return ProtoNet(nn.Sequential(Noise(_TRAINED_AT), net))


def _queried(net: nn.Module) -> Learner:
    """A Prototypical Network that trains on attacked queries."""
    return Adversarial(ProtoNet(net), eps=_TRAINED_AT, steps=3)


def _attacked(eps: float) -> Callable[[Learner], Learner]:
    """A trained learner under ten steps of PGD."""
    return partial(Adversarial, eps=eps, steps=10)


def _robust(key: str, title: str, paper: str, learner: Callable[..., Learner]) -> Recipe:
    """Short runs of half the usual width, since an attack costs as much as its steps; 1-shot, no validation."""
    sizes = {"ways": 5, "queries": 2}
    return Recipe(
        name=f"adversary-{key}-omniglot-1s",
        title=title,
        paper=paper,
        tasks=partial(load, "omniglot", split="vinyals", rotated_classes=True, ways=20, shots=1, queries=2),
        net=partial(conv4, 1, filters=32, downsample="pool"),
        learner=learner,
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=tuple(
            Evaluation(f"ε = {eps}", batch_norm="running", sizes=sizes, learner=_attacked(eps))
            for eps in (0.0, 0.05, 0.1, 0.2, 0.3)
        ),
        profiles=profiles(500, val_every=500, val_episodes=2, episodes=200, quick=(50, 20), quick_val_episodes=2),
        validation=sizes,
    )


ADVERSARIES = (
    _robust("clean", "Prototypical Network under attack, trained on clean Omniglot", "snell2017prototypical", ProtoNet),
    _robust("noisy", "Prototypical Network under attack, trained on noisy Omniglot", "snell2017prototypical", _noisy),
    _robust("queried", "Prototypical Network under attack, adversarially queried", "goldblum2020adversarial", _queried),
)
