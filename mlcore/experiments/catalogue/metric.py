"""Experiments of the metric chapters, and the plain baselines that every method meets."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import StepLR

from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import (
    Baseline,
    MatchingNet,
    ModifiedHausdorff,
    NearestNeighbour,
    ProtoNet,
    RelationNet,
    Ridge,
    Siamese,
    SimpleShot,
)
from mlcore.learners.relation import relation_encoder
from mlcore.learners.ridge import R2D2Encoder
from mlcore.learners.simpleshot import mean_feature
from mlcore.nets import UnitLength, conv4
from mlcore.tasks import ClassificationTasks, SupervisedTasks

# Few-shot settings by their usual short names.
_SETTINGS = {
    "5-way 1-shot": {"ways": 5, "shots": 1, "queries": 15},
    "5-way 5-shot": {"ways": 5, "shots": 5, "queries": 15},
    "20-way 1-shot": {"ways": 20, "shots": 1, "queries": 15},
    "20-way 5-shot": {"ways": 20, "shots": 5, "queries": 15},
}


def _few_shot(
    name: str,
    title: str,
    paper: str,
    learner: Callable[..., Learner],
    *,
    dataset: str,
    data: dict[str, Any],
    net: Callable[[], nn.Module] | None,
    validation: dict[str, int],
    settings: tuple[str, ...],
    iterations: int,
    shots: int = 1,
    published: str | None = None,
    published_shots: tuple[int, ...] = (),
    batch_size: int | None = None,
    val_every: int = 500,
    start_from: str | None = None,
    measured: dict[str, Callable[[nn.Module, Any], Any]] | None = None,
) -> Recipe:
    """A metric learner or baseline: one episode, or one minibatch of ``batch_size``, an iteration; running statistics.

    Adam's rate falls along a cosine, since these runs are shorter than the papers'. ``published`` begins the ids of the
    numbers that the rows answer to: those with the shots of training, unless ``published_shots`` says otherwise.
    """
    rows = []
    for setting in settings:
        sizes = _SETTINGS[setting]
        compare = published is not None and sizes["shots"] in (published_shots or (shots,))
        number = f"{published}-{sizes['ways']}w{sizes['shots']}s" if compare else None
        rows.append(Evaluation(setting, number, "running", sizes=sizes))
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, dataset, **data, shots=shots),
        net=net,
        learner=learner,
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine"},
        train_on=partial(SupervisedTasks, batch_size=batch_size) if batch_size else None,
        evaluations=tuple(rows),
        profiles=profiles(iterations, episodes=1_000, val_every=val_every, quick_val_episodes=100),
        validation=validation | {"shots": shots},
        start_from=start_from,
        measured=measured or {},
    )


# Omniglot by the protocol of Prototypical Networks (Snell et al., 2017, section 3.1): Vinyals' split, turned characters
# as classes of their own in training and test, 1,000 test tasks.
_omniglot_few_shot = partial(
    _few_shot,
    dataset="omniglot",
    data={"split": "vinyals", "rotated_classes": True, "ways": 60, "queries": 5},
    net=partial(conv4, 1, downsample="pool"),
    validation={"ways": 20, "queries": 5},
    settings=tuple(_SETTINGS),
)

# CIFAR-FS (Bertinetto et al., 2019) and FC100, with crops and mirror images.
_CIFAR_FS = {"split": "cifar_fs", "ways": 16, "queries": 10, "augment": True}
_FC100 = _CIFAR_FS | {"split": "fc100"}
_cifar_few_shot = partial(
    _few_shot,
    dataset="cifar",
    data=_CIFAR_FS,
    net=partial(conv4, 3, downsample="pool", image_size=32),
    validation={"ways": 5, "queries": 15},
    settings=("5-way 1-shot", "5-way 5-shot"),
)


def _challenge(name: str, title: str, background: str, *, published: str, iterations: int = 1_000) -> Recipe:
    """The Omniglot challenge: a ProtoNet trained within the background alphabets, tested on Lake's 20 runs."""
    return Recipe(
        name=name,
        title=title,
        paper="lake2019omniglot",
        tasks=partial(load, "omniglot_challenge", background=background, ways=16, shots=1, queries=10),
        net=partial(conv4, 1, downsample="pool"),
        learner=partial(ProtoNet, bfloat16=True),
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=(Evaluation("error", published, "running"),),
        profiles=profiles(iterations, episodes=20, val_every=500, quick=(200, 20)),
    )


