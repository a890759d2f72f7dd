"""Experiments of the chapter *With words*: class means, and what the names of classes add to them.

The network is frozen and ships, so that rows differ in words alone. It was trained on classes that are neither among
the test classes of CIFAR-FS nor among those of FC100, nor of one kind with the latter; see
:mod:`mlcore.experiments.catalogue.far`.
"""

import copy
import hashlib
from functools import partial
from typing import Any

from torch import Tensor, from_numpy, nn

from mlcore.datasets import Names, features_of, in_features, load, with_names
from mlcore.datasets.cache import cached_images
from mlcore.experiments.recipe import Evaluation, Recipe, Splits, profiles
from mlcore.experiments.run import weights_path
from mlcore.learner import Learner
from mlcore.learners import AM3, ProtoNet, WordPrior
from mlcore.learners.am3 import Trust, trusted
from mlcore.learners.metric import MetricLearner
from mlcore.learners.word_prior import word_prior
from mlcore.tasks import NamedTasks

_NETWORK, _FEATURES, _WORDS = "far-classifier-cifar-fs", 192, 384
_SHOTS = (1, 5, 10)
_NO_TRAINING = profiles(0, val_every=1, quick=(0, 100))
_DATA = {"CIFAR-FS": "cifar_fs", "FC100": "fc100"}


def seen_by_the_network(name: str, *, names: Names, **settings: Any) -> Splits:
    """Photographs in the features of the network, with vectors of their classes' names."""
    parts = load(name, **settings)
    z = _features(parts[0].x)
    train, val, test = with_names([in_features(part, z) for part in parts], names, "encoder")
    return train, val, test


def asked_for_trust(name: str, **settings: Any) -> Splits:
    """The same, where what is asked is how much of a prototype is a class mean."""
    parts = tuple(copy.copy(part) for part in seen_by_the_network(name, **settings))
    for part in parts:
        part.objective = trusted
    return parts


def _features(x: Tensor) -> Tensor:
    """Embeddings of all images, made once: they are kept in the user's cache folder."""
    import mlcore  # which needs this module

    digest = hashlib.sha256(weights_path(_NETWORK).read_bytes())
    digest.update(x.numpy().tobytes())

    def build() -> tuple[Any, list[str]]:
        net = mlcore.load(_NETWORK).net
        assert isinstance(net, nn.Module)
        return features_of(x, net).numpy(), []

    return from_numpy(cached_images(f"features-1-{digest.hexdigest()[:16]}", build)[0])


def class_means_alone(learner: Learner) -> Learner:
    """A ProtoNet in the same space, to which words are nothing: it is given the pictures of a named support set."""
    assert isinstance(learner, MetricLearner)
    return ProtoNet(learner.net)


def _sizes(shots: int) -> dict[str, Any]:
    return {"ways": 5, "shots": shots, "queries": 15}


def _rows(data: str, names: Names, shots: tuple[int, ...], *, means: bool = False) -> tuple[Evaluation, ...]:
    """A row for every number of shots, and what the learner trusts; with ``means``, class means as well."""
    asked = partial(asked_for_trust, "cifar", split=_DATA[data], names=names, **_sizes(1))
    row = partial(Evaluation, batch_norm="running")
    rows = [row(_of(k), sizes={"shots": k}) for k in shots]
    rows += [row(f"{_of(k)}, trust", sizes={"shots": k}, on=asked, learner=Trust) for k in shots if k]
    if means:
        rows += [row(f"{_of(k)}, class means", sizes={"shots": k}, learner=class_means_alone) for k in shots if k]
    return tuple(rows)


def _of(shots: int) -> str:
    return "no picture" if not shots else f"{shots} shot" + "s" * (shots > 1)


def _recipe(name: str, title: str, data: str, names: Names, learner: Any, **settings: Any) -> Recipe:
    shuffled = "-shuffled" if names == "shuffled" else ""
    return Recipe(
        name=f"{name}{shuffled}-{data.lower()}",
        title=f"{title}{', names shuffled' if shuffled else ''}, {data}",
        paper="xing2019am3",
        tasks=partial(seen_by_the_network, "cifar", split=_DATA[data], names=names, **_sizes(settings.pop("shots", 1))),
        net=nn.Identity,
        learner=learner,
        **settings,
    )


def _am3(data: str, names: Names, shots: int, *, last: bool = False) -> Recipe:
    """AM3 for one number of shots; for none, its g alone, which sees no picture of a class that it is asked about.

    With ``last`` the last weights count, whatever validation classes say of earlier ones.
    """
    words = f"AM3, {_of(shots)}" if shots else "Words alone: AM3 without pictures"
    return _recipe(
        (f"am3-{shots}s" if shots else "words-alone") + "-last" * last,
        words + ", its last weights" * last,
        data,
        names,
        partial(AM3, features=_FEATURES, words=_WORDS),
        shots=shots or 1,
        training={"meta_batch": 4, "outer_lr": 1e-3, "decay": "cosine"},
        train_on=None if shots else partial(NamedTasks.replace, shots=0),
        evaluations=_rows(data, names, (shots,)),
        profiles=profiles(1_000, val_every=1_000 if last else 125, quick=(200, 100)),
        validation={"shots": shots},
    )


WORDS: tuple[Recipe, ...] = (
    *(_am3(data, names, shots) for data in _DATA for shots in (0, *_SHOTS) for names in ("own", "shuffled")),
    *(_am3(data, "own", 1, last=True) for data in _DATA),
    *(
        _recipe(
            "word-prior",
            "Words as a prior of class means, in closed form",
            data,
            names,
            WordPrior,
            measured={"prior": word_prior},
            evaluations=_rows(data, names, (0, *_SHOTS), means=names == "own"),
            profiles=_NO_TRAINING,
        )
        for data in _DATA
        for names in ("own", "shuffled")
    ),
    *(
        _recipe(
            "word-prior-groups",
            "Words as a prior of class means, superclasses left out",
            data,
            "own",
            WordPrior,
            measured={"prior": partial(word_prior, whole_groups=True)},
            evaluations=_rows(data, "own", (0, *_SHOTS)),
            profiles=_NO_TRAINING,
        )
        for data in _DATA
    ),
    # What is left without words: class means that are drawn towards the mean of all classes; with a picture more, too,
    # which is about what a word is worth.
    *(
        _recipe(
            "shrunken-means",
            "Class means, shrunk towards the mean of all classes",
            data,
            "own",
            WordPrior,
            measured={"prior": partial(word_prior, strengths=(1e9,))},
            evaluations=_rows(data, "own", (1, 2, 5, 6, 10, 11)),
            profiles=_NO_TRAINING,
        )
        for data in _DATA
    ),
)
