"""Several processes under torchrun make the same updates as one."""

import copy
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mlcore import MAML, ClassificationTasks, History, RegressionTasks, Task, Tasks, classification, meta_train, seeded
from mlcore.__main__ import app
from mlcore.experiments.catalogue import RECIPES
from mlcore.experiments.recipe import Profile
from mlcore.experiments.run import checkpoint_path

SIZES = {"iterations": 6, "meta_batch": 5, "progress": False}
NAME = "maml-sinusoid"
PATIENCE = 1800  # seconds; whatever takes longer hangs

pytestmark = pytest.mark.slow


class Interrupted(Exception):
    """Stands for whatever ends a run early."""


class Doubles(Tasks):
    """Image tasks in float64, which end after some meta-batches if told to."""

    objective = classification

    def __init__(self, last: int | None = None):
        self.left = last
        x = torch.randn(60, 1, 5, 5, dtype=torch.float64, generator=seeded(0))
        self.tasks = ClassificationTasks(x, torch.arange(12).repeat(5), ways=3, shots=2, queries=2)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        if self.left is not None:
            if self.left == 0:
                raise Interrupted
            self.left -= 1
        return self.tasks.sample(n_tasks, generator)


def _learner(seed: int = 0) -> MAML:
    torch.manual_seed(seed)
    # No bias before the norm: its gradient is zero but for rounding, of which Adam would make steps.
    convolution = nn.Conv2d(1, 3, 3, bias=False)
    net = nn.Sequential(convolution, nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3))
    return MAML(net.double(), inner_lr=0.1)


def _train(learner: MAML, checkpoint: Path, last: int | None = None) -> dict:
    options = {"val": Doubles(), "val_every": 4, "val_episodes": 6, "clip": 0.05, "outer_lr": 0.01}
    history = meta_train(learner, Doubles(last), **SIZES, **options, checkpoint=checkpoint, checkpoint_every=3)
    return {"state": learner.state_dict(), "history": vars(history)}


def _small() -> None:
    """Four iterations, with a checkpoint after two."""
    RECIPES[NAME] = replace(
        RECIPES[NAME],
        training=RECIPES[NAME].training | {"checkpoint_every": 2},
        profiles={"quick": Profile(4, episodes=8, val_every=2, val_episodes=4)},
    )


def _worker(folder: Path) -> None:
    """What each process does: train by hand, in a process group of its own, then call the command under torchrun's."""
    torch.set_num_threads(1)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world)
    try:
        meta_train(_learner(), Doubles(), **SIZES | {"meta_batch": 1})
    except ValueError as error:
        refusal = str(error)
    # Every rank but the first starts from other weights, as a script without a seed would.
    whole = _train(_learner(seed=rank), folder / "whole.pt")
    with suppress(Interrupted):
        _train(_learner(), folder / "parts.pt", last=5)
    assert rank > 0 or torch.load(folder / "parts.pt")["iteration"] == 3
    resumed = _train(_learner(seed=rank), folder / "parts.pt")
    dist.destroy_process_group()
    torch.save({"whole": whole, "resumed": resumed, "refusal": refusal}, folder / f"rank{rank}.pt")
    _small()
    app(["run", NAME, "--device", "cpu", "--results", str(folder)], standalone_mode=False)


def _dying_worker(folder: Path) -> None:
    """The command, but the second rank ends itself without a word, once, in the third iteration."""
    _small()
    log, sample = folder / "log", RegressionTasks.sample
    iterations = {seeded(0, 0, i).initial_seed(): i for i in range(4)}

    def sample_or_die(self, n_tasks: int, generator: torch.Generator) -> Task:
        iteration = iterations.get(generator.initial_seed())
        if iteration is not None and os.environ["RANK"] == "1":
            dies = iteration == 2 and "died" not in (log.read_text() if log.exists() else "")
            with log.open("a") as file:
                file.write(f"{iteration} {'died ' * dies}")
            if dies:
                deadline = time.monotonic() + PATIENCE
                while not checkpoint_path(NAME, "quick", 0).exists() and time.monotonic() < deadline:
                    time.sleep(0.01)  # the first rank may be a little behind
                os._exit(9)
        return sample(self, n_tasks, generator)

    RegressionTasks.sample = sample_or_die
    app(["run", NAME, "--device", "cpu", "--resume", "--results", str(folder)], standalone_mode=False)


