"""Weights that ship: what a run writes is what anybody loads and scores."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

import mlcore
from mlcore import datasets
from mlcore.__main__ import app
from mlcore.datasets.catalogue import DATA_SETS
from mlcore.experiments import catalogue, ledger, weights
from mlcore.experiments import run as running
from mlcore.experiments.catalogue import RECIPES
from mlcore.experiments.recipe import Profile
from mlcore.experiments.run import run_recipe, score_rows
from mlcore.experiments.weights import weights_path

pytestmark = pytest.mark.slow

NAME = "maml-glyphs-5w1s"
SHIPPED = sorted(path.stem for path in weights_path("any").parent.glob("*.safetensors"))


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A recipe whose profile for records is a moment long, its weights in a folder of their own."""
    small = replace(RECIPES[NAME], profiles={"record": Profile(3, 20, 3, 4)})
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setitem(RECIPES, NAME, small)
    for module in (weights, ledger, running):
        monkeypatch.setattr(module, "repository_data", lambda: tmp_path, raising=False)
    return small


def ran(recipe, **options):
    run = run_recipe(recipe, profile="record", progress=False)
    entry = ledger.entry(recipe, run, profile="record", seed=0)
    return run, entry, weights.save(recipe, run, entry, **options)


def test_loaded_weights_give_the_scores_of_the_record(short, tmp_path):
    run, entry, path = ran(short)
    ledger.write(NAME, entry)
    assert path == tmp_path / "weights" / f"{NAME}.safetensors"
    learner = mlcore.load(NAME)
    assert not learner.training
    again = score_rows(short, learner, short.splits()[2], "record")
    for row, score in zip(entry["scores"], again.values(), strict=True):
        assert abs(row["mean"] - score.mean) < 0.0005
        assert sum(row["per_task"]) / len(row["per_task"]) == pytest.approx(row["mean"], abs=1e-5)
    for name, value in mlcore.load(path).state_dict().items():
        assert torch.equal(value, learner.state_dict()[name])
        assert (value - run.learner.state_dict()[name]).abs().max() <= 1e-3 * value.abs().max()
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert f'mlcore.load("{NAME}")' in card and "DejaVu" in card and "3 meta-updates" in card
    said = CliRunner().invoke(app, ["score", NAME])
    assert said.exit_code == 0 and said.stdout.count("the record holds") == len(short.evaluations)


def test_the_command_says_when_a_record_does_not_hold(short):
    _, entry, _ = ran(short)
    entry["scores"][0]["mean"] += 1
    ledger.write(NAME, entry)
    said = CliRunner().invoke(app, ["score", NAME])
    assert said.exit_code == 1 and "the record says 1." in said.stdout


@pytest.mark.parametrize("half", [True, False])
def test_precision_is_halved_only_where_no_score_moves(short, monkeypatch, half):
    monkeypatch.setattr(weights, "_MOVES", 2.0 if half else 0.0)
    _, _, path = ran(short)
    stored, _ = weights.read_weights(path)
    assert {value.dtype for value in stored.values() if value.is_floating_point()} == {
        torch.float16 if half else torch.float32
    }


def test_a_head_that_only_training_needs_does_not_ship(tmp_path, monkeypatch):
    letters = partial(datasets.load, "glyphs")
    classifier = partial(mlcore.Baseline, classes=len(letters()[0].classes))
    recipe = replace(
        RECIPES["baseline-omniglot"], tasks=letters, learner=classifier, profiles={"record": Profile(3, 20, 3, 4)}
    )
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    run, _, path = ran(recipe, folder=tmp_path)
    assert {name.split(".")[0] for name in weights.read_weights(path)[0]} == {"net"}
    learner = mlcore.load(path)
    assert all(value.isnan().all() for value in learner.head.values())
    for setting, score in score_rows(recipe, learner, recipe.splits()[2], "record").items():
        assert abs(score.mean - run.scores[setting].mean) < 0.0005


def test_weights_that_cannot_serve_are_refused(short, tmp_path, monkeypatch):
    with pytest.raises(LookupError, match=f"no weights of {NAME} in .*mlcore run {NAME} --profile record"):
        mlcore.load(NAME)
    _, _, path = ran(short)
    other = replace(short, training=short.training | {"outer_lr": 0.1})
    monkeypatch.setitem(RECIPES, NAME, other)
    with pytest.raises(ValueError, match="another version of the recipe"):
        mlcore.load(NAME)
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="holds no weights that can be read"):
        mlcore.load(broken)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # one bit of one weight
    broken.write_bytes(content)
    with pytest.raises(ValueError, match="its checksum is another; restore it"):
        mlcore.load(broken)
    with pytest.raises(FileNotFoundError, match=r"no file .*none\.safetensors"):
        mlcore.load(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="no recipe 'nobody'"):
        mlcore.load("nobody")


def test_what_ships_is_small_and_has_a_card_and_a_record():
    files = list(weights_path("any").parent.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 30e6
    for file in files:
        assert f'mlcore.load("{file.stem}")' in file.with_suffix(".md").read_text(encoding="utf-8")
        assert ledger.recorded(file.stem)["scores"][0]["per_task"]


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_scores_what_its_record_says(name, request):
    recipe = catalogue.get_recipe(name)
    data = recipe.tasks.keywords.get("of", recipe.dataset).removesuffix("_challenge")
    if DATA_SETS[data].find:
        kind = {"tennessee": "tables", "movielens": "tables", "blood_cells": "cells"}.get(data, data)
        request.getfixturevalue(f"needs_{kind}")
    row, recorded = recipe.evaluations[0], ledger.recorded(name)["scores"][0]
    # What is drawn for a task depends on the size of its batch: a bound that is drawn is scored on whole ones.
    episodes = 100 if name.startswith(("statistician", "set-diffusion")) else 10
    now = running.score(mlcore.load(name), recipe.splits()[2], row, episodes=episodes)
    # Another processor, and half precision, may turn an answer or two of a task.
    assert now.of_task[:10].tolist() == pytest.approx(recorded["per_task"][:10], abs=0.11)
    assert now.of_task[:10].mean() == pytest.approx(sum(recorded["per_task"][:10]) / 10, abs=0.011)
