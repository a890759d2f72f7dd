"""What a recipe is, and how one is run: data, network, learner, training, and what the paper reports, as plain values.

The recipes themselves are in :mod:`mlcore.recipes`.
"""

import copy
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from mlcore import datasets
from mlcore.evaluation import Score, evaluate
from mlcore.files import runs_root
from mlcore.hard_tasks import HardTasks
from mlcore.learners import (
    ANIL,
    BOIL,
    CAVIA,
    IMAML,
    MAML,
    Baseline,
    FineTune,
    Learner,
    MAMLPlusPlus,
    MatchingNet,
    MetaSGD,
    MetaTransfer,
    ModifiedHausdorff,
    NearestNeighbour,
    ProtoNet,
    RelationNet,
    Reptile,
    Ridge,
    Siamese,
    SimpleShot,
    relation_encoder,
)
from mlcore.learners.base import BatchNormPolicy
from mlcore.memory import peak_memory
from mlcore.nets import conv4, mlp, resnet12
from mlcore.tasks import SupervisedTasks, Task, TaskDistribution, seeded
from mlcore.training import History, load_trained, meta_train


@dataclass(frozen=True)
class Evaluation:
    """One row of a results table: how the trained weights are scored, and the published number it answers to."""

    setting: str
    published: str | None = None  # id in data/published.yaml
    batch_norm: BatchNormPolicy = "transductive"
    test_steps: int | None = None
    sizes: dict[str, int] = field(default_factory=dict)  # such as {"shots": 5}, where test differs from training
    episodes: int | None = None  # fewer than the profile's, where a task is dear
    on: tuple[str, dict[str, Any]] | None = None  # the test classes of another data set, as for datasets.load


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
    net: tuple[str, tuple[int, ...], dict[str, Any]] | None  # None for a learner without one
    learner: tuple[str, dict[str, Any]]
    # For meta_train. With "batch_size", supervised training on minibatches of that size; with "hard_pool", HardTasks.
    training: dict[str, Any]
    evaluations: tuple[Evaluation, ...]
    profiles: dict[str, Profile]
    validation: dict[str, int] = field(default_factory=dict)  # sizes of validation tasks that differ from training's
    start_from: str | None = None  # the recipe whose network, trained with seed 0, this one begins with

    def hash(self, profile: str) -> str:
        """Twelve hexadecimal digits that change when anything that can change a result does."""
        return _digest(self._values(profile))

    def training_hash(self, profile: str) -> str:
        """The same for what can change the trained weights: a checkpoint serves whatever is evaluated later."""
        values = self._values(profile)
        del values["evaluations"], values["profiles"]["episodes"]
        return _digest(values)

    def _values(self, profile: str) -> dict[str, Any]:
        values = asdict(self) | {"profiles": asdict(self.profiles[profile])}
        # What came later counts where it is used, so that older records stay valid.
        for key in ("validation", "start_from"):
            if not values[key]:
                del values[key]
        # The cosine's older name, likewise.
        if values["training"].get("decay") == "cosine":
            values["training"]["cosine"] = bool(values["training"].pop("decay"))
        # Words and references may be mended without a new run.
        for key in ("title", "paper"):
            del values[key]
        for evaluation in values["evaluations"]:
            del evaluation["published"]
            for key in ("episodes", "on"):
                if evaluation[key] is None:
                    del evaluation[key]
        return values

    def tasks(self) -> tuple[TaskDistribution, TaskDistribution | None, TaskDistribution | Task]:
        """Training, validation and test tasks."""
        if self.dataset == "sinusoid":
            distribution = datasets.sinusoid(**self.data)
            return (
                distribution,
                distribution,
                distribution,
            )  # a continuum of functions: a test task was never trained on
        if self.dataset == "omniglot_challenge":  # a fixed list of test tasks, and every background class in training
            data = dict(self.data)
            challenge = datasets.omniglot_challenge(size=data.pop("size", 28))
            return datasets.omniglot_background(**data), None, challenge
        train, val, test = datasets.load(self.dataset, **self.data)
        return train, val.replace(**self.validation), test

    def build(self, seed: int, weights: Path | None = None) -> Learner:
        """A learner whose initial weights depend on ``seed`` alone, or are for its network those of a checkpoint."""
        learner, settings = self.learner
        if self.dataset == "sinusoid":
            settings = settings | {"loss_fn": F.mse_loss}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.net is None:
                return _LEARNERS[learner](**settings)
            kind, arguments, options = self.net
            net = _NETS[kind](*arguments, **options)
            if weights is not None:
                load_trained(net, weights)
            return _LEARNERS[learner](net, **settings)


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


