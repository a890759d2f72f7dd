"""Trained weights that ship with the book: a run writes them, anybody loads and scores them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlcore.checkpoint import read_weights, save_weights
from mlcore.experiments.catalogue import get_recipe
from mlcore.experiments.model_card import model_card
from mlcore.experiments.recipe import Recipe
from mlcore.experiments.run import Run, score_rows
from mlcore.experiments.run import weights_path as weights_path
from mlcore.files import write_atomically
from mlcore.learner import Learner

_PROFILE = "record"
_MOVES = 0.0005  # a share of the queries: weights that move a score by less are kept in half precision


def save(recipe: Recipe, run: Run, entry: dict[str, Any], folder: Path | None = None) -> Path:
    """Write the learner of a recorded run to ``<folder>/<recipe>.safetensors``, and its model card beside it.

    In half precision if that moves none of its accuracies by 0.05 points or more, else as they are; without what only
    meta-training needs.

    Args:
        recipe, run: what was run with profile ``record``, and what it returned.
        entry: what the ledger says about it.
        folder: as for :func:`weights_path`.
    """
    kept = {k: v for k, v in run.learner.state_dict().items() if not k.startswith(run.learner.only_in_training)}
    state = {name: value.detach().cpu().contiguous() for name, value in kept.items()}
    halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if _holds(recipe, run, halved):
        state = halved
    known = {"recipe": recipe.name, "seed": str(entry["seed"]), "training_hash": recipe.training_hash(_PROFILE)}
    path, card = weights_path(recipe.name, folder), model_card(recipe, entry)
    save_weights(path, state, known)
    write_atomically(path.with_suffix(".md"), lambda temporary: temporary.write_text(card, encoding="utf-8"))
    return path


def _holds(recipe: Recipe, run: Run, weights: dict[str, Tensor]) -> bool:
    """Whether all scores of a run stay with these weights in place of its own."""
    if not all(score.metrics[score.metric].percent for score in run.scores.values()):
        return False  # an error has no scale of its own that would say what is little
    own = {name: value.clone() for name, value in run.learner.state_dict().items()}
    run.learner.load_state_dict(own | weights)
    after = score_rows(recipe, run.learner, recipe.splits()[2], _PROFILE)
    run.learner.load_state_dict(own)
    return all(abs(after[setting].mean - before.mean) < _MOVES for setting, before in run.scores.items())


def load(name: str | Path) -> Learner:
    """The trained learner of a recipe, in evaluation mode on the CPU: ``mlcore.load("protonet-omniglot-1s")``.

    Args:
        name: of a recipe (``mlcore list``), or a file of weights that :func:`save` wrote.

    Raises:
        LookupError: no such recipe, or no weights of it here.
        ValueError: a file that cannot be read, or weights of another version of the recipe.
    """
    path = Path(name) if str(name).endswith(".safetensors") else None
    recipe = get_recipe(str(name) if path is None else read_weights(path)[1].get("recipe", path.stem))
    if not recipe.profiles[_PROFILE].iterations:  # it trains nothing, and may begin with another one's network
        first = _found(recipe.start_from) if recipe.start_from else None
        return recipe.build(0, first, recipe.splits()[0] if recipe.measured else None).eval()
    path = path or _found(recipe.name)
    weights, known = read_weights(path)
    if known.get("training_hash") != recipe.training_hash(_PROFILE):
        raise ValueError(
            f"{path} was trained by another version of the recipe {recipe.name}; restore it from git, or train it "
            f"anew: mlcore run {recipe.name} --profile {_PROFILE}."
        )
    learner = recipe.build(0)
    # What did not ship is not a number, so that nobody takes initial values for trained ones.
    left = {k: v for k, v in learner.state_dict().items() if k.startswith(learner.only_in_training)}
    learner.load_state_dict({name: torch.full_like(value, torch.nan) for name, value in left.items()} | weights)
    return learner.eval()


def _found(name: str) -> Path:
    path = weights_path(name)
    if not path.exists():
        raise LookupError(f"no weights of {name} in {path.parent}; make them: mlcore run {name} --profile {_PROFILE}.")
    return path
