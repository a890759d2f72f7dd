"""The ``mlcore`` command, as someone at a terminal meets it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.metadata import version

import pytest
import torch
from typer.testing import CliRunner

from mlcore import files
from mlcore.__main__ import app
from mlcore.datasets import describe
from mlcore.datasets.catalogue import DATA_SETS
from mlcore.experiments import ledger
from mlcore.experiments.catalogue import RECIPES
from mlcore.experiments.recipe import Profile
from mlcore.experiments.run import checkpoint_path, choose_device, weights_path

NAME = "maml-sinusoid"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Checkpoints, data and records under ``tmp_path``, and runs of five iterations."""
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("MLCORE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    small = Profile(iterations=5, episodes=8, val_every=5, val_episodes=4)
    longer = replace(small, iterations=6)
    monkeypatch.setitem(RECIPES, NAME, replace(RECIPES[NAME], profiles={"quick": small, "record": longer}))


@pytest.fixture
def mlcore(tmp_path):
    """Calls the command; gives (exit status, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        extra = ["--results", str(tmp_path / "results")] if arguments[:1] in (("run",), ("report",)) else []
        extra = [] if "--help" in arguments else extra
        result = CliRunner().invoke(app, [*arguments, *extra], env={"COLUMNS": "200"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


def test_list(mlcore):
    status, out, _ = mlcore("list")
    assert status == 0
    for recipe in RECIPES.values():
        assert re.search(rf"^{recipe.name} +{re.escape(recipe.title)}$", out, re.M)
        quick, record = (f"{recipe.profiles[name].iterations:,}" for name in ("quick", "record"))
        here = "; weights here" * weights_path(recipe.name).exists()
        assert f"data {recipe.dataset}; iterations quick {quick}, record {record}; {recipe.paper}{here}\n" in out


def test_list_of_some(mlcore):
    status, out, _ = mlcore("list", "protonet-*s")
    names = [line.split()[0] for line in out.splitlines()[::2]]
    assert status == 0 and names == [name for name in RECIPES if re.fullmatch("protonet-.*s", name)]
    assert "weights here" in out
    status, out, err = mlcore("list", "protonett-*")
    assert (status, out) == (1, "") and "no recipe 'protonett-*'" in err


def test_run_prints_scores_and_writes_the_record(mlcore, tmp_path):
    status, out, err = mlcore("run", NAME, "--seed", "3", "--device", "cpu")
    assert status == 0
    path = tmp_path / "results" / f"{NAME}.json"
    (run,) = json.loads(path.read_text())["runs"]
    assert (run["profile"], run["seed"], run["iterations"], run["device"]) == ("quick", 3, 5, "cpu")
    for score in run["scores"]:
        line = rf"{score['setting']} +{score['mean']:.3f} ± {score['ci95']:.3f} MSE \(8 tasks\)"
        assert re.search(line, out), out
    assert re.search(rf"5 iterations in \d\.\d minutes; recorded in {re.escape(str(path))}", out)
    assert "meta-train" in err and "5/5" in err  # the bar


def test_run_takes_the_profile_asked_for(mlcore, tmp_path):
    assert mlcore("run", NAME, "--profile", "record", "--device", "cpu")[0] == 0
    (run,) = json.loads((tmp_path / "results" / f"{NAME}.json").read_text())["runs"]
    assert (run["profile"], run["iterations"]) == ("record", 6)
    assert run["recipe_hash"] == RECIPES[NAME].hash("record")


@pytest.mark.parametrize(("rank", "device"), [(None, "cuda:0"), ("1", "cuda:1"), ("2", "cuda:0")])
def test_processes_of_a_machine_take_its_gpus_in_turn(rank, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    assert choose_device(None) == device


def test_resume_ends_with_the_same_record(mlcore, tmp_path):
    records = []
    for resume in ([], ["--resume"]):
        assert mlcore("run", NAME, "--device", "cpu", *resume)[0] == 0
        records.append(json.loads((tmp_path / "results" / f"{NAME}.json").read_text()))
    assert records[0] == records[1]


def test_report(mlcore):
    assert "No records in" in mlcore("report")[1]
    assert json.loads(mlcore("report", "--json")[1]) == []
    mlcore("run", NAME, "--device", "cpu")
    status, out, _ = mlcore("report")
    assert status == 0
    lines = out.splitlines()
    assert len(lines) == 5 and lines[2].startswith(f"| {NAME} | 5-shot, 1 step | ")
    assert [line.split(" | ")[3] for line in lines[2:]] == ["0.67", "0.38", "0.35"]


def test_report_as_json(mlcore):
    mlcore("run", NAME, "--device", "cpu")
    status, out, _ = mlcore("report", "--json")
    table = json.loads(out)
    assert status == 0 and len(table) == 3
    keys = {"recipe", "setting", "ours", "ours_ci95", "tasks", "published", "published_ci95", "iterations", "profile"}
    for entry in table:
        assert keys <= set(entry)
        assert (entry["recipe"], entry["tasks"], entry["iterations"], entry["profile"]) == (NAME, 8, 5, "quick")
    assert [entry["published"] for entry in table] == [0.67, 0.38, 0.35]


def test_report_without_a_clone_says_where_records_would_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "repository_data", lambda: None)
    result = CliRunner().invoke(app, ["report"])
    assert f"No records in {tmp_path / 'runs' / 'results'}; `mlcore run RECIPE` writes them there." in result.stdout


def test_data_says_what_is_where(mlcore, tmp_path):
    status, out, _ = mlcore("data")
    assert status == 0
    assert f"data root: {tmp_path / 'data'}, which does not exist (set $MLCORE_DATA" in out
    assert re.search(r"glyphs .*\n +built in", out) and re.search(r"sinusoid .*\n +built in", out)
    assert re.search(r"omniglot .*\n +not found; `mlcore data --download omniglot`", out)
    for name in ("images_background", "images_evaluation"):
        (tmp_path / "data" / "omniglot" / name).mkdir(parents=True)
    assert str(tmp_path / "data" / "omniglot") in mlcore("data")[1].split("omniglot ", 1)[1]


def test_every_data_set_that_has_to_be_got_says_from_where():
    got = [entry for entry in describe() if entry.how_to_get]
    assert len(got) == 11
    assert all("." in entry.source and "data" in entry.how_to_get for entry in got)


def test_version(mlcore):
    status, out, _ = mlcore("--version")
    assert status == 0 and out.startswith(f"mlcore {version('mlcore')}, torch {torch.__version__.split('+')[0]}")


def test_data_root_is_the_clones_by_default(mlcore, monkeypatch):
    monkeypatch.delenv("MLCORE_DATA")
    assert f"data root: {files.repository_data() or 'data'} (" in mlcore("data")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["run", "list", "report", "data", "mlcore run maml-sinusoid"]),
        (["run"], "--profile quick|record --seed --resume --device --results torchrun $MLCORE_RUNS".split()),
        (["report"], ["--json", "--results", "95 % intervals"]),
        (["data"], ["--download", "omniglot"]),
        (["list"], ["iterations of each profile"]),
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_help_says_what_there_is(arguments, words, mlcore):
    status, out, _ = mlcore(*arguments, "--help")
    assert status == 0
    for word in words:
        assert word in " ".join(out.split())


def _spoil_checkpoint() -> None:
    path = checkpoint_path(RECIPES[NAME], "quick", 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a checkpoint")


def _leave_another_recipes_checkpoint() -> None:
    _spoil_checkpoint()
    torch.save({"experiment": "0123456789ab, seed 0"}, checkpoint_path(RECIPES[NAME], "quick", 0))


MISTAKES = {
    "unknown recipe": (
        None,
        ["run", "maml-sinusiod"],
        "there is no recipe 'maml-sinusiod'; did you mean maml-sinusoid",
    ),
    "no data": (None, ["run", "maml-omniglot-5w1s", "--device", "cpu"], "no Omniglot in .*set \\$MLCORE_DATA"),
    "unknown device": (None, ["run", NAME, "--device", "gpu"], "the device 'gpu' cannot be used here: "),
    "unknown download": (None, ["data", "--download", "mnist"], "'mnist' cannot be downloaded, only omniglot; "),
    "damaged checkpoint": (
        _spoil_checkpoint,
        ["run", NAME, "--resume", "--device", "cpu"],
        "is not a checkpoint that can be read",
    ),
    "checkpoint of another recipe": (
        _leave_another_recipes_checkpoint,
        ["run", NAME, "--resume", "--device", "cpu"],
        "belongs to another experiment .recipe 0123456789ab, seed 0; this one is ",
    ),
}


@pytest.mark.parametrize(("prepare", "arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_end_in_one_sentence(prepare, arguments, message, mlcore, tmp_path):
    if prepare:
        prepare()
    status, out, err = mlcore(*arguments)
    assert status == 1
    assert out == ""
    assert err.startswith("mlcore: ") and err.count("\n") == 1 and err.endswith("\n")
    assert re.search(message, err), err
    assert not (tmp_path / "results").exists()


def test_nan_ends_in_one_sentence(mlcore, monkeypatch):
    learner = partial(RECIPES[NAME].learner, inner_lr=float("inf"))
    monkeypatch.setitem(RECIPES, NAME, replace(RECIPES[NAME], learner=learner))
    status, _, err = mlcore("run", NAME, "--device", "cpu")
    assert status == 1
    assert re.search(r"^mlcore: the loss is (nan|inf) at iteration 1; lower inner_lr or outer_lr, or", err, re.M)


@pytest.mark.parametrize("arguments", [["run"], ["run", NAME, "--profile", "full"], ["run", NAME, "--iterations", "3"]])
def test_usage_errors(arguments, mlcore):
    status, _, err = mlcore(*arguments)
    assert status == 2
    assert "Usage: " in err


@pytest.mark.parametrize(("recipe", "message"), [("maml", "there is no recipe 'maml'"), (NAME, "no tasks today")])
def test_only_the_callers_mistakes_lose_their_traceback(recipe, message, mlcore, monkeypatch):
    def fault(**_):
        raise RuntimeError("no tasks today")

    monkeypatch.setitem(DATA_SETS, "sinusoid", DATA_SETS["sinusoid"]._replace(load=fault))
    if recipe == NAME:
        with pytest.raises(RuntimeError, match=message):
            mlcore("run", recipe, "--device", "cpu")
    else:
        assert message in mlcore("run", recipe)[2]


@pytest.mark.slow
def test_python_m_mlcore(tmp_path):
    command = [sys.executable, "-m", "mlcore", "run", "maml-omniglot-5w1s"]
    process = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "error"})
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1, process.stderr
    assert process.stderr.startswith(f"mlcore: no Omniglot in {tmp_path / 'data' / 'omniglot'}")


@pytest.mark.slow
def test_nothing_slow_is_imported_before_it_is_needed():
    program = "import sys, mlcore.__main__; print({'torchvision', 'matplotlib', 'IPython'} & sys.modules.keys())"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
