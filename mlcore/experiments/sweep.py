"""A sweep: recipes × seeds on a Dask cluster, each run a job of its own on one worker.

A worker is a process of one thread that has the same ``mlcore`` and finds the same data. A job always goes on from its
checkpoint in the worker's ``$MLCORE_RUNS``. If the worker dies, Dask gives the job to another one, which loses only the
iterations since the last checkpoint where that folder is shared, as on one machine it is. Dask gives a job up when
more workers than ``distributed.scheduler.allowed-failures``, 3 by default, have died with it; an error of the job's
own ends it at once. What the sweep has finished is recorded, so the same command goes on after anything.
"""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlcore.experiments import ledger
from mlcore.experiments.catalogue import RECIPES, get_recipe
from mlcore.experiments.run import choose_device, run_recipe

Trained = tuple[dict[str, Any], str]  # what a job gives: its entry for the ledger; its first setting, with the score

if TYPE_CHECKING:  # an extra, and slow to import
    from distributed import Client


class Job(NamedTuple):
    """One run of one recipe."""

    name: str
    profile: str
    seed: int

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"

    @property
    def first(self) -> "Job | None":
        """The run whose network this one begins with, if it does."""
        start = RECIPES[self.name].start_from
        return Job(start, self.profile, 0) if start else None

    def is_recorded(self, folder: Path | None = None) -> bool:
        """Whether the results folder has this run, of the recipe as it is now."""
        runs = ledger.read_runs((folder or ledger.results_folder()) / f"{self.name}.json")
        mine = (RECIPES[self.name].hash(self.profile), self.profile, self.seed)
        return mine in [(run["recipe_hash"], run["profile"], run["seed"]) for run in runs]


def matching(patterns: Iterable[str]) -> list[str]:
    """Names of recipes that fit any of some names or shell patterns, such as ``maml-*``, in the order of the recipes.

    Raises:
        ValueError: a pattern that no recipe fits.
    """
    chosen = set()
    for pattern in patterns:
        chosen.update([name for name in RECIPES if fnmatchcase(name, pattern)] or [get_recipe(pattern).name])
    return [name for name in RECIPES if name in chosen]


@contextmanager
def connect(scheduler: str | None = None, workers: int | None = None) -> "Iterator[Client]":
    """A client of the scheduler at an address; without one, of a local cluster that lives as long as the block.

    Args:
        scheduler: such as ``tcp://node1:8786``.
        workers: size of the local cluster; by default one for each core.

    Raises:
        LookupError: Dask is not installed.
        OSError: no scheduler answers at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise LookupError("a sweep needs Dask; install it: pip install 'mlcore[cluster]'.") from error
    if scheduler is not None:
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # run_jobs says when the scheduler is gone
        try:
            client = Client(scheduler, timeout="20s")
        except (OSError, ValueError) as error:
            raise OSError(
                f"no Dask scheduler answers at {scheduler!r}; start one with `dask scheduler`, which shows its "
                "address, or leave --scheduler out for a cluster on this machine."
            ) from error
        with client:
            yield client
        return
    cluster = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,  # pyright: ignore[reportArgumentType]  # which is how one asks for none
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # the port of what pages are left: any that is free
        memory_limit=None,  # by default Dask kills a worker that needs more than its share
        silence_logs=logging.ERROR,
        # These workers import torch in their main thread. Its profiler complains if it is first used in another one.
        preload="from torch.autograd.profiler import profile\nwith profile(): pass",
    )
    with cluster, Client(cluster) as client:
        yield client


def run_jobs(
    client: "Client", jobs: Iterable[Job], device: str | None = None
) -> Iterator[tuple[Job, Trained | Exception]]:
    """Run jobs on the client's workers; gives each with what came of it, or its error, as soon as it ends.

    A job that starts from another one's network waits for that one, if it comes earlier among the jobs. ``device`` is
    the same for all; by default each job has the fastest one of its worker.

    Raises:
        OSError: the scheduler is gone.
    """
    from distributed import as_completed

    # A function within a function is sent whole, not as a name to import: a worker without mlcore then fails the job,
    # instead of dying of a message that it cannot read.
    def train(*arguments: Any, after: Any) -> Any:
        from mlcore.experiments.sweep import run_here

        return run_here(*arguments)

    futures = {}
    for job in jobs:
        recipe_hash = RECIPES[job.name].hash(job.profile)
        futures[job] = client.submit(train, *job, recipe_hash, device, after=futures.get(job.first))
    by_key = {future.key: job for job, future in futures.items()}
    for future in as_completed(futures.values()):
        try:
            outcome = future.result()
        except CancelledError as error:
            raise OSError("the Dask scheduler is gone; give the same command to go on.") from error
        except Exception as error:  # whatever it is, it is this job's, and the others go on
            outcome = error
        yield by_key[future.key], outcome
        future.release()  # else Dask would run the job again if the worker that holds its result died


def reason(error: Exception) -> str:
    """A job's error in one sentence."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        return f"{error.allowed_failures + 1} workers died while they had it; their logs, or their memory, may say why."
    if isinstance(error, ImportError):
        return f"{error} on the worker; install the same mlcore there."
    if isinstance(error, (ValueError, LookupError, OSError, FloatingPointError)):
        return str(error)
    first = (str(error).splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first}; `mlcore run` with --resume shows where."


def run_here(name: str, profile: str, seed: int, recipe_hash: str, device: str | None) -> Trained:
    """Run a job on this worker.

    Raises:
        ValueError: the worker has more than one thread, or another recipe of that name, or none.
    """
    from distributed import get_worker

    worker = get_worker()
    if worker.state.nthreads > 1:  # training sets the random seed of its whole process
        raise ValueError(
            f"the worker {worker.address} has {worker.state.nthreads} threads, and two runs in one process would mix "
            "their random numbers; start it with --nthreads 1."
        )
    recipe = RECIPES.get(name)
    if recipe is None or recipe.hash(profile) != recipe_hash:
        raise ValueError(
            f"the worker {worker.address} has another mlcore, with another {name} or none; install this one there."
        )
    run = run_recipe(recipe, profile=profile, seed=seed, device=choose_device(device), resume=True, progress=False)
    setting, score = next(iter(run.scores.items()))
    return ledger.entry(recipe, run, profile=profile, seed=seed), f"{setting} {score}"
