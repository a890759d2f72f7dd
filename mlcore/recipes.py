"""Named experiments. A recipe is plain values: data, network, learner, training, and what the paper reports.

Adding an experiment is adding an entry to ``RECIPES``; ``mlcore run NAME`` then trains, evaluates and records it.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mlcore import datasets
from mlcore.evaluation import Score, evaluate
from mlcore.files import runs_root
from mlcore.learners import MAML, Learner
from mlcore.learners.base import BatchNormPolicy
from mlcore.nets import conv4, mlp
from mlcore.tasks import TaskDistribution
from mlcore.training import History, meta_train


@dataclass(frozen=True)
class Evaluation:
    """One row of a results table: how the trained weights are scored, and the published number it answers to."""

    setting: str
    published: str | None = None  # id in data/published.yaml
    batch_norm: BatchNormPolicy = "transductive"
    test_steps: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)  # such as {"shots": 5}, where test differs from training


@dataclass(frozen=True)
class Profile:
    """How much work: ``quick`` shows the method in about a minute, ``paper`` is the run that a record rests on."""

    iterations: int
    episodes: int
    val_every: int
    val_episodes: int = 200


@dataclass(frozen=True)
class Recipe:
    """An experiment as plain values, so that it can be hashed and compared."""

    name: str
    title: str
    paper: str  # key in book/references.bib
    dataset: str
    data: dict[str, Any]
    net: tuple[str, tuple[int, ...], dict[str, Any]]
    learner: tuple[str, dict[str, Any]]
    training: dict[str, Any]
    evaluations: tuple[Evaluation, ...]
    profiles: dict[str, Profile]

    def hash(self, profile: str) -> str:
        """Twelve hexadecimal digits that change when anything that can change a result does."""
        values = asdict(self) | {"profiles": asdict(self.profiles[profile])}
        # Words and references may be mended without a new run.
        for key in ("title", "paper"):
            del values[key]
        for evaluation in values["evaluations"]:
            del evaluation["published"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]

    def tasks(self) -> tuple[TaskDistribution, TaskDistribution, TaskDistribution]:
        """Training, validation and test tasks."""
        if self.dataset == "sinusoid":
            distribution = datasets.sinusoid(**self.data)
            return (
                distribution,
                distribution,
                distribution,
            )  # a continuum of functions: a test task was never trained on
        return datasets.load(self.dataset, **self.data)

    def build(self, seed: int) -> Learner:
        """An untrained learner whose initial weights depend on ``seed`` alone."""
        kind, arguments, options = self.net
        learner, settings = self.learner
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = _NETS[kind](*arguments, **options)
        losses = {"sinusoid": F.mse_loss}
        return _LEARNERS[learner](net, loss_fn=losses.get(self.dataset, F.cross_entropy), **settings)


_NETS: dict[str, Callable[..., nn.Module]] = {"conv4": conv4, "mlp": mlp}
_LEARNERS: dict[str, Callable[..., Learner]] = {"maml": MAML}

_SINUSOID_STEPS = (1, 5, 10)


def _sinusoid(name: str, title: str, *, inner_steps: int, published: str, inner_lr: float = 0.01) -> Recipe:
    """Regression as in Finn et al. (2017, section 5.1 and Table 2): trained with 10 shots, scored with 5."""
    return Recipe(
        name=name,
        title=title,
        paper="finn2017maml",
        dataset="sinusoid",
        data={"shots": 10, "queries": 10},
        net=("mlp", (1, 40, 40, 1), {}),
        learner=("maml", {"inner_lr": inner_lr, "inner_steps": inner_steps}),
        training={"meta_batch": 25, "outer_lr": 1e-3},
        evaluations=tuple(
            Evaluation(
                f"5-shot, {steps} step{'s' * (steps > 1)}",
                published=f"{published}-step{steps}",
                test_steps=steps,
                sizes={"shots": 5, "queries": 100},
            )
            for steps in _SINUSOID_STEPS
        ),
        profiles={
            "quick": Profile(iterations=1_000, episodes=600, val_every=500),
            "paper": Profile(iterations=70_000, episodes=600, val_every=5_000),
        },
    )


def _omniglot(name: str, title: str, *, dataset: str, data: dict[str, Any], published: bool) -> Recipe:
    """5-way 1-shot by the protocol of the MAML code: rotations at train and test, one query a class, 3 steps at test.

    Its inner rate 0.4 multiplies a cross-entropy summed over the five classes; ours is a mean, hence 2.0.
    """
    rows: tuple[tuple[str, BatchNormPolicy, str | None], ...] = (
        ("transductive", "transductive", "finn2017maml/omniglot-5w1s"),
        ("support statistics", "support", None),
        ("support + one query", "one_query", None),
        ("running statistics", "running", "bronskill2020tasknorm/maml-omniglot-5w1s-running"),
    )
    return Recipe(
        name=name,
        title=title,
        paper="finn2017maml",
        dataset=dataset,
        data={"ways": 5, "shots": 1, "queries": 1, "rotations": True} | data,
        net=("conv4", (1, 5), {"filters": 64, "downsample": "stride"}),
        learner=("maml", {"inner_lr": 2.0, "inner_steps": 1, "test_steps": 3}),
        training={"meta_batch": 32, "outer_lr": 1e-3},
        evaluations=tuple(
            Evaluation(setting, published=number if published else None, batch_norm=policy)
            for setting, policy, number in rows
        ),
        profiles={
            "quick": Profile(iterations=200, episodes=200, val_every=100),
            "paper": Profile(iterations=8_000, episodes=600, val_every=1_000),
        },
    )


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        _sinusoid("maml-sinusoid", "MAML on sinusoids", inner_steps=1, published="finn2017maml/sinusoid"),
        # The paper prints an inner rate of 0.01; 0.001 is the default of its code.
        _sinusoid(
            "maml-sinusoid-code-rate",
            "MAML on sinusoids, with the inner rate of the paper's code",
            inner_steps=1,
            inner_lr=0.001,
            published="finn2017maml/sinusoid",
        ),
        # Without inner steps the meta-objective is the plain loss over all tasks: pre-training, then fine-tuning at
        # test.
        _sinusoid(
            "pretrain-sinusoid",
            "Pre-training on all sinusoids, then fine-tuning",
            inner_steps=0,
            published="finn2017maml/sinusoid-pretrained",
        ),
        _omniglot(
            "maml-omniglot-5w1s",
            "MAML on Omniglot, 5-way 1-shot",
            dataset="omniglot",
            data={"split": "random"},
            published=True,
        ),
        _omniglot(
            "maml-glyphs-5w1s", "MAML on warped glyphs, 5-way 1-shot", dataset="glyphs", data={}, published=False
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, or an error that lists the names."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]


@dataclass(frozen=True)
class Run:
    """What running a recipe returns."""

    learner: Learner
    history: History
    scores: dict[str, Score]  # by the evaluation's setting


def checkpoint_path(recipe: Recipe, profile: str, seed: int) -> Path:
    """Where a run keeps its checkpoint, outside any work tree."""
    return runs_root() / f"{recipe.name}-{profile}-seed{seed}.pt"


def run_recipe(
    recipe: Recipe,
    *,
    profile: str = "quick",
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Train, evaluate and return; with ``resume``, go on from the checkpoint of an interrupted run."""
    if profile not in recipe.profiles:
        raise ValueError(f"there is no profile {profile!r}; choose one of {', '.join(recipe.profiles)}.")
    sizes = recipe.profiles[profile]
    checkpoint = checkpoint_path(recipe, profile, seed)
    train, val, test = (distribution.to(device) for distribution in recipe.tasks())
    learner = recipe.build(seed).to(device)
    if not resume:
        checkpoint.unlink(missing_ok=True)
    history = meta_train(
        learner,
        train,
        iterations=sizes.iterations,
        val=val,
        val_every=sizes.val_every,
        val_episodes=sizes.val_episodes,
        seed=seed,
        checkpoint=checkpoint,
        recipe_hash=recipe.hash(profile),
        progress=progress,
        **recipe.training,
    )
    scores = {row.setting: score(learner, test, row, episodes=sizes.episodes) for row in recipe.evaluations}
    return Run(learner, history, scores)


def score(learner: Learner, test: TaskDistribution, row: Evaluation, *, episodes: int) -> Score:
    """Score trained weights as one row of the results table says, always on the same list of test tasks."""
    before = getattr(learner, "test_steps", None)
    if row.test_steps is not None:
        learner.test_steps = row.test_steps
    try:
        return evaluate(learner, test.replace(**row.sizes), episodes=episodes, batch_norm=row.batch_norm)
    finally:
        if row.test_steps is not None:
            learner.test_steps = before