_OMNIGLOT = (
    _omniglot_few_shot(
        "protonet-omniglot-1s",
        "Prototypical Network on Omniglot, trained 60-way 1-shot",
        "snell2017prototypical",
        partial(ProtoNet, bfloat16=True),
        published="snell2017prototypical/omniglot",
        iterations=4_000,
    ),
    _omniglot_few_shot(
        "protonet-omniglot-5s",
        "Prototypical Network on Omniglot, trained 60-way 5-shot",
        "snell2017prototypical",
        partial(ProtoNet, bfloat16=True),
        shots=5,
        published="snell2017prototypical/omniglot",
        iterations=4_000,
    ),
    # The paper's own training: on training and validation characters, so that no validation chooses the weights.
    *(
        _omniglot_few_shot(
            f"protonet-trainval-omniglot-{shots}s",
            f"Prototypical Network on Omniglot, trained 60-way {shots}-shot on validation characters too",
            "snell2017prototypical",
            ProtoNet,
            data={"split": "vinyals-trainval", "rotated_classes": True, "ways": 60, "queries": 5},
            shots=shots,
            published="snell2017prototypical/omniglot",
            iterations=iterations,
            val_every=iterations,
        )
        for shots, iterations in ((1, 6_000), (5, 4_000))
    ),
    _omniglot_few_shot(
        "matching-length-omniglot-1s",
        "Matching Network on Omniglot, trained 60-way 1-shot, queries as long as they are",
        "vinyals2016matching",
        partial(MatchingNet, query_length=True),
        published="vinyals2016matching/omniglot",
        published_shots=(1, 5),
        iterations=2_500,
    ),
    _omniglot_few_shot(
        "matching-omniglot-1s",
        "Matching Network on Omniglot, trained 60-way 1-shot",
        "vinyals2016matching",
        partial(MatchingNet, bfloat16=True),
        published="vinyals2016matching/omniglot",
        iterations=4_000,
    ),
    _omniglot_few_shot(
        "matching-scaled-omniglot-1s",
        "Matching Network on Omniglot, trained 60-way 1-shot, cosines times 10",
        "vinyals2016matching",
        partial(MatchingNet, scale=10.0, bfloat16=True),
        iterations=2_000,
        published="vinyals2016matching/omniglot",
    ),
    _omniglot_few_shot(
        "siamese-omniglot-1s",
        "Siamese network on Omniglot, trained on all pairs of 60-way 1-shot episodes",
        "koch2015",
        partial(Siamese, bfloat16=True),
        published="vinyals2016matching/siamese-omniglot",
        iterations=1_500,
    ),
    _omniglot_few_shot(
        "relation-omniglot-1s",
        "Relation Network on Omniglot, trained 20-way 1-shot",
        "sung2018relation",
        partial(RelationNet, bfloat16=True),
        net=partial(relation_encoder, 1),
        data={"split": "vinyals", "rotated_classes": True, "ways": 20, "queries": 5},
        published="sung2018relation/omniglot",
        iterations=1_500,
    ),
    _omniglot_few_shot(
        "ridge-omniglot-1s",
        "Ridge-regression head (R2-D2) on Omniglot, trained 60-way 1-shot",
        "bertinetto2019r2d2",
        partial(Ridge, scale=10.0, bfloat16=True),
        published="bertinetto2019r2d2/omniglot",
        iterations=2_000,
    ),
    _omniglot_few_shot(
        "baseline-omniglot",
        "Baseline on Omniglot: a classifier of all training characters, then a linear head",
        "chen2019closer",
        partial(Baseline, classes=4112, bfloat16=True),
        published="vinyals2016matching/baseline-tuned-omniglot",
        published_shots=(1, 5),
        batch_size=128,
        iterations=4_000,
    ),
    _omniglot_few_shot(
        "baselinepp-omniglot",
        "Baseline++ on Omniglot: the same with cosines",
        "chen2019closer",
        partial(Baseline, classes=4112, cosine=True, bfloat16=True),
        batch_size=128,
        iterations=4_000,
    ),
    _omniglot_few_shot(
        "simpleshot-omniglot",
        "SimpleShot on Omniglot: nearest centroids in the Baseline's features",
        "wang2019simpleshot",
        SimpleShot,
        measured={"mean": mean_feature},
        start_from="baseline-omniglot",
        iterations=0,
    ),
    _omniglot_few_shot(
        "pixels-omniglot",
        "Nearest neighbour on the pixels of Omniglot",
        "vinyals2016matching",
        NearestNeighbour,
        net=None,
        iterations=0,
    ),
    # The published comparison: among vectors of length one the nearest has the largest cosine. Characters as they are.
    _omniglot_few_shot(
        "pixels-cosine-omniglot",
        "Nearest neighbour by the cosine of pixels on Omniglot, no turned characters",
        "vinyals2016matching",
        NearestNeighbour,
        published="vinyals2016matching/pixels-omniglot",
        published_shots=(1, 5),
        data={"split": "vinyals", "ways": 20, "queries": 5},
        net=UnitLength,
        iterations=0,
    ),
)

