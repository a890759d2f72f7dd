"""Sweeps over a Dask cluster: what is recorded, what a worker's death costs, and what mistakes say.

The workers meet the same small recipes as the tests: this file is what they preload, and what the command is run from.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from distributed import LocalCluster
from typer.testing import CliRunner

from mlcore import MAML, History, Learner, Task, Tasks, meta_train
from mlcore.__main__ import app
from mlcore.experiments import run
from mlcore.experiments.catalogue import RECIPES
from mlcore.experiments.recipe import Profile
from mlcore.experiments.sweep import matching

FIRST, SECOND = "maml-sinusoid", "reptile-sinusoid"  # here, the second starts from the first one's network
ITERATIONS, EVERY, STOP = 12, 4, 10  # in all, between checkpoints, before the run that is told to stop does so
PATIENCE = 1800  # seconds; whatever takes longer hangs

pytestmark = pytest.mark.slow


class Counted(Tasks):
    """Tasks that note each draw, with its process, in a file. Where a file ``stop`` names it, the last one waits."""

    def __init__(self, tasks, log: Path):
        self.tasks, self.log, self.draws, self.objective = tasks, log, 0, tasks.objective
        log.parent.mkdir(exist_ok=True)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()}\n")
        stop = self.log.parent / "stop"
        while self.draws == STOP and stop.exists() and stop.read_text() == self.log.stem:
            time.sleep(0.05)  # the test empties the file
        self.draws += 1
        return self.tasks.sample(n_tasks, generator)


def _train(learner: Learner, tasks, *, checkpoint: Path, **options) -> History:
    tasks = Counted(tasks, checkpoint.with_suffix(".draws"))
    return meta_train(learner, tasks, checkpoint=checkpoint, checkpoint_every=EVERY, **options)


def _make_small(patch: pytest.MonkeyPatch) -> None:
    profiles = {"quick": Profile(ITERATIONS, episodes=8, val_every=6, val_episodes=4)}
    patch.setitem(RECIPES, FIRST, replace(RECIPES[FIRST], profiles=profiles))
    patch.setitem(RECIPES, SECOND, replace(RECIPES[SECOND], profiles=profiles, start_from=FIRST))
    patch.setattr(run, "meta_train", _train)
    patch.setattr(run, "peak_memory", lambda *_: None)  # its first call takes seconds


def dask_setup(worker) -> None:
    """Called in a worker that preloads this file."""
    _make_small(pytest.MonkeyPatch())


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it hangs"
        time.sleep(0.05)


def _start(*command: str, runs: Path) -> subprocess.Popen:
    environment = os.environ | {"MLCORE_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    return subprocess.Popen([sys.executable, *command], env=environment | {"PYTHONIOENCODING": "utf-8"}, **options)


def _outputs(process: subprocess.Popen) -> tuple[str, str]:
    try:
        return process.communicate(timeout=PATIENCE)
    finally:
        process.kill()


def _runs(folder: Path, name: str) -> list[dict]:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["runs"]


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    _make_small(monkeypatch)
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("WORLD_SIZE", raising=False)


@pytest.fixture
def mlcore(tmp_path):
    """Calls the command on one thread; gives (exit status, stdout, stderr)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def call(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, [*arguments, "--results", str(tmp_path / "results")])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    yield call
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler and two workers, as someone starts them by hand: (address, the workers' $MLCORE_RUNS)."""
    folder = tmp_path_factory.mktemp("cluster")
    runs, address = folder / "runs", folder / "scheduler.json"
    runs.mkdir()
    pages = ("--dashboard-address", "127.0.0.1:0", "--no-dashboard")
    where = ("--host", "127.0.0.1", *pages)
    processes = []
    with open(folder / "log", "w") as log:  # a pipe that nobody reads would fill up

        def start(*command: str) -> None:
            environment = os.environ | {"MLCORE_RUNS": str(runs), "OMP_NUM_THREADS": "1"}
            command = (sys.executable, "-m", "dask", *command, *where)
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder))

        try:
            start("scheduler", "--port", "0", "--scheduler-file", str(address))
            _until(lambda: address.exists() and address.read_text().endswith("}"))
            tcp = json.loads(address.read_text())["address"]
            options = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--death-timeout", str(PATIENCE))
            for _ in range(2):
                start("worker", tcp, *options, "--preload", __file__)
            yield tcp, runs
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait(PATIENCE)


