"""How a recipe is run: trained, resumed, scored."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mlcore.checkpoint import History
from mlcore.distributed import rank_and_world
from mlcore.evaluation import Score, evaluate
from mlcore.experiments.recipe import Evaluation, Recipe
from mlcore.files import repository_data, runs_root
from mlcore.learner import Learner
from mlcore.profiling import peak_memory
from mlcore.task import Tasks, seeded
from mlcore.training import meta_train


@dataclass(frozen=True)
class Run:
    """What running a recipe returns."""

    learner: Learner
    history: History
    scores: dict[str, Score]  # by the evaluation's setting
    train: Tasks  # what it was trained on, with its memory
    peak_bytes: int | None = None  # that the tensors of one meta-update hold at the worst moment; None without training


def checkpoint_path(recipe: Recipe | str, profile: str, seed: int) -> Path:
    """Where a run keeps its checkpoint, outside any work tree."""
    name = recipe if isinstance(recipe, str) else recipe.name
    return runs_root() / f"{name}-{profile}-seed{seed}.pt"


def weights_path(name: str, folder: Path | None = None) -> Path:
    """The file of a recipe's weights: in the clone's ``data/weights``, or beside the checkpoints without a clone."""
    return (folder or (repository_data() or runs_root()) / "weights") / f"{name}.safetensors"


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

    A recipe that starts from another one's network needs that one's checkpoint, of the same profile and seed 0, or
    takes the weights of it that ship.
    """
    if profile not in recipe.profiles:
        raise ValueError(f"there is no profile {profile!r}; choose one of {', '.join(recipe.profiles)}.")
    sizes = recipe.profiles[profile]
    checkpoint = checkpoint_path(recipe, profile, seed)
    train, val, test = recipe.splits()
    train, val, test = train.to(device), val and val.to(device), test.to(device)
    learner = recipe.build(seed, _weights(recipe, profile), train).to(device)
    history, peak_bytes = History(), None
    if sizes.iterations:
        if rank_and_world()[0] == 0 and not resume and checkpoint.exists():  # an earlier run may have taken hours
            os.replace(checkpoint, checkpoint.with_suffix(".previous.pt"))
        if recipe.train_on is not None:
            train = recipe.train_on(train)
        training: dict[str, Any] = {"meta_batch": 4} | recipe.training
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
        peak_bytes = peak_memory(lambda: trained.meta_backward(batch, train.objective), device)
    return Run(learner, history, score_rows(recipe, learner, test, profile), train, peak_bytes)


def score_rows(recipe: Recipe, learner: Learner, test: Tasks, profile: str) -> dict[str, Score]:
    """Score trained weights by every row of a recipe's results table, on tasks ``test`` unless a row has its own."""
    most, scores = recipe.profiles[profile].episodes, {}
    for row in tqdm(recipe.evaluations, desc="score", unit="row", delay=1, leave=False):
        asked = test if row.on is None else row.on()[2]
        scores[row.setting] = score(learner, asked, row, episodes=min(row.episodes or most, most))
    return scores


def score(learner: Learner, test: Tasks, row: Evaluation, *, episodes: int) -> Score:
    """Score trained weights as one row of the results table says, always on the same list of test tasks."""
    if row.learner is not None:
        learner = row.learner(learner)
    if row.test_steps is not None:
        learner = learner.replace(test_steps=row.test_steps)
    count = episodes if test.size is None else None
    return evaluate(learner, test.replace(**row.sizes), episodes=count, batch_norm=row.batch_norm, progress=False)


def _weights(recipe: Recipe, profile: str) -> Path | None:
    if recipe.start_from is None:
        return None
    path = checkpoint_path(recipe.start_from, profile, 0)
    if not path.exists() and weights_path(recipe.start_from).exists():
        return weights_path(recipe.start_from)
    if not path.exists():
        raise FileNotFoundError(
            f"no {path}; make it first: mlcore run {recipe.start_from} --profile {profile} --seed 0."
        )
    return path
