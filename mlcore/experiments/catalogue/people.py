"""Experiments of the chapter *A new user, a new patient, a new machine*: people, and a plant's faults, as tasks."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learners import CNP, MAML, Alpaca, ProtoNet
from mlcore.nets import mlp
from mlcore.nets.networks import UnitLength
from mlcore.objective import mse


class WithOne(nn.Module):
    """(1, f(x)): a feature that everybody has, and those of a network; without a network the first ``columns`` of x."""

    def __init__(self, net: nn.Module | None = None, columns: int = 0) -> None:
        super().__init__()
        self.net, self.columns = net, columns

    def forward(self, x: Tensor) -> Tensor:
        rest = x[..., : self.columns] if self.net is None else self.net(x)
        return torch.cat([torch.ones_like(x[..., :1]), rest], -1)


def _learned(inputs: int, features: int) -> nn.Module:
    return WithOne(mlp(inputs, 32, 32, features, activation=nn.Tanh))


def _population(name: str, title: str, paper: str, learner: Any, *, net: Any = None, **training: Any) -> Recipe:
    """The generated population, whose best possible prediction is known."""
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "population"),
        net=net,
        learner=learner,
        training={"meta_batch": 16, "outer_lr": 3e-3, "decay": "cosine", "clip_norm": 1.0} | training,
        evaluations=tuple(Evaluation(f"{k} rating{'s' * (k > 1)}", sizes={"shots": k}) for k in (1, 2, 5, 10, 20)),
        profiles=profiles(3_000, val_every=3_000, episodes=1_000, quick=(200, 200)),
    )


def _movielens(
    name: str,
    title: str,
    paper: str,
    learner: Any,
    *,
    net: Any,
    iterations: int,
    unmoved: bool = False,
    **training: Any,
) -> Recipe:
    """Users of MovieLens as tasks; 122 test users, whose other ratings, up to 50, are asked about."""
    rows = [Evaluation(f"{k} rating{'s' * (k > 1)}", sizes={"shots": k, "queries": 50}) for k in (1, 3, 10)]
    if unmoved:
        rows.append(Evaluation("10 ratings, without a step", test_steps=0, sizes={"shots": 10, "queries": 50}))
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "movielens", shots=(1, 10), queries=10),
        net=net,
        learner=learner,
        training={"meta_batch": 16, "outer_lr": 3e-3, "decay": "cosine", "clip_norm": 1.0} | training,
        evaluations=tuple(rows),
        profiles=profiles(iterations, val_every=iterations, val_episodes=400, episodes=122, quick=(100, 122)),
        validation={"shots": 10},
    )


def _tennessee(name: str, title: str, paper: str, *, net: Any, whiten: bool, iterations: int = 0) -> Recipe:
    """Faults that training never saw, learned in one run of the plant and told in another."""
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "tennessee", whiten=whiten, shots=2),
        net=net,
        learner=ProtoNet,
        training={"meta_batch": 16, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=tuple(Evaluation(f"5-way {k}-window", None, "running", sizes={"shots": k}) for k in (1, 2, 5)),
        profiles=profiles(iterations, val_every=100, episodes=600, quick=(100, 200)),
    )


_FILM = 22  # columns that describe a film

PEOPLE: tuple[Recipe, ...] = (
    _population(
        "alpaca-population",
        "A learned prior on learned tastes",
        "harrison2018alpaca",
        partial(Alpaca, features=7, noise=0.5),
        net=partial(_learned, 4, 6),
    ),
    _population(
        "maml-population",
        "MAML on a generated population",
        "finn2017maml",
        partial(MAML, inner_lr=0.1, inner_steps=3, loss_fn=mse),
        net=partial(mlp, 4, 40, 40, 1),
    ),
    _population("cnp-population", "CNP on a generated population", "garnelo2018cnp", partial(CNP, 4, width=64)),
    _movielens(
        "bias-movielens",
        "A user's shrunken bias",
        "harper2015movielens",
        partial(Alpaca, features=1, noise=0.9),
        net=WithOne,
        iterations=1_000,
        outer_lr=1e-2,
    ),
    _movielens(
        "genres-movielens",
        "A learned prior on genres",
        "harrison2018alpaca",
        partial(Alpaca, features=_FILM + 1, noise=0.9),
        net=partial(WithOne, columns=_FILM),
        iterations=1_000,
    ),
    _movielens(
        "alpaca-movielens",
        "A learned prior on learned features of films",
        "harrison2018alpaca",
        partial(Alpaca, features=9, noise=0.9),
        net=partial(_learned, _FILM, 8),
        iterations=1_000,
    ),
    _movielens(
        "maml-movielens",
        "MAML with a new user's ratings, as MeLU",
        "lee2019melu",
        partial(MAML, inner_lr=0.05, inner_steps=3, loss_fn=mse),
        net=partial(mlp, _FILM, 64, 64, 1),
        iterations=1_000,
        unmoved=True,
    ),
    _movielens(
        "still-movielens",
        "The same network, trained without an inner step",
        "lee2019melu",
        partial(MAML, inner_lr=0.05, inner_steps=0, loss_fn=mse),
        net=partial(mlp, _FILM, 64, 64, 1),
        iterations=1_000,
    ),
    _tennessee(
        "nearest-mean-tennessee",
        "Nearest mean of an hour's summary",
        "downs1993tennessee",
        net=nn.Identity,
        whiten=False,
    ),
    _tennessee(
        "whitened-tennessee",
        "Nearest mean, whitened on other faults",
        "downs1993tennessee",
        net=UnitLength,
        whiten=True,
    ),
    _tennessee(
        "protonet-tennessee",
        "ProtoNet on faults of a plant",
        "snell2017prototypical",
        net=partial(mlp, 104, 128, 64),
        whiten=True,
        iterations=400,
    ),
)
