"""The page's Slurm scripts, run whole on one machine: stand-ins for srun and scontrol make two nodes of it."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch.distributed as dist

from mlcore.experiments.catalogue import RECIPES
from mlcore.experiments.recipe import Profile
from mlcore.experiments.run import run_recipe

SCRIPTS = Path(__file__).parents[1] / "book" / "reference"
NAME = "maml-sinusoid"
SMALL = Profile(4, episodes=8, val_every=2, val_episodes=4)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32" or shutil.which("bash") is None, reason="Slurm's scripts need bash"),
]

# Both nodes are this machine, so srun starts the command once for each of them. It passes on its own end.
STAND_INS = {
    "srun": """#!/bin/bash
echo "$@" >> "$(dirname "$0")/srun.log"
[[ $1 == --cpus-per-task=* ]] && shift
trap 'kill $(jobs -p)' TERM
"$@" &
"$@" &
wait %1 && wait %2
""",
    "scontrol": """#!/bin/bash
[ "$*" = "show hostnames node[1-2]" ] && printf "localhost\\nlocalhost\\n"
""",
}

# Python reads this at its start, so that every process that trains has the same small recipe.
SMALL_RECIPE = f"""
import sys

if not any(tool in word for tool in ("bin/dask", "bin/torchrun", "resource_tracker") for word in sys.orig_argv):
    from dataclasses import replace
    from mlcore.experiments.catalogue import RECIPES
    from mlcore.experiments.recipe import Profile

    RECIPES["{NAME}"] = replace(RECIPES["{NAME}"], profiles={{"record": {SMALL!r}}})
"""


def _job_with_a_free_port() -> int:
    """A job's number whose port, 20000 + number, nobody uses."""
    for number in range(os.getpid() % 5_000, 10_000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 20_000 + number)):
                return number
    raise RuntimeError("no free port between 20000 and 29999")


@pytest.fixture
def sbatch(tmp_path):
    """Runs a script with arguments as one process on each of two nodes; gives its output and what srun was given."""
    tools, site = tmp_path / "tools", tmp_path / "site"
    for folder in (tools, site):
        folder.mkdir()
    for name, text in STAND_INS.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (site / "sitecustomize.py").write_text(SMALL_RECIPE)
    environment = os.environ | {
        "PATH": os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(site),
        "MLCORE_RUNS": str(tmp_path / "runs"),
        "TMPDIR": str(tmp_path),
        "SLURM_JOB_ID": str(_job_with_a_free_port()),
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }
    environment.pop("WORLD_SIZE", None)

    def run(script: str, *arguments: str) -> tuple[str, str]:
        command = ["bash", str(SCRIPTS / script), *arguments]
        # A group of its own, so that nothing the script started outlives a failed test.
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, text=True, stdout=-1, stderr=-1, start_new_session=True
        )
        try:
            out, err = process.communicate(timeout=1800)  # whatever takes longer hangs
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
        assert process.returncode == 0, err
        return out, (tools / "srun.log").read_text()

    return run


def _recorded(folder: Path) -> list[dict]:
    return json.loads((folder / f"{NAME}.json").read_text())["runs"]


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.sh")), ids=lambda path: path.name)
def test_bash_reads_it_and_it_names_its_folder(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "MLCORE_RUNS"}
    refused = subprocess.run(["bash", str(script), NAME], env=environment, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "MLCORE_RUNS: name a folder that all nodes share" in refused.stderr


def test_two_nodes_train_one_run(sbatch, tmp_path, monkeypatch):
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this PyTorch has no gloo")
    out, started = sbatch("slurm_ranks.sh", NAME, "--device", "cpu", "--results", str(tmp_path))
    assert started.startswith("--cpus-per-task=1 torchrun ")  # sbatch's own does not reach srun
    assert started.count("--nnodes=2 --nproc-per-node=1") == 1
    assert out.count("recorded in") == 1  # by the first of two ranks
    (theirs,) = _recorded(tmp_path)
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "alone"))
    alone = run_recipe(replace(RECIPES[NAME], profiles={"record": SMALL}), profile="record", progress=False)
    assert theirs["iterations"] == len(alone.history.loss) == 4
    for score in theirs["scores"]:
        assert score["mean"] == pytest.approx(alone.scores[score["setting"]].mean, rel=1e-5)


def test_two_nodes_share_a_sweep(sbatch, tmp_path):
    pytest.importorskip("distributed")
    _, started = sbatch("slurm_sweep.sh", NAME, "--seeds", "3", "--device", "cpu", "--results", str(tmp_path))
    assert started.count("dask worker tcp://localhost:") == 1
    assert [run["seed"] for run in _recorded(tmp_path)] == [0, 1, 2]
