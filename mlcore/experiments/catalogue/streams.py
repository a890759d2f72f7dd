"""Experiments of *Learning without forgetting*: classes of Omniglot that come one after another, each once."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

from torch import nn

from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import ANML, OML, Baseline, MetricLearner, ProtoNet
from mlcore.nets import mlp
from mlcore.nets.norms import BatchNorm
from mlcore.tasks import SupervisedTasks

# Lake's split: no alphabet of the test was seen in training, 659 characters are there to be streamed.
_ONE_AFTER_ANOTHER = partial(load, "omniglot", split="lake", class_by_class=True, ways=25, shots=8, queries=2)
_SHUFFLED = partial(load, "omniglot", split="lake")
_EXAM = {"shots": 15, "queries": 5}


def stream_features(channels: int = 64) -> nn.Sequential:
    """Three strided convolutions of 32, 32 and ``channels`` filters: 28×28 pixels to 4 × 4 × ``channels`` numbers."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 32), (32, channels)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), BatchNorm(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def gate() -> nn.Sequential:
    """A smaller network of as many outputs as :func:`stream_features`, without the last ReLU."""
    narrow = nn.Sequential(nn.Conv2d(1, 16, 3, stride=4, padding=1), BatchNorm(16), nn.ReLU())
    return nn.Sequential(*narrow, nn.Conv2d(16, 64, 3, stride=2, padding=1), BatchNorm(64), nn.Flatten())


def with_head(learner: Learner, *, rate: float) -> OML:
    """The same representation under a head that is trained along the stream at this rate."""
    return OML(cast(MetricLearner, learner).net, inner_lr=rate, mapping="loop")


def with_means(learner: Learner) -> ProtoNet:
    """The same representation under class means."""
    return ProtoNet(cast(MetricLearner, learner).net)


def _rows(rates: tuple[float, float], published: dict[str, str]) -> tuple[Evaluation, ...]:
    """How a representation is asked: three ways to learn a head, streams of several lengths.

    The rates, in order and shuffled, were chosen on three streams of 50 validation characters, out of eight from 1e-6
    to 0.03.
    """
    heads: dict[str, dict[str, Any]] = {
        "online": {"learner": partial(with_head, rate=rates[0]), "on": _ONE_AFTER_ANOTHER},
        "random order": {"learner": partial(with_head, rate=rates[1]), "on": _SHUFFLED},
        "class means": {"learner": with_means},
    }
    # Nine thousand steps of a wide head are for what a published number answers to.
    longest = (600,) if published else ()
    counts = {"online": (10, 50, 200, *longest), "random order": (50, 200), "class means": (10, 50, 200, 600)}
    return tuple(
        Evaluation(
            setting := f"{ways} classes, {name}",
            published.get(setting),
            "running",
            sizes=_EXAM | {"ways": ways},
            episodes={600: 3, 200: 4}.get(ways, 10),
            **head,
        )
        for name, head in heads.items()
        for ways in counts[name]
    )


def _stream(
    name: str,
    title: str,
    paper: str,
    learner: Callable[..., Learner],
    *,
    rates: tuple[float, float],
    iterations: int,
    published: dict[str, str] | None = None,
    **changes: Any,
) -> Recipe:
    """A representation for streams, on small images: 28×28 pixels where the papers have 84×84."""
    recipe = Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=_ONE_AFTER_ANOTHER,
        net=stream_features,
        learner=learner,
        training={"meta_batch": 1, "outer_lr": 2e-3, "decay": "cosine"},
        evaluations=_rows(rates, published or {}),
        profiles=profiles(iterations, val_every=iterations, val_episodes=5, episodes=10, quick=(60, 3)),
        validation=_EXAM | {"ways": 50},
    )
    return replace(recipe, **changes)


def _anml(net: nn.Module, **settings: Any) -> ANML:
    return ANML(net, gate(), **settings)


def _waves(name: str, title: str, *, shuffled: bool) -> Recipe:
    """Waves one after another, asked for in that order; in the paper ten waves, and a network of nine layers."""
    return Recipe(
        name=name,
        title=title,
        paper="javed2019oml",
        tasks=partial(load, "wave_streams", shuffled=shuffled),
        net=wave_features,
        learner=partial(OML, inner_lr=0.2, portion=8, regression=True),
        training={"meta_batch": 8, "outer_lr": 2e-3, "decay": "cosine", "clip_norm": 1.0},
        # First the order that it was trained for.
        evaluations=tuple(
            Evaluation(words, sizes={"shuffled": other})
            for words, other in sorted({"in order": False, "shuffled": True}.items(), reverse=shuffled)
        ),
        profiles=profiles(1_200, val_every=400, val_episodes=50, episodes=200, quick=(60, 20)),
    )


def wave_features() -> nn.Sequential:
    """Three layers of 100 units, for five waves."""
    return nn.Sequential(mlp(6, 100, 100, 100), nn.ReLU())


_INNER = {"inner_lr": 0.003, "mapping": "loop"}
_PUBLISHED = {"50 classes, online": "online", "50 classes, random order": "iid"}

STREAMS: tuple[Recipe, ...] = (
    _stream(
        "oml-omniglot-stream",
        "OML on streams of Omniglot",
        "javed2019oml",
        partial(OML, **_INNER),
        rates=(1e-4, 3e-3),
        published={row: f"javed2019oml/omniglot-50-{order}-oml" for row, order in _PUBLISHED.items()},
        iterations=1_000,
    ),
    # All else equal.
    _stream(
        "oml-first-order-omniglot-stream",
        "OML on streams of Omniglot, first order",
        "javed2019oml",
        partial(OML, **_INNER, first_order=True),
        rates=(1e-6, 3e-3),
        iterations=1_000,
    ),
    _stream(
        "anml-omniglot-stream",
        "ANML's gate on streams of Omniglot",
        "beaulieu2020anml",
        partial(_anml, **_INNER),
        rates=(1e-6, 3e-3),
        iterations=1_000,
    ),
    _stream(
        "pretrained-omniglot-stream",
        "A classifier's features on streams of Omniglot",
        "javed2019oml",
        partial(Baseline, classes=792, features=1024),
        rates=(1e-6, 3e-3),
        published={row: f"javed2019oml/omniglot-50-{order}-pretrained" for row, order in _PUBLISHED.items()},
        iterations=1_500,
        tasks=_SHUFFLED,
        train_on=partial(SupervisedTasks, batch_size=128),
    ),
    _stream(
        "protonet-omniglot-stream",
        "Prototypes on streams of Omniglot",
        "snell2017prototypical",
        partial(ProtoNet, distance="scaled"),
        rates=(1e-6, 1e-3),
        iterations=1_000,
    ),
    _waves("oml-waves", "OML on waves one after another", shuffled=False),
    _waves("oml-shuffled-waves", "OML trained on shuffled waves", shuffled=True),
)