def _torchrun(folder: Path, worker: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MLCORE_RUNS": str(folder / "runs")}
    return subprocess.run(
        [*command, __file__, worker, str(folder)], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this PyTorch has no gloo")
    folder = tmp_path_factory.mktemp("ranks")
    process = _torchrun(folder, "_worker")
    assert process.returncode == 0, process.stderr
    return folder, process, [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def _assert_close(a: dict, b: dict, tolerance: float) -> None:
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


def test_two_ranks_end_where_one_process_does(two_ranks, tmp_path):
    """Five tasks on two ranks: three and two, so that an unweighted mean over ranks would show."""
    _, _, ranks = two_ranks
    learner = _learner()
    start = copy.deepcopy(learner.state_dict())
    alone = _train(learner, tmp_path / "alone.pt")
    for rank in ranks:
        _assert_close(rank["whole"]["state"], alone["state"], 1e-12)
        theirs, ours = (History(**run["history"]) for run in (rank["whole"], alone))
        for name in ("loss", "score", "val_mean", "val_ci95"):
            assert getattr(theirs, name) == pytest.approx(getattr(ours, name), abs=1e-12)
        assert (theirs.val_iteration, theirs.best_iteration) == (ours.val_iteration, ours.best_iteration)
    for name in ("net.0.weight", "net.1.running_mean", "net.1.running_var"):
        assert (alone["state"][name] - start[name]).abs().max() > 1e-3, f"{name} did not move: nothing was compared"


def test_ranks_agree_to_the_bit(two_ranks):
    _, _, (first, second) = two_ranks
    for run in ("whole", "resumed"):
        for name, value in first[run]["state"].items():
            assert torch.equal(value, second[run]["state"][name])


def test_ranks_resume_to_the_same_bits(two_ranks):
    _, _, (first, _) = two_ranks
    for name, value in first["whole"]["state"].items():
        assert torch.equal(value, first["resumed"]["state"][name])
    assert first["whole"]["history"]["loss"] == first["resumed"]["history"]["loss"]


def test_more_ranks_than_tasks_are_refused(two_ranks):
    _, _, ranks = two_ranks
    assert {rank["refusal"] for rank in ranks} == {"meta_batch=1 is less than the 2 processes; each needs a task."}


def test_the_command_under_torchrun_writes_one_record(two_ranks, monkeypatch, tmp_path):
    folder, process, _ = two_ranks
    assert process.stdout.count("recorded in") == 1
    (theirs,) = json.loads((folder / f"{NAME}.json").read_text())["runs"]
    monkeypatch.setitem(RECIPES, NAME, RECIPES[NAME])
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    _small()
    app(["run", NAME, "--device", "cpu", "--results", str(tmp_path)], standalone_mode=False)
    (ours,) = json.loads((tmp_path / f"{NAME}.json").read_text())["runs"]
    assert theirs["recipe_hash"] == ours["recipe_hash"] and theirs["iterations"] == 4
    for a, b in zip(theirs["scores"], ours["scores"], strict=True):
        assert a["mean"] == pytest.approx(b["mean"], rel=1e-5)


def test_a_lost_rank_costs_what_came_after_the_checkpoint(two_ranks, tmp_path):
    """The launch fails when a rank is lost, and the same command goes on."""
    launches = [_torchrun(tmp_path, "_dying_worker") for _ in range(2)]
    assert launches[0].returncode != 0
    assert launches[1].returncode == 0, launches[1].stderr
    assert (tmp_path / "log").read_text() == "0 1 2 died 2 3 "
    paths = [folder / "runs" / f"{NAME}-quick-seed0.pt" for folder in (tmp_path, two_ranks[0])]
    lost, undisturbed = map(torch.load, paths)
    for part in ("learner", "best"):
        for name, value in undisturbed[part].items():
            assert torch.equal(lost[part][name], value), name
    assert lost["history"] | {"minutes": 0} == undisturbed["history"] | {"minutes": 0}
    records = [json.loads((folder / f"{NAME}.json").read_text())["runs"] for folder in (tmp_path, two_ranks[0])]
    assert records[0][0]["scores"] == records[1][0]["scores"]


if __name__ == "__main__":
    {"_worker": _worker, "_dying_worker": _dying_worker}[sys.argv[1]](Path(sys.argv[2]))
