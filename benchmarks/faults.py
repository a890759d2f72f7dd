"""What breaks when things break: kills at random moments, damaged files, no room, two processes on one cache.

    python benchmarks/faults.py            # 200 kills, some minutes
    python benchmarks/faults.py --quick    # a dozen

Prints a line for each kind, and fails if anything was lost, came out different, or was told in more than a sentence.
It forks, so it needs a system that does.
"""

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import numpy as np
import torch

from mlcore import MAML, conv4, meta_train, mlp
from mlcore.checkpoint import load_trained, save_weights
from mlcore.datasets import download_omniglot, omniglot, omniglot_challenge, sinusoid
from mlcore.datasets.cache import cached_images
from mlcore.experiments import ledger
from mlcore.files import write_atomically
from mlcore.objective import mse

ONE_SENTENCE = (ValueError, LookupError, OSError)


def child(work: Callable[[], object]) -> int:
    """Do ``work`` in a process of its own; its number."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def ended(pid: int, after: float | None = None) -> int:
    """Wait for a child, killing it after so many seconds; its exit status, negative for a signal."""
    if after is not None:
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def train(checkpoint: Path | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    learner = MAML(mlp(1, 20, 1), inner_lr=0.01, loss_fn=mse)
    settings = {"iterations": 300, "val": sinusoid(), "val_every": 50, "val_episodes": 4, "progress": False}
    meta_train(learner, sinusoid(), checkpoint=checkpoint, checkpoint_every=3, **settings)
    return learner.state_dict()


def kills_in_training(kills: int, folder: Path) -> str:
    """A run is killed again and again; the weights it ends with are those of a run that nobody disturbed."""
    expected, done, runs = train(None), 0, 0
    while done < kills:
        checkpoint, result, status = folder / f"run{runs}.pt", folder / f"weights{runs}.pt", -1
        while status:
            pid = child(lambda c=checkpoint, r=result: torch.save(train(c), r))
            status = ended(pid, random.uniform(0.05, 1.5) if done < kills else None)
            done += status == -signal.SIGKILL
            assert status in (0, -signal.SIGKILL), status
        weights = torch.load(result, weights_only=True)
        assert all(torch.equal(weights[name], value) for name, value in expected.items()), "other weights"
        runs += 1
    return f"{done} kills in {runs} runs: all ended with the same bits"


def kills_in_writing(kills: int, folder: Path) -> str:
    """A record is written without pause and its writer killed; what was there stays, and can be read."""
    ledger.write("r", {"profile": "record", "seed": 0, "scores": []}, folder)

    def write_on() -> None:
        for seed in range(1, 10**6):
            ledger.write("r", {"profile": "quick", "seed": seed % 7, "scores": ["x" * 10_000]}, folder)

    for _ in range(kills):
        assert ended(child(write_on), random.uniform(0.001, 0.05)) == -signal.SIGKILL
        runs = ledger.read_runs(folder / "r.json")
        assert any(run["profile"] == "record" for run in runs), "the record of another run is gone"
    old = time.time() - 7200
    left = list(folder.glob(".r.*.partial.json"))
    for path in left:
        os.utime(path, (old, old))
    ledger.write("r", {"profile": "record", "seed": 0, "scores": []}, folder)
    assert not list(folder.glob(".r.*.partial.json")), "half-written files are left"
    return f"{kills} kills: every record was whole; {len(left)} half-written files, cleared by the next write"


def kills_in_a_sweep(kills: int, folder: Path) -> str:
    """A sweep is killed with all its workers, again and again; its records are those of undisturbed runs."""
    names = ("pretrain-sinusoid", "anil-sinusoid")

    def mlcore(*words: str, records: str) -> subprocess.Popen:
        own = {"MLCORE_RUNS": str(folder / f"{records} runs"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mlcore", *words, "--results", str(folder / records)]
        silent = subprocess.DEVNULL
        return subprocess.Popen(command, env=os.environ | own, stdout=silent, stderr=silent, start_new_session=True)

    for name in names:
        assert mlcore("run", name, records="alone").wait() == 0
    done = 0
    while True:
        process = mlcore("sweep", *names, "--workers", "2", records="swept")
        try:
            status = process.wait(random.uniform(4, 20) if done < kills else None)
            assert status == 0, status
            if done >= kills:
                break
            for path in (folder / "swept").glob("*.json"):  # all was done: once more, from the checkpoints
                path.unlink()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
    for name in names:
        alone, swept = (ledger.read_runs(folder / records / f"{name}.json")[0] for records in ("alone", "swept"))
        assert all(alone[key] == swept[key] for key in ("scores", "validation", "iterations")), "another record"
    return f"{done} kills of a sweep with two workers: the records of undisturbed runs"


def no_room(folder: Path) -> str:
    """A checkpoint and a record that do not fit: the old files stay, the error is one sentence."""
    path, record = folder / "checkpoint.pt", folder / "full.json"
    torch.manual_seed(0)
    settings = {"meta_batch": 2, "checkpoint": path, "progress": False}
    meta_train(MAML(mlp(1, 2, 1), inner_lr=0.01, loss_fn=mse), sinusoid(), iterations=2, **settings)
    ledger.write("full", {"profile": "record", "seed": 0}, folder)
    before = path.read_bytes(), record.read_bytes()

    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
        big = {"x": torch.zeros(10_000)}
        for attempt in (
            lambda: write_atomically(path, lambda temporary: torch.save(big, temporary)),
            lambda: ledger.write("full", {"profile": "quick", "seed": 0, "scores": ["x" * 10_000]}, folder),
        ):
            one_sentence(attempt)

    assert ended(child(write)) == 0
    assert (path.read_bytes(), record.read_bytes()) == before, "an old file changed"
    assert not list(folder.glob(".*.partial*")), "half-written files are left"
    return "checkpoint and record: the old ones stay, one sentence each"


def read_only_cache(folder: Path) -> str:
    """Images are built where they cannot be kept, and a warning says so."""
    (folder / "file").write_text("no folder")
    os.environ["XDG_CACHE_HOME"] = str(folder / "file")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            images, names = cached_images("toy", toy_images)
    finally:
        del os.environ["XDG_CACHE_HOME"]
    assert images.sum() == toy_images()[0].sum() and names == ["a", "b"] and len(caught) == 1
    return "images are built again, one warning"


def two_on_one_cache(folder: Path, times: int) -> str:
    """Two processes build one cache at once: both have the same images, and the file is whole."""
    os.environ["XDG_CACHE_HOME"] = str(folder)
    try:
        for i in range(times):

            def build(i: int = i) -> None:
                images, _ = cached_images(f"both{i}", toy_images)
                assert np.array_equal(images, toy_images()[0])

            assert [ended(pid) for pid in (child(build), child(build))] == [0, 0]
            assert np.array_equal(cached_images(f"both{i}", nothing)[0], toy_images()[0])
    finally:
        del os.environ["XDG_CACHE_HOME"]
    return f"{times} times two processes: the same images, a whole file"


def toy_images() -> tuple[np.ndarray, list[str]]:
    return np.arange(2 * 20 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(2, 20, 1, 28, 28), ["a", "b"]


def nothing() -> tuple[np.ndarray, list[str]]:
    raise AssertionError("the cache is read, not built")


def no_network(folder: Path) -> str:
    """A download from where nobody answers ends in a sentence and leaves no file."""
    from torchvision.datasets import Omniglot

    Omniglot.download_url_prefix = "http://127.0.0.1:9"
    with open(os.devnull, "w") as silent:
        stdout, sys.stdout = sys.stdout, silent
        try:
            one_sentence(lambda: download_omniglot(folder))
        finally:
            sys.stdout = stdout
    assert not [path for path in folder.rglob("*") if path.is_file()], "half a download is left"
    return "one sentence, no file left"


def damages(data: bytes) -> list[bytes]:
    """A file emptied, cut in half, beheaded, zeroed in the middle, replaced by noise, and by text."""
    middle = len(data) // 2
    zeroed = data[: middle - 40] + bytes(80) + data[middle + 40 :]
    noise = random.Random(0).randbytes(len(data))
    return [b"", data[:middle], data[20:], zeroed, noise, b"not what you think: [\n{"]


def damaged_files(folder: Path) -> str:
    """Damaged inputs of six kinds are refused in one sentence, or made again where that is possible."""
    names = ("c.pt", "w.safetensors", "all_runs.zip", "d.json", "mlcore")
    checkpoint, weights, zipped, record, cached = (folder / name for name in names)
    torch.manual_seed(0)
    learner = MAML(conv4(1, 5, filters=4), inner_lr=0.1)
    torch.save({"experiment": "", "best": None, "learner": learner.state_dict()}, checkpoint)
    save_weights(weights, learner.state_dict(), {})
    (folder / "omniglot").mkdir()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("images_background/Greek/character01/0001_01.png", b"\x89PNG" + bytes(500))
    ledger.write("d", {"profile": "record", "seed": 0, "scores": ["x"] * 100}, folder)
    count = 0

    def refused(path: Path, read: Callable[[], object]) -> None:
        nonlocal count
        whole = path.read_bytes()
        for damage in damages(whole):
            path.write_bytes(damage)
            one_sentence(read)
            count += 1
        path.write_bytes(whole)

    refused(checkpoint, lambda: load_trained(learner.net, checkpoint))
    refused(weights, lambda: load_trained(learner.net, weights))
    (folder / "omniglot" / "all_runs.zip").write_bytes(zipped.read_bytes())
    refused(folder / "omniglot" / "all_runs.zip", lambda: omniglot_challenge(root=folder))
    for name in ("images_background", "images_evaluation"):
        (folder / "omniglot" / f"{name}.zip").write_bytes(zipped.read_bytes())
    os.environ["XDG_CACHE_HOME"] = str(folder)
    refused(folder / "omniglot" / "images_background.zip", lambda: omniglot(root=folder))
    refused(record, lambda: whole_record(record))
    cached_images("toy", toy_images)
    cache = cached / "toy.npz"
    whole = cache.read_bytes()
    for damage in damages(whole):
        cache.write_bytes(damage)
        assert np.array_equal(cached_images("toy", toy_images)[0], toy_images()[0]), "wrong images out of a cache"
        count += 1
    del os.environ["XDG_CACHE_HOME"]
    return f"{count} damaged files: refused in one sentence, or made again"


def whole_record(path: Path) -> None:
    assert ledger.read_runs(path)[0]["scores"] == ["x"] * 100, "a changed record was read"


def one_sentence(attempt: Callable[[], object]) -> None:
    """The attempt fails, and says why in one line of at most 500 characters that ends like a sentence."""
    with warnings.catch_warnings(), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            attempt()
        except ONE_SENTENCE as error:
            words = str(error)
            assert "\n" not in words.strip() and 10 < len(words) < 500, words
        else:
            raise AssertionError("what is damaged was taken for whole")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer kills: a minute")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)  # a forked process has one
    random.seed(0)
    kinds: dict[str, Callable[[Path], str]] = {
        "kills while training": lambda folder: kills_in_training(6 if quick else 150, folder),
        "kills while a record is written": lambda folder: kills_in_writing(6 if quick else 50, folder),
        "kills of a sweep": lambda folder: kills_in_a_sweep(1 if quick else 12, folder),
        "no room": no_room,
        "a cache that cannot be written": read_only_cache,
        "two processes on one cache": lambda folder: two_on_one_cache(folder, 2 if quick else 20),
        "no network": no_network,
        "damaged files": damaged_files,
    }
    for kind, cause in kinds.items():
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            print(f"{kind}: {cause(Path(folder))} ({time.perf_counter() - started:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
