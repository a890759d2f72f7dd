"""Experiments of *Do generated examples help?*: one shot a class, made examples beside it, and who makes them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mlcore.augmented import Augmented, FirstShots, Makes, differences, imagined, noise, transformed
from mlcore.augmented import within_class_covariance as covariance_of
from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import Baseline, DeltaEncoder, NearestNeighbour, NoisyRidge, ProtoNet, Reptile
from mlcore.learners.delta_encoder import feature_pairs
from mlcore.nets import conv4

# How strong a transform is, and that what a model imagines is shown in grey, was chosen on validation characters.


def moved_and_turned() -> Makes:
    """Random affine maps of a shot."""
    from torchvision.transforms import v2  # slow to import

    bilinear = v2.InterpolationMode.BILINEAR
    return transformed(v2.RandomAffine((-10, 10), (0.08, 0.08), (0.9, 1.1), (-10, 10), interpolation=bilinear))


def bent() -> Makes:
    """Smooth random displacements of a shot (Simard et al., 2003)."""
    from torchvision.transforms import v2

    return transformed(v2.ElasticTransform(60.0, 4.0))


def blurred() -> Makes:
    """A shot out of focus, the same drawing otherwise."""
    from torchvision.transforms import v2

    return transformed(v2.GaussianBlur(7, sigma=(0.5, 2.0)))


def imagined_by(name: str, **settings: Any) -> Makes:
    """What a model of Omniglot that ships expects of more drawings."""
    import mlcore

    return imagined(mlcore.load(f"{name}-omniglot").replace(**settings))  # pyright: ignore[reportArgumentType]


_MAKERS: dict[str, Callable[[], Makes]] = {
    "affine": moved_and_turned,
    "elastic": bent,
    "blurred": blurred,
    "imagined": partial(imagined_by, "statistician"),
    "moved copies": partial(imagined_by, "moved-copies"),
    "counted ink": partial(imagined_by, "pixel-counts"),
    "diffused": partial(imagined_by, "set-diffusion", steps=25),
}


def bare(learner: Callable[..., Learner], *net: nn.Module) -> Augmented:
    """A learner without made examples, and a seed for those that it will be shown."""
    return Augmented(learner(*net), transformed(torch.clone), 0, seed=int(torch.randint(2**31, ())))


def helped(of: Any, *, makes: Callable[[], Makes], copies: int) -> Learner:
    """The same learner with one shot a class and so many made examples."""
    return FirstShots(Augmented(of.learner, makes(), copies, seed=of.seed), 1)


def with_shots(of: Any, *, shots: int) -> Learner:
    """The same learner with so many real shots."""
    return FirstShots(of.learner, shots)


def pixel_ridge() -> NoisyRidge:
    """Ridge regression on 28×28 pixels. Any small penalty did as well on validation characters."""
    return NoisyRidge(nn.Flatten(), covariance=0.01 * torch.eye(784))


def from_scratch() -> Reptile:
    """A small convolutional network, trained on the support set alone; 30 steps of Adam."""
    net = conv4(1, 5, filters=16, downsample="pool")
    return Reptile(net, inner_lr=0.01, inner_steps=30, batch_size=25, mapping="loop")


def _rows(ways: int, episodes: int, copies: dict[str, tuple[int, ...]], batch_norm: Any = "running") -> list:
    """Nothing made, so many made examples of each kind, and more real ones, on the same tasks."""
    row = partial(Evaluation, batch_norm=batch_norm, sizes={"ways": ways}, episodes=episodes)
    return [
        row(f"{ways}-way, bare", learner=partial(with_shots, shots=1)),
        *(
            row(f"{ways}-way, {m} {name}", learner=partial(helped, makes=_MAKERS[name], copies=m))
            for name, numbers in copies.items()
            for m in numbers
        ),
        # There are 20 drawings of a character: 6 shots and 10 queries.
        *(row(f"{ways}-way, {m} real", learner=partial(with_shots, shots=1 + m)) for m in (1, 5)),
    ]


def _drawings(
    name: str, title: str, learner: Callable[..., Augmented], rows: list, *, paper: str, **start: Any
) -> Recipe:
    """One shot of an Omniglot character and others like it. Seeds name the made examples, and initial weights."""
    return Recipe(
        name=f"help-{name}-omniglot",
        title=title,
        paper=paper,
        tasks=partial(load, "omniglot", split="vinyals", rotated_classes=True, ways=5, shots=6, queries=10),
        net=start.pop("net", None),
        learner=learner,
        evaluations=tuple(rows),
        profiles=profiles(0, val_every=1, episodes=200, quick=(0, 20)),
        **start,
    )


_CURVES: dict[str, tuple[int, ...]] = dict.fromkeys(("affine", "imagined", "moved copies"), (1, 5, 20))
_ALL: dict[str, tuple[int, ...]] = _CURVES | dict.fromkeys(("elastic", "blurred", "counted ink"), (5,))
_FEW: dict[str, tuple[int, ...]] = dict.fromkeys(("affine", "imagined", "moved copies", "elastic"), (5,))


def _both(episodes: int) -> list:
    """The rows of 5 ways, and for fewer tasks some of 20."""
    return _rows(5, episodes, _ALL) + _rows(20, episodes // 4, _FEW)


def _diffused(recipe: Recipe) -> Recipe:
    """The same learner on the first of the same tasks, with what a diffusion model draws, which takes longer."""
    first = recipe.evaluations[0]
    rows = _rows(5, min(60, first.episodes or 60), {"diffused": (5, 20)}, first.batch_norm)
    return replace(
        recipe,
        name=recipe.name.replace("help-", "help-diffused-"),
        title=f"{recipe.title}, by diffusion",
        evaluations=tuple(rows),
    )


def _step_makers(of: Any, kind: str) -> Makes:
    """Makers of features: normal noise as within classes, the differences of pairs, and the decoder's steps."""
    pairs = of.pairs.cpu()
    if kind == "noise":
        return noise(covariance_of(pairs))
    return differences(pairs) if kind == "differences" else of.make