_NETS: dict[str, Callable[..., nn.Module]] = {
    "conv4": conv4,
    "mlp": mlp,
    "resnet12": resnet12,
    "relation_encoder": relation_encoder,
}
_LEARNERS: dict[str, Callable[..., Learner]] = {
    "maml": MAML,
    "reptile": Reptile,
    "meta_sgd": MetaSGD,
    "mamlpp": MAMLPlusPlus,
    "anil": ANIL,
    "boil": BOIL,
    "cavia": CAVIA,
    "imaml": IMAML,
    "siamese": Siamese,
    "matching": MatchingNet,
    "protonet": ProtoNet,
    "relation": RelationNet,
    "ridge": Ridge,
    "baseline": Baseline,
    "simpleshot": SimpleShot,
    "nearest_neighbour": NearestNeighbour,
    "hausdorff": ModifiedHausdorff,
    "meta_transfer": MetaTransfer,
    "fine_tune": FineTune,
}


@dataclass(frozen=True)
class Run:
    """What running a recipe returns."""

    learner: Learner
    history: History
    scores: dict[str, Score]  # by the evaluation's setting
    hard_tasks: HardTasks | None = None  # with their memory of which classes failed
    peak_bytes: int | None = None  # that the tensors of one meta-update hold at the worst moment; None without training


def checkpoint_path(recipe: Recipe | str, profile: str, seed: int) -> Path:
    """Where a run keeps its checkpoint, outside any work tree."""
    name = recipe if isinstance(recipe, str) else recipe.name
    return runs_root() / f"{name}-{profile}-seed{seed}.pt"


def choose_device(name: str | None) -> str:
    """The device of that name, or the fastest there is; under torchrun a machine's processes take its GPUs in turn.

    Raises:
        ValueError: torch cannot use it here.
    """
    if name is not None:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"the device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
        return name
    if torch.cuda.is_available():
        return f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % torch.cuda.device_count()}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def run_recipe(
    recipe: Recipe,
    *,
    profile: str = "quick",
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    progress: bool = True,
) -> Run:
    """Train, evaluate and return; with ``resume``, go on from the checkpoint of an interrupted run.

    Without ``resume``, the checkpoint of an earlier run is kept beside the new one, as ``….previous.pt``.

    A recipe that starts from another one's network needs that one's checkpoint, of the same profile and seed 0.
    """
    if profile not in recipe.profiles:
        raise ValueError(f"there is no profile {profile!r}; choose one of {', '.join(recipe.profiles)}.")
    sizes = recipe.profiles[profile]
    checkpoint = checkpoint_path(recipe, profile, seed)
    train, val, test = (part if part is None else part.to(device) for part in recipe.tasks())
    weights = recipe.start_from and checkpoint_path(recipe.start_from, profile, 0)
    learner = recipe.build(seed, weights).to(device)
    if isinstance(learner, SimpleShot):
        learner.centre_on(train)
    history, peak_bytes = History(), None
    if sizes.iterations:
        first = not dist.is_initialized() or dist.get_rank() == 0
        if first and not resume and checkpoint.exists():  # an earlier run may have taken hours
            os.replace(checkpoint, checkpoint.with_suffix(".previous.pt"))
        training = dict(recipe.training)
        batch_size = training.pop("batch_size", None)
        if batch_size is not None:
            train = SupervisedTasks(train, batch_size=batch_size)
        hard_pool = training.pop("hard_pool", None)
        if hard_pool is not None:
            train = HardTasks(train, pool=hard_pool)
        history = meta_train(
            learner,
            train,
            iterations=sizes.iterations,
            val=val,
            val_every=sizes.val_every,
            val_episodes=sizes.val_episodes,
            seed=seed,
            checkpoint=checkpoint,
            recipe_hash=recipe.training_hash(profile),
            progress=progress,
            **training,
        )
        batch, trained = train.sample(training["meta_batch"], seeded(seed)), copy.deepcopy(learner).train()
        peak_bytes = peak_memory(lambda: trained.meta_backward(batch), device)
    scores = {}
    for row in recipe.evaluations:
        asked = test if row.on is None else datasets.load(row.on[0], **row.on[1])[2].to(device)
        scores[row.setting] = score(learner, asked, row, episodes=min(row.episodes or sizes.episodes, sizes.episodes))
    return Run(learner, history, scores, train if isinstance(train, HardTasks) else None, peak_bytes)


def score(learner: Learner, test: TaskDistribution | Task, row: Evaluation, *, episodes: int) -> Score:
    """Score trained weights as one row of the results table says, always on the same list of test tasks."""
    if isinstance(test, Task):  # the Omniglot challenge, which reports errors
        right = evaluate(learner, test, batch_norm=row.batch_norm)
        return replace(right, per_task=1 - right.per_task, metric="error")
    before = getattr(learner, "test_steps", None)
    if row.test_steps is not None:
        learner.test_steps = row.test_steps
    try:
        return evaluate(learner, test.replace(**row.sizes), episodes=episodes, batch_norm=row.batch_norm)
    finally:
        if row.test_steps is not None:
            learner.test_steps = before
