"""Experiments of the chapter *Far from home*: networks of three sources, asked about five targets.

One small network, one shape of images and one number of training images for all, so that rows differ in their source
and their method alone.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, Splits, profiles
from mlcore.forecast import Forecast, foretold
from mlcore.learner import Learner
from mlcore.learners import Baseline, FineTune, MetaTransfer, ProtoNet
from mlcore.learners.metric import MetricLearner
from mlcore.nets import conv4
from mlcore.tasks import SupervisedTasks

_ASKED = {"ways": 5, "shots": 5, "queries": 15}
_FEATURES = 192
_NET = partial(conv4, 3, filters=48, downsample="pool", image_size=32)

# Superclasses of FC100's training classes. The photographs of CIFAR-FS that are trained on are of these, so that no
# class of FC100's test, nor one like it, is among them.
_SUPERCLASSES = (
    "fish",
    "flowers",
    "food_containers",
    "fruit_and_vegetables",
    "household_electrical_devices",
    "household_furniture",
    "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes",
    "reptiles",
    "trees",
    "vehicles_1",
    "vehicles_2",
)
_DATA: dict[str, tuple[str, dict[str, Any]]] = {
    "glyphs": ("glyphs", {"colour": True}),
    "Omniglot": ("omniglot", {"split": "vinyals", "colour": True}),
    "CIFAR-FS": ("cifar", {"split": "cifar_fs"}),
    "FC100": ("cifar", {"split": "fc100"}),
    "EuroSAT": ("eurosat", {}),
}
_SOURCES = {"glyphs": 759, "Omniglot": 1028, "CIFAR-FS": 40}  # and the number of their training classes
_CALIBRATION = {"ways": 10, "shots": 19, "queries": 1}


def _calibration(name: str, **settings: Any) -> Splits:
    """Validation classes of a target, of which a forecast is made; of EuroSAT, which has ten classes, all."""
    _, val, test = load(name, **settings)
    tasks = copy.copy(test if val is None else val)
    tasks.objective = foretold
    return None, None, tasks


def _as(kind: Callable[..., Learner], learner: Learner) -> Learner:
    """Another learner on the same features."""
    assert isinstance(learner, MetricLearner)
    return kind(learner.net)


_MEANS, _COSINES = partial(_as, ProtoNet), partial(_as, partial(ProtoNet, distance="cosine"))


def _rows(
    source: str | None,
    heads: dict[str, Callable[[Learner], Learner] | None],
    *,
    home: dict[str, int] | None = None,
    forecast: bool = True,
    **settings: Any,
) -> tuple[Evaluation, ...]:
    """A row for every target and head, the source's own target first; then forecasts of class means.

    ``home`` has the sizes of test tasks at home, where they are others than those of training.
    """
    targets = sorted(_DATA, key=lambda target: target != source)
    asked = {
        target: None if target == source else partial(load, name, **data, **_ASKED)
        for target, (name, data) in _DATA.items()
    }
    rows = [
        Evaluation(
            f"{target}, {head}",
            batch_norm="running",
            sizes=home if target == source and home else {},
            on=asked[target],
            learner=learner,
            **settings,
        )
        for target in targets
        for head, learner in heads.items()
    ]
    if forecast:
        rows += [
            Evaluation(
                f"{target}, forecast",
                batch_norm="running",
                episodes=20,
                on=partial(_calibration, _DATA[target][0], **_DATA[target][1], **_CALIBRATION),
                learner=partial(_as, Forecast),
            )
            for target in targets
        ]
    return tuple(rows)


def _far(
    kind: str,
    title: str,
    paper: str,
    learner: Callable[..., Learner],
    source: str | None,
    heads: dict[str, Callable[[Learner], Learner] | None],
    *,
    net: Callable[[], nn.Module] = _NET,
    iterations: int = 0,
    train_on: Callable[..., Any] | None = None,
    start_from: str | None = None,
    tasks: dict[str, int] | None = None,
    training: dict[str, Any] | None = None,
    **rows: Any,
) -> Recipe:
    """One source and one way to learn from it; without a source, what needs none."""
    name, data = _DATA[source or "glyphs"]
    if source == "CIFAR-FS":
        data = data | {"train_groups": _SUPERCLASSES}
    return Recipe(
        name=f"far-{kind}" + (f"-{source.lower()}" if source else ""),
        title=title + (f", trained on {source}" if source else ""),
        paper=paper,
        tasks=partial(load, name, **data, **(tasks or _ASKED)),
        net=net,
        learner=learner,
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine"} | (training or {}),
        train_on=train_on,
        evaluations=_rows(source or "glyphs", heads, home=_ASKED if tasks else None, **rows),
        profiles=profiles(iterations, val_every=max(1, iterations // 2), val_episodes=100, quick=(100, 20)),
        validation=_ASKED,
        start_from=start_from,
    )


FAR: tuple[Recipe, ...] = (
    *(
        _far(
            "classifier",
            f"A classifier of {classes} classes, then three heads",
            "chen2019closer",
            partial(Baseline, classes=classes, features=_FEATURES),
            source,
            {"linear head": None, "class means": _MEANS, "cosines": _COSINES},
            iterations=500,
            train_on=partial(SupervisedTasks, batch_size=128),
        )
        for source, classes in _SOURCES.items()
    ),
    # As many training images: 640 episodes of 100.
    *(
        _far(
            "protonet",
            "A Prototypical Network",
            "snell2017prototypical",
            ProtoNet,
            source,
            {"class means": None},
            iterations=640,
            tasks={"ways": 10, "shots": 5, "queries": 5},
        )
        for source in _SOURCES
    ),
    # On top of the classifier, 300 episodes more.
    _far(
        "meta-transfer",
        "Meta-transfer learning: scales and shifts over the classifier",
        "sun2019mtl",
        partial(MetaTransfer, ways=5, features=_FEATURES),
        "CIFAR-FS",
        {"meta-transfer": None},
        iterations=300,
        start_from="far-classifier-cifar-fs",
        training={"outer_lr": 1e-4},
        forecast=False,
    ),
    _far(
        "fine-tune",
        "Everything fine-tuned in each task, from the classifier",
        "chen2019closer",
        partial(FineTune, ways=5, features=_FEATURES, lr=3e-3),
        "CIFAR-FS",
        {"fine-tuned": None},
        start_from="far-classifier-cifar-fs",
        forecast=False,
        episodes=60,
    ),
    _far("pixels", "Class means of pixels", "chen2019closer", ProtoNet, None, {"class means": None}, net=nn.Flatten),
    _far("random", "Class means in a random network", "chen2019closer", ProtoNet, None, {"class means": None}),
)