_CIFAR = (
    _cifar_few_shot(
        "protonet-cifar-1s",
        "Prototypical Network on CIFAR-FS, trained 16-way 1-shot",
        "snell2017prototypical",
        partial(ProtoNet, bfloat16=True),
        published="bertinetto2019r2d2/protonet-cifar-fs",
        iterations=2_000,
    ),
    _cifar_few_shot(
        "protonet-cifar-5s",
        "Prototypical Network on CIFAR-FS, trained 16-way 5-shot",
        "snell2017prototypical",
        partial(ProtoNet, bfloat16=True),
        shots=5,
        published="bertinetto2019r2d2/protonet-cifar-fs",
        iterations=2_000,
    ),
    # Trained as it is tested, for six times the episodes, with distances that do not grow with the features.
    *(
        _cifar_few_shot(
            f"protonet-scaled-cifar-{shots}s",
            f"Prototypical Network on CIFAR-FS, trained 5-way {shots}-shot, distances scaled",
            "snell2017prototypical",
            partial(ProtoNet, distance="scaled"),
            data={"split": "cifar_fs", "ways": 5, "queries": 15, "augment": True},
            shots=shots,
            published="bertinetto2019r2d2/protonet-cifar-fs",
            iterations=12_000,
            val_every=2_000,
        )
        for shots in (1, 5)
    ),
    _cifar_few_shot(
        "protonet-fc100-5s",
        "Prototypical Network on FC100, trained 16-way 5-shot",
        "snell2017prototypical",
        partial(ProtoNet, bfloat16=True),
        data=_FC100,
        shots=5,
        iterations=2_000,
    ),
    _cifar_few_shot(
        "ridge-cifar",
        "Ridge-regression head (R2-D2) on CIFAR-FS, trained 16-way 5-shot",
        "bertinetto2019r2d2",
        partial(Ridge, scale=10.0, bfloat16=True),
        shots=5,
        published="bertinetto2019r2d2/r2d2-64-filters-cifar-fs",
        published_shots=(1, 5),
        iterations=2_000,
    ),
    _cifar_few_shot(
        "baseline-cifar",
        "Baseline on CIFAR-FS: a classifier of 64 classes, then a linear head",
        "chen2019closer",
        partial(Baseline, classes=64, features=256, bfloat16=True),
        shots=5,
        batch_size=128,
        iterations=4_000,
    ),
    _cifar_few_shot(
        "baselinepp-cifar",
        "Baseline++ on CIFAR-FS: the same with cosines",
        "chen2019closer",
        partial(Baseline, classes=64, features=256, cosine=True, bfloat16=True),
        shots=5,
        batch_size=128,
        iterations=4_000,
    ),
    _cifar_few_shot(
        "simpleshot-cifar",
        "SimpleShot on CIFAR-FS: nearest centroids in the Baseline's features",
        "wang2019simpleshot",
        SimpleShot,
        measured={"mean": mean_feature},
        shots=5,
        start_from="baseline-cifar",
        iterations=0,
    ),
    _cifar_few_shot(
        "pixels-cifar",
        "Nearest neighbour on the pixels of CIFAR-FS",
        "chen2019closer",
        NearestNeighbour,
        net=None,
        shots=5,
        iterations=0,
    ),
    _cifar_few_shot(
        "pixels-fc100",
        "Nearest neighbour on the pixels of FC100",
        "chen2019closer",
        NearestNeighbour,
        data=_FC100,
        net=None,
        shots=5,
        iterations=0,
    ),
)