def test_a_killed_workers_run_goes_on_elsewhere_to_the_same_bits(cluster, mlcore, tmp_path):
    address, runs = cluster
    draws, stop = runs / f"{FIRST}-quick-seed0.draws", runs / "stop"
    stop.write_text(draws.stem)
    options = ["--seeds", "2", "--device", "cpu"]
    command = ["sweep", SECOND, FIRST, *options, "--scheduler", address, "--results", str(tmp_path / "swept")]
    process = _start(__file__, *command, runs=tmp_path)
    try:
        _until(lambda: process.poll() is not None or (draws.exists() and len(draws.read_text().split()) > STOP))
        assert process.poll() is None, process.communicate()
        victim = draws.read_text().split()[0]
        os.kill(int(victim), getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows, SIGTERM does the same
    finally:
        stop.write_text("")
        out, err = _outputs(process)
    assert process.returncode == 0, err
    for name in (FIRST, SECOND):
        for seed in (0, 1):
            assert re.search(
                rf"^{name}, seed {seed}: 5-shot, 1 step \d+\.\d+ ± \S+ MSE .8 tasks., \d+\.\d minutes$", out, re.M
            )
            status, _, err = mlcore("run", name, "--device", "cpu", "--seed", str(seed))
            assert status == 0, err
        ours, theirs = (_runs(tmp_path / folder, name) for folder in ("results", "swept"))
        for a, b in zip(ours, theirs, strict=True):
            assert a["iterations"] == ITERATIONS
            for key in a.keys() - {"minutes"}:
                assert a[key] == b[key], key
    # Killed after eleven draws, the last of which it never trained on; the other one goes on from the checkpoint.
    before, after = draws.read_text().split()[: STOP + 1], draws.read_text().split()[STOP + 1 :]
    assert set(before) == {victim} and victim not in after
    assert len(after) == ITERATIONS - STOP // EVERY * EVERY < ITERATIONS


def test_a_local_cluster_records_once(mlcore, tmp_path):
    results = tmp_path / "results"
    command = ["sweep", "maml-sinusoi?", "--workers", "1", "--device", "cpu"]
    first = _start(__file__, *command, "--results", str(results), runs=tmp_path)
    out, err = _outputs(first)
    assert first.returncode == 0, err
    assert re.fullmatch(rf"1 run; starting workers\n\n?{FIRST}, seed 0: 5-shot, 1 step .* minutes\n", out), out
    assert "1/1" in err and "distributed" not in err and "ERROR" not in err, err  # the bar, and nothing of Dask's own
    (entry,) = _runs(results, FIRST)
    assert (entry["profile"], entry["seed"], entry["iterations"], entry["threads"]) == ("quick", 0, ITERATIONS, 1)
    assert entry["recipe_hash"] == RECIPES[FIRST].hash("quick")
    assert (tmp_path / f"{FIRST}-quick-seed0.pt").exists()
    assert mlcore(*command) == (0, f"{FIRST}, seed 0: recorded already\n", "")


def test_a_failed_job_stops_only_what_starts_from_it(cluster, mlcore, tmp_path):
    address, runs = cluster
    (runs / f"{FIRST}-quick-seed0.pt").write_bytes(b"not a checkpoint")
    status, _, err = mlcore("sweep", FIRST, SECOND, "--seeds", "2", "--device", "cpu", "--scheduler", address)
    assert status == 1
    lines = [line for line in err.splitlines() if line.startswith("mlcore: ")]
    assert len(lines) == 3
    assert re.search(f"mlcore: {FIRST}, seed 0: .* is not a checkpoint that can be read", err)
    for seed in (0, 1):
        assert f"mlcore: {SECOND}, seed {seed}: starts from {FIRST}, seed 0, which failed." in lines
    assert [entry["seed"] for entry in _runs(tmp_path / "results", FIRST)] == [1]


def test_a_worker_with_another_recipe_is_refused(cluster, mlcore, monkeypatch, tmp_path):
    monkeypatch.setitem(RECIPES, FIRST, replace(RECIPES[FIRST], learner=partial(MAML, inner_lr=0.5)))
    status, _, err = mlcore("sweep", FIRST, "--scheduler", cluster[0])
    assert status == 1
    assert re.search(
        rf"^mlcore: {FIRST}, seed 0: the worker tcp://\S+ has another mlcore, with another {FIRST}", err, re.M
    )
    assert not (tmp_path / "results").exists()


def test_a_worker_with_two_threads_is_refused(mlcore):
    options = {"processes": False, "protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=2, **options) as cluster:
        status, _, err = mlcore("sweep", FIRST, "--scheduler", cluster.scheduler_address)
    assert status == 1
    assert re.search(rf"^mlcore: {FIRST}, seed 0: the worker tcp://\S+ has 2 threads, .* --nthreads 1\.$", err, re.M)


def test_a_scheduler_that_does_not_answer(mlcore):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    status, _, err = mlcore("sweep", FIRST, "--scheduler", address)
    assert status == 1
    assert err.startswith(f"mlcore: no Dask scheduler answers at '{address}'; start one") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maml-sinusiod"], "there is no recipe 'maml-sinusiod'; did you mean maml-sinusoid"),
        ([FIRST, "nothing-*"], "there is no recipe 'nothing-*'"),
        ([FIRST, "--workers", "2", "--scheduler", "tcp://a:1"], "--workers 2 is the size of a local cluster; leave it"),
    ],
)
def test_mistakes_end_in_one_sentence(arguments, message, mlcore):
    status, out, err = mlcore("sweep", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"mlcore: {message}") and err.count("\n") == 1


def test_without_dask_the_command_says_what_to_install(mlcore, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    status, _, err = mlcore("sweep", FIRST)
    assert (status, err) == (1, "mlcore: a sweep needs Dask; install it: pip install 'mlcore[cluster]'.\n")


def test_patterns_give_each_recipe_once_in_order():
    names = matching(["reptile-sinusoid", "maml-sinusoi?", "maml-sinusoid"])
    assert names == ["maml-sinusoid", "reptile-sinusoid"]
    assert matching(["*"]) == list(RECIPES)


def test_a_recipe_comes_after_the_one_it_starts_from():
    """So that a sweep can hand the workers what others wait for first."""
    names = list(RECIPES)
    for recipe in RECIPES.values():
        assert recipe.start_from is None or names.index(recipe.start_from) < names.index(recipe.name)


if __name__ in ("__main__", "__mp_main__"):  # the second: a local cluster's worker
    _make_small(pytest.MonkeyPatch())
if __name__ == "__main__":
    app()
