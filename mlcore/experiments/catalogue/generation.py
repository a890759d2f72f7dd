"""Experiments of *A few of a kind, then more of it*: models of sets, by likelihood and by what they recognise."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import nn

from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import ByLikelihood, ByStatistic, MovedCopies, NeuralStatistician, PixelCounts, SetDiffusion

# Vinyals' split, turned characters as classes of their own, as for the metric learners.
_SETS: dict[str, dict[str, Any]] = {"omniglot": {"split": "vinyals", "turned": True}, "glyphs": {}}
_EPISODES: dict[str, dict[str, Any]] = {"omniglot": {"split": "vinyals", "rotated_classes": True}, "glyphs": {}}
_WEIGHTS = 50  # importance weights of a likelihood that is reported, or noise levels


def drawing_encoder() -> nn.Sequential:
    """28×28 pixels, at half their resolution, to 128 numbers: three strided convolutions."""
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    for inputs, outputs in ((1, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 128))


def drawing_decoder(inputs: int) -> nn.Sequential:
    """z and c, side by side, to logits of 28×28 pixels: two transposed convolutions."""
    dense = [nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 16 * 7 * 7), nn.ReLU(), nn.Unflatten(1, (16, 7, 7))]
    up = (nn.ConvTranspose2d(16, 16, 4, stride=2, padding=1), nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1))
    return nn.Sequential(*dense, up[0], nn.ReLU(), up[1])


def statistician_of_drawings() -> NeuralStatistician:
    """c of 64 numbers, z of 16; in the paper 512 and 16, and larger networks."""
    return NeuralStatistician(drawing_encoder(), drawing_decoder(64 + 16), features=128, mapping="vmap")


def weighted(learner: Learner, *, samples: int) -> Learner:
    """The same model with so many draws for each bound; a density that is exact stays as it is."""
    return learner.replace(samples=samples) if isinstance(learner, NeuralStatistician | SetDiffusion) else learner


def by_likelihood(learner: Learner, *, samples: int) -> ByLikelihood:
    """Bayes' rule over the model's own likelihoods."""
    return ByLikelihood(weighted(learner, samples=samples))


def _drawings(
    name: str, title: str, paper: str, learner: Any, *, of: str, iterations: int, outer_lr: float = 2e-3
) -> Recipe:
    """Sets of drawings of one character: how likely are five more, given 0, 1 or 5? For Omniglot also: which is it?"""
    episodes = partial(load, of, **_EPISODES[of], ways=5)
    statistic = learner is statistician_of_drawings
    published = "edwards2017statistician/omniglot-5w{}s"
    return Recipe(
        name=f"{name}-{of}",
        title=title,
        paper=paper,
        tasks=partial(load, "drawings", of=of, **_SETS[of]),
        net=None,
        learner=learner,
        training={"meta_batch": 16, "outer_lr": outer_lr, "decay": "cosine", "clip_norm": 50.0},
        evaluations=(
            *(
                Evaluation(
                    f"{shots} drawings seen" if shots != 1 else "1 drawing seen",
                    sizes={"shots": shots},
                    learner=partial(weighted, samples=_WEIGHTS),
                )
                for shots in (0, 1, 5)
            ),
            *(
                Evaluation(
                    f"5-way {shots}-shot, by statistic",
                    published.format(shots),
                    sizes={"shots": shots, "queries": 15},
                    episodes=600,
                    on=episodes,
                    learner=cast("Callable[[Learner], Learner]", ByStatistic),
                )
                for shots in (1, 5)
                if statistic and of == "omniglot"
            ),
            *(
                Evaluation(
                    f"5-way {shots}-shot, by likelihood",
                    sizes={"shots": shots, "queries": 5},
                    episodes=100,
                    on=episodes,
                    learner=partial(by_likelihood, samples=10),
                )
                for shots in (1, 5)
                if of == "omniglot"
            ),
        ),
        profiles=profiles(
            iterations, val_every=max(1_000, iterations // 20), episodes=200, quick=(60, 20), quick_val_episodes=20
        ),
        validation={"shots": 5},
    )


GENERATION: tuple[Recipe, ...] = (
    _drawings(
        "statistician",
        "The Neural Statistician on drawings of Omniglot",
        "edwards2017statistician",
        statistician_of_drawings,
        of="omniglot",
        iterations=3_000,
    ),
    # Twenty times as long, all else equal.
    _drawings(
        "statistician-long",
        "The Neural Statistician on drawings of Omniglot, for longer",
        "edwards2017statistician",
        statistician_of_drawings,
        of="omniglot",
        iterations=60_000,
    ),
    _drawings(
        "statistician",
        "The Neural Statistician on warped print glyphs",
        "edwards2017statistician",
        statistician_of_drawings,
        of="glyphs",
        iterations=2_000,
    ),
    *(
        _drawings(
            "set-diffusion",
            f"A diffusion model given a set, on {words}",
            "giannone2022fsdm",
            SetDiffusion,
            of=of,
            iterations=iterations,
        )
        for of, words, iterations in (
            ("omniglot", "drawings of Omniglot", 16_000),
            ("glyphs", "warped print glyphs", 4_000),
        )
    ),
    # The rivals that cost nothing, all else equal.
    *(
        _drawings(name, title, paper, learner, of=of, iterations=250, outer_lr=0.03)
        for of in ("omniglot", "glyphs")
        for name, title, paper, learner in (
            ("pixel-counts", "Ink counted in each pixel", "gelman2013bda", PixelCounts),
            ("moved-copies", "Copies of support drawings, moved a little", "parzen1962", MovedCopies),
        )
    ),
)
