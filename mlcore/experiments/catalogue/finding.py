"""Experiments of the chapter *Find it, outline it*: one character among many, and cells from a few that are marked."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from mlcore.datasets import KINDS_OF_CELLS, load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learner import Learner
from mlcore.learners import ColourBlobs, CutByColour, MatchedFilter, PixelPrototypes, SiameseUNet
from mlcore.nets.unet import UNet

_CLUTTER = (4, 8, 16, 32)
_WIDTHS = (16, 24, 40, 56)
VIOLET = (0.5, -1.0, 0.5)
"""Red and blue over green: the colour of the stain, known to everybody who saw a smear."""


def shapes_net() -> nn.Sequential:
    """Ink of 28 × 28 pixels to 64 numbers: three strided convolutions."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise((1, 32, 64, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.GroupNorm(1, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 64))


def _clutter(
    name: str,
    title: str,
    paper: str,
    learner: Callable[..., Learner],
    *,
    net: Any = None,
    iterations: int,
    published: str | None = None,
    **training: Any,
) -> Recipe:
    """One drawing of a character, one canvas: Lake's background alphabets to learn from, the evaluation's to test."""
    answers = {4: f"{published}-4", 32: f"{published}-32"} if published else {}
    seen = partial(load, "canvases", of="omniglot", split="lake", seen=True)
    return Recipe(
        name=f"{name}-canvases",
        title=title,
        paper=paper,
        tasks=partial(load, "canvases", of="omniglot", split="lake", characters=(2, 32)),
        net=net,
        learner=learner,
        training={"meta_batch": 16, "outer_lr": 2e-3, "decay": "cosine", "clip_norm": 1.0} | training,
        evaluations=(
            *(Evaluation(f"{k} characters", answers.get(k), sizes={"characters": k}) for k in _CLUTTER),
            *(Evaluation(f"{k} characters, seen alphabets", sizes={"characters": k}, on=seen) for k in _CLUTTER),
            Evaluation("4 characters, noisy", sizes={"characters": 4, "noise": 0.05}),
        ),
        profiles=profiles(
            iterations, val_every=iterations, val_episodes=32, episodes=400, quick=(100, 40), quick_val_episodes=16
        ),
        validation={"characters": 8},
    )


def _cells(name: str, title: str, paper: str, learner: Callable[..., Learner]) -> Recipe:
    """One to five cells marked, ten smears asked about; nothing is trained."""
    return Recipe(
        name=f"{name}-cells",
        title=title,
        paper=paper,
        tasks=partial(load, "blood_cells", kind="WBC"),
        net=None,
        learner=learner,
        evaluations=tuple(
            Evaluation(f"{kind}, {k} marked", sizes={"shots": k}, on=partial(load, "blood_cells", kind=kind))
            for kind in KINDS_OF_CELLS
            for k in (1, 3, 5)
        ),
        profiles=profiles(0, val_every=1, episodes=60, quick=(0, 10)),
    )


FINDING: tuple[Recipe, ...] = (
    _clutter(
        "matched-filter",
        "Normalised cross-correlation on cluttered canvases",
        "turin1960",
        MatchedFilter,
        iterations=100,
        outer_lr=0.1,
    ),
    _clutter(
        "cut-pixels",
        "Cut by colour, compare blurred shapes",
        "michaelis2018clutter",
        CutByColour,
        iterations=100,
        outer_lr=0.3,
    ),
    _clutter(
        "cut-net",
        "Cut by colour, compare embeddings of shapes",
        "michaelis2018clutter",
        CutByColour,
        net=shapes_net,
        iterations=10_000,
    ),
    _clutter(
        "pixel-prototypes",
        "A prototype for each pixel's class on cluttered canvases",
        "wang2019panet",
        PixelPrototypes,
        net=partial(UNet, widths=_WIDTHS),
        iterations=400,
    ),
    _clutter(
        "siamese-unet",
        "Siamese U-Net on cluttered canvases",
        "michaelis2018clutter",
        SiameseUNet,
        net=partial(UNet, widths=_WIDTHS),
        iterations=1_000,
        published="michaelis2018clutter/siamese-unet",
    ),
    _cells("violet", "Cells by the colour of the stain", "fisher1936", partial(ColourBlobs, VIOLET)),
    _cells("marked", "Cells by the colour of marked ones", "fisher1936", ColourBlobs),
)
