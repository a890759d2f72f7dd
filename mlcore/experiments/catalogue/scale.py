"""Experiments of *What changes at scale*: more classes, more drawings of each, more time; and no episodes at all."""

from functools import partial
from typing import Any, cast

from torch import nn

from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import Baseline, ProtoNet
from mlcore.nets import conv4
from mlcore.tasks import SupervisedTasks

_SIZES = {"ways": 20, "shots": 1, "queries": 2}
_FILTERS = 64
_IMAGES = 60  # of an episode, and of a minibatch of the classifier


def by_class_means(classifier: Learner) -> Learner:
    """A :class:`Baseline`'s features, compared by cosine with class means: a pre-trained network as people use it."""
    return ProtoNet(cast("nn.Module", classifier.net), distance="cosine")


def _scale(
    name: str,
    title: str,
    dataset: str,
    data: dict[str, Any],
    *,
    classes: int | None = None,
    iterations: int = 3_000,
) -> Recipe:
    """Episodes, 20-way 1-shot; or with ``classes`` as many minibatches of a classifier of all of them."""
    learner = by_class_means if classes else None
    # Asked about the same drawings, however few there are to train on.
    own = partial(load, dataset, characters=20, **_SIZES) if "drawings" in data else None
    asked = (
        ("Omniglot, 5-way 1-shot", partial(load, "omniglot", split="lake", ways=5, shots=1, queries=5), 600),
        ("Omniglot, 20-way 1-shot", partial(load, "omniglot", split="lake", ways=20, shots=1, queries=5), 200),
        ("print, 20-way 1-shot", partial(load, "glyphs", ways=20, shots=1, queries=5), 200),
        ("its own kind, 20-way 1-shot", own, 200),
    )
    return Recipe(
        name=f"scale-{name}",
        title=title,
        paper="chen2019closer" if classes else "snell2017prototypical",
        tasks=partial(load, dataset, **data, **_SIZES),
        net=partial(conv4, 1, filters=_FILTERS, downsample="pool"),
        learner=partial(Baseline, classes=classes, features=_FILTERS, bfloat16=True)
        if classes
        else partial(ProtoNet, bfloat16=True),
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine"},
        train_on=partial(SupervisedTasks, batch_size=_IMAGES) if classes else None,
        evaluations=tuple(
            Evaluation(setting, batch_norm="running", sizes={"queries": 5}, episodes=tasks, on=on, learner=learner)
            for setting, on, tasks in asked
        ),
        profiles=profiles(iterations, val_every=1_000, val_episodes=100, quick=(100, 50), quick_val_episodes=20),
    )


SCALE: tuple[Recipe, ...] = (
    *(
        _scale(f"kanji-{n}", f"ProtoNet trained on {n:,} kanji", "kanji", {"characters": n})
        for n in (100, 300, 1_000, 3_000, 10_000)
    ),
    # Four times as long: is it the classes, or the time that each of them gets?
    *(
        _scale(
            f"kanji-{n}-long",
            f"ProtoNet trained on {n:,} kanji for 12,000 episodes",
            "kanji",
            {"characters": n},
            iterations=12_000,
        )
        for n in (1_000, 10_000)
    ),
    *(
        _scale(f"invented-{n}", f"ProtoNet trained on {n:,} invented characters", "invented", {"characters": n})
        for n in (100, 1_000, 10_000)
    ),
    _scale("omniglot-792", "ProtoNet trained on 792 characters of Omniglot", "omniglot", {"split": "lake"}),
    # 3,000 drawings, spent on classes or on drawings of each.
    *(
        _scale(
            f"kanji-{n}-by-{3_000 // n}",
            f"ProtoNet trained on {n:,} kanji, {3_000 // n} drawings of each",
            "kanji",
            {"characters": n, "drawings": 3_000 // n},
        )
        for n in (30, 100, 300, 1_000)
    ),
    *(
        _scale(
            f"classifier-kanji-{n}",
            f"A classifier of {n:,} kanji, its features compared with class means",
            "kanji",
            {"characters": n},
            classes=n,
        )
        for n in (100, 1_000, 10_000)
    ),
    _scale(
        "classifier-kanji-10000-long",
        "A classifier of 10,000 kanji, trained four times as long",
        "kanji",
        {"characters": 10_000},
        classes=10_000,
        iterations=12_000,
    ),
)