# R2-D2 by its code's smaller network (cifar_r2d2_small.sh): trained 20-way with 1 to 9 shots, without crops and mirror
# images. Its episodes have 240 images each, which these have on average. It trains for up to 120,000 episodes and
# keeps one network for 1 shot and one for 5; this one chooses by 5-shot tasks.
_R2D2 = replace(
    _cifar_few_shot(
        "ridge-released-cifar",
        "R2-D2 on CIFAR-FS as its code trains it, 64 filters, 20-way with 1 to 9 shots",
        "bertinetto2019r2d2",
        partial(Ridge, scale=10.0, strength=50.0),
        data={"split": "cifar_fs", "ways": 5, "queries": 15},
        net=partial(R2D2Encoder, 3, dropout=0.4),
        shots=5,
        published="bertinetto2019r2d2/r2d2-64-filters-cifar-fs",
        published_shots=(1, 5),
        iterations=12_000,
        val_every=1_000,
    ),
    train_on=partial(ClassificationTasks.replace, ways=20, shots=(1, 9), queries=7),
    training={"meta_batch": 1, "outer_lr": 5e-3, "scheduler": partial(StepLR, step_size=2_000, gamma=0.5)},
)


def _relation_released(ways: int, queries: int, iterations: int) -> Recipe:
    """A Relation Network by its code: trained for one setting, and asked one query a class by batch statistics.

    That code turns a whole episode by one angle, where each class of ours has its own; shortens the gradients of the
    embedding and of the relation module apart, where ours are one; and trains for up to 1,000,000 episodes.
    """
    setting = f"omniglot-{ways}w1s"
    return Recipe(
        name=f"relation-released-{setting}",
        title=f"Relation Network on Omniglot as its code trains it, {ways}-way 1-shot",
        paper="sung2018relation",
        tasks=partial(load, "omniglot", split="random", rotations=True, ways=ways, shots=1, queries=queries),
        net=partial(relation_encoder, 1),
        learner=partial(RelationNet, as_released=True),
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine", "clip_norm": 0.5},
        evaluations=(
            Evaluation(
                "batch statistics", f"sung2018relation/omniglot-{ways}w1s", "transductive", sizes={"queries": 1}
            ),
            Evaluation("running statistics", None, "running", sizes={"queries": 15}),
        ),
        profiles=profiles(iterations, episodes=1_000, val_every=iterations // 8, quick=(1_000 // ways, 200)),
        validation={"queries": 1},
    )


_RELEASED = (_R2D2, _relation_released(5, 19, 20_000), _relation_released(20, 10, 5_000))

_CHALLENGE = (
    _challenge(
        "challenge-background",
        "Omniglot challenge, a ProtoNet trained on 30 alphabets",
        "all",
        published="lake2019omniglot/protonet-original",
    ),
    _challenge(
        "challenge-background-long",
        "Omniglot challenge, a ProtoNet trained on 30 alphabets four times as long",
        "all",
        published="lake2019omniglot/protonet-original",
        iterations=4_000,
    ),
    _challenge(
        "challenge-small1",
        "Omniglot challenge, a ProtoNet trained on the first minimal set of 5 alphabets",
        "small1",
        published="lake2019omniglot/protonet-minimal",
    ),
    _challenge(
        "challenge-small2",
        "Omniglot challenge, a ProtoNet trained on the second minimal set of 5 alphabets",
        "small2",
        published="lake2019omniglot/protonet-minimal",
    ),
    replace(
        _challenge(
            "challenge-hausdorff",
            "Omniglot challenge, modified Hausdorff distance between drawings",
            "all",
            published="lake2015bpl/hausdorff",
        ),
        tasks=partial(load, "omniglot_challenge", size=105),  # the original bitmaps
        net=None,
        learner=ModifiedHausdorff,
        profiles=profiles(0, episodes=20, val_every=1, quick=(0, 20)),
    ),
)

METRIC = (*_OMNIGLOT, *_CIFAR, *_RELEASED, *_CHALLENGE)
