"""Experiments of the chapter *When does meta-learning pay?*: over shots, over distance, and over training classes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import Baseline, FineTune, ProtoNet, Reptile
from mlcore.nets import conv4
from mlcore.nets.norms import BatchNormPolicy

# Shots, test tasks and, for what trains a whole network on each task, gradient steps of at most 50 images. There the
# tasks are fewer, the first of the same: each costs seconds to minutes.
_Sizes = tuple[tuple[int, int, int | None], ...]
_SHOTS: _Sizes = ((1, 200, None), (5, 200, None), (20, 100, None), (100, 50, None), (400, 24, None))
_FEW: _Sizes = ((1, 200, 50), (5, 200, 50))
_MANY: _Sizes = ((20, 60, 100), (100, 24, 200), (400, 10, 400))
_SCRATCH: _Sizes = ((1, 40, 50), (5, 40, 50), (20, 16, 100), (100, 10, 200), (400, 6, 400))


def _shots(
    name: str,
    title: str,
    paper: str,
    learner: Callable[..., Learner],
    *,
    start_from: str | None,
    outputs: int | None = None,
    batch_norm: BatchNormPolicy = "running",
    sizes: _Sizes = _SHOTS,
    iterations: int = 0,
) -> Recipe:
    """One way to spend the shots of a 5-way task of CIFAR-FS, from one image a class to hundreds."""
    return Recipe(
        name=f"shots-{name}",
        title=f"{title}, CIFAR-FS, {sizes[0][0]} to {sizes[-1][0]} shots",
        paper=paper,
        tasks=partial(load, "cifar", split="cifar_fs", ways=5, shots=5, queries=15, augment=True),
        net=partial(conv4, 3, *([] if outputs is None else [outputs]), downsample="pool", image_size=32),
        learner=learner,
        training={"meta_batch": 2, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=tuple(
            Evaluation(
                f"5-way {shots}-shot",
                batch_norm=batch_norm,
                test_steps=steps,
                sizes={"shots": shots},
                episodes=tasks,
            )
            for shots, tasks, steps in sizes
        ),
        profiles=profiles(
            iterations, episodes=200, val_every=max(1, iterations // 4), quick=(100, 4), quick_val_episodes=50
        ),
        start_from=start_from,
    )


_OVER_SHOTS = (
    _shots("protonet", "Prototypical Network", "snell2017prototypical", ProtoNet, start_from="protonet-cifar-5s"),
    _shots(
        "meta-baseline",
        "Meta-Baseline",
        "chen2021metabaseline",
        partial(ProtoNet, distance="cosine", bfloat16=True),
        start_from="baseline-cifar",
        iterations=1_000,
    ),
    _shots(
        "head",
        "A new head on pre-trained features",
        "chen2019closer",
        partial(Baseline, classes=64, features=256),
        start_from="baseline-cifar",
    ),
    # Rates of fine-tuning: the best of 1e-3, 3e-3 and 1e-2 on validation classes, with 5 shots and with 100.
    *(
        _shots(
            name,
            "Everything fine-tuned from pre-trained weights",
            "chen2019closer",
            partial(FineTune, ways=5, features=256, lr=lr),
            start_from="baseline-cifar",
            sizes=sizes,
        )
        for name, lr, sizes in (("fine-tune", 1e-3, _FEW), ("fine-tune-many", 3e-3, _MANY))
    ),
    _shots(
        "scratch",
        "A network trained from scratch on each task",
        "chen2019closer",
        partial(Reptile, inner_lr=3e-3, inner_steps=1, batch_size=50, mapping="loop"),
        start_from=None,
        outputs=5,
        batch_norm="support",
        sizes=_SCRATCH,
    ),
)

# Background alphabets to learn from and evaluation alphabets to be asked about, of two families of scripts.
_FAMILIES = {
    "brahmic": (
        ("Balinese", "Burmese_(Myanmar)", "Grantha", "Gujarati", "Sanskrit", "Tagalog"),
        ("Gurmukhi", "Kannada", "Malayalam", "Oriya"),
    ),
    "european": (
        ("Anglo-Saxon_Futhorc", "Asomtavruli_(Georgian)", "Cyrillic", "Greek", "Latin"),
        ("Glagolitic", "Old_Church_Slavonic_(Cyrillic)"),
    ),
}
_TASKS = {"ways": 5, "shots": 1, "queries": 15}
_ASKED = {
    "Brahmic": partial(load, "omniglot", split="lake", test_groups=_FAMILIES["brahmic"][1], **_TASKS),
    "European": partial(load, "omniglot", split="lake", test_groups=_FAMILIES["european"][1], **_TASKS),
    "Omniglot": partial(load, "omniglot", split="lake", **_TASKS),
    "print": partial(load, "glyphs", **_TASKS),
}


def _protonet(name: str, title: str, dataset: str, data: dict[str, Any], evaluations: tuple[Evaluation, ...]) -> Recipe:
    """A ProtoNet trained as it is tested, 5-way 1-shot, for 1,000 episodes."""
    return Recipe(
        name=name,
        title=title,
        paper="snell2017prototypical",
        tasks=partial(load, dataset, **data, **_TASKS),
        net=partial(conv4, 1, downsample="pool"),
        learner=partial(ProtoNet, bfloat16=True),
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=evaluations,
        profiles=profiles(1_000, val_every=250, quick=(100, 100), quick_val_episodes=50),
    )


def _source(name: str, words: str, dataset: str, data: dict[str, Any]) -> Recipe:
    """Trained on one source of characters and asked about each of four."""
    rows = tuple(Evaluation(asked, batch_norm="running", on=on) for asked, on in _ASKED.items())
    return _protonet(f"source-{name}", f"ProtoNet trained on {words}, asked about four sources", dataset, data, rows)


_OVER_DISTANCE = (
    *(
        _source(
            family,
            f"150 characters of {family.capitalize()} alphabets",
            "omniglot",
            {"split": "lake", "train_groups": alphabets, "train_classes": 150},
        )
        for family, (alphabets, _) in _FAMILIES.items()
    ),
    _source(
        "omniglot", "150 characters of all background alphabets", "omniglot", {"split": "lake", "train_classes": 150}
    ),
    _source("print", "150 printed letters", "glyphs", {"train_classes": 150}),
)


def _classes(number: int, whole: bool) -> Recipe:
    """Trained on so many characters, from anywhere or alphabet by alphabet."""
    where = "alphabet by alphabet" if whole else "from all alphabets"
    return _protonet(
        f"classes-{number}{'-whole' if whole else ''}",
        f"ProtoNet trained on {number} characters {where}",
        "omniglot",
        {"split": "lake", "train_classes": number} | ({"whole_groups": True} if whole else {}),
        (Evaluation("5-way 1-shot", batch_norm="running"),),
    )


_OVER_CLASSES = (
    *(_classes(number, whole) for number in (10, 30, 100, 300) for whole in (False, True)),
    _classes(792, whole=False),
)

CURVES = (*_OVER_SHOTS, *_OVER_DISTANCE, *_OVER_CLASSES)