def logistic(of: Any) -> Learner:
    """A new linear head on the frozen features, as the Baseline's."""
    return Baseline(of.net, classes=5, features=of.pairs.shape[-1])


def enlarged(of: Any, *, kind: str, copies: int) -> Learner:
    """A linear head for one shot a class and so many made features."""
    return FirstShots(Augmented(logistic(of), _step_makers(of, kind), copies, embedded=True), 1)


def real(of: Any, *, shots: int) -> Learner:
    """The same head with so many real shots."""
    return FirstShots(logistic(of), shots)


def endless(of: Any, *, within: bool) -> Learner:
    """One shot with endless noisy copies: isotropic, or as within classes; both of the same total variance."""
    covariance: Tensor = covariance_of(of.pairs)
    if not within:
        covariance = covariance.trace() / len(covariance) * torch.eye(len(covariance))
    return FirstShots(NoisyRidge(of.net, covariance=covariance), 1)


def means(of: Any) -> Learner:
    """The nearest of the frozen features of one shot a class."""
    return FirstShots(ProtoNet(of.net), 1)


def _features() -> Recipe:
    """A delta-encoder on the features of a ProtoNet of CIFAR-FS, which ships, beside what costs nothing."""
    episodes = partial(load, "cifar", split="cifar_fs", ways=5, shots=21, queries=15)
    row = partial(Evaluation, batch_norm="running", on=episodes)
    copies = (1, 5, 20)
    return Recipe(
        name="delta-encoder-cifar",
        title="A delta-encoder on frozen features of CIFAR-FS",
        paper="schwartz2018delta",
        tasks=partial(load, "pairs", of="cifar", split="cifar_fs", pairs=4),
        net=partial(conv4, 3, downsample="pool", image_size=32),
        learner=partial(DeltaEncoder, features=256),
        training={"meta_batch": 16, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=(
            row("bare", learner=partial(real, shots=1)),
            *(
                row(f"{m} {kind}", learner=partial(enlarged, kind=kind, copies=m))
                for kind, numbers in (("noise", (5, 20)), ("differences", (5, 20)), ("deltas", copies))
                for m in numbers
            ),
            *(row(f"{m} real", learner=partial(real, shots=1 + m)) for m in copies),
            row("endless isotropic noise", learner=partial(endless, within=False)),
            row("endless noise as within classes", learner=partial(endless, within=True)),
            row("nearest shot", learner=means),
        ),
        profiles=profiles(1_000, val_every=250, val_episodes=100, episodes=600, quick=(50, 20), quick_val_episodes=20),
        start_from="protonet-scaled-cifar-1s",
        measured={"pairs": feature_pairs},
    )


_BY_HAND_AND_BY_MODELS = (
    _drawings(
        "nearest",
        "Nearest neighbour in pixels with made examples",
        partial(bare, NearestNeighbour),
        _both(200),
        paper="antoniou2017dagan",
    ),
    _drawings(
        "ridge",
        "Ridge regression on pixels with made examples",
        partial(bare, pixel_ridge),
        _both(200),
        paper="bishop1995noise",
    ),
    _drawings(
        "protonet",
        "A trained Prototypical Network with made examples",
        partial(bare, ProtoNet),
        _both(60),
        paper="snell2017prototypical",
        net=partial(conv4, 1, downsample="pool"),
        start_from="protonet-omniglot-1s",
    ),
    _drawings(
        "scratch",
        "A network trained from nothing on each support set, with made examples",
        partial(bare, from_scratch),
        _rows(5, 30, {name: (5, 20) for name in _CURVES}, "support"),
        paper="antoniou2017dagan",
    ),
)

HELPING = (*_BY_HAND_AND_BY_MODELS, *map(_diffused, _BY_HAND_AND_BY_MODELS), _features())
