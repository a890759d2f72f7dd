"""The ``mlcore`` command: list, run, sweep and report experiments, and find data."""

import os
import platform
from contextlib import contextmanager
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import torch.distributed as dist
import typer
from tqdm import tqdm

from mlcore import datasets
from mlcore.experiments import ledger, weights
from mlcore.experiments.catalogue import RECIPES, get_recipe
from mlcore.experiments.report import summary
from mlcore.experiments.run import choose_device, run_recipe, score_rows, weights_path
from mlcore.experiments.sweep import Job, connect, matching, reason, run_jobs
from mlcore.files import data_root

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Meta-learning you can read: run the book's experiments and see ours beside the published numbers.

    A first tour: `mlcore list`, then `mlcore run maml-sinusoid`, then `mlcore report`.""",
)


class Profile(StrEnum):
    """How much work a run does."""

    quick = "quick"
    record = "record"


Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps; by default the fastest there is where the run is.")]
Results = Annotated[
    Path | None,
    typer.Option(help="Folder for the records; the clone's data/results by default.", show_default=False),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mlcore {version('mlcore')}, torch {version('torch')}, Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def main(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Say which versions run, and exit."),
    ] = False,
) -> None:
    """What all commands share."""


@contextmanager
def _one_sentence_errors():
    """Mistakes of the caller end in one sentence on stderr and exit status 1; anything else keeps its traceback."""
    try:
        yield
    except (ValueError, LookupError, OSError, FloatingPointError) as error:
        typer.echo(f"mlcore: {error}", err=True)
        raise typer.Exit(1) from error


@app.command("list")
def list_recipes(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="Names alone that fit, as 'maml-*'.")] = "*",
) -> None:
    """List the experiments: name, data, iterations of each profile, the paper, and whether trained weights are here."""
    with _one_sentence_errors():
        names = matching([pattern])
    width = max(map(len, names))
    for recipe in map(RECIPES.__getitem__, names):
        sizes = ", ".join(f"{name} {profile.iterations:,}" for name, profile in recipe.profiles.items())
        here = "; weights here" * weights_path(recipe.name).exists()
        typer.echo(f"{recipe.name:{width}} {recipe.title}")
        typer.echo(f"{'':{width}} data {recipe.dataset}; iterations {sizes}; {recipe.paper}{here}")


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A name from `mlcore list`.")],
    profile: Annotated[
        Profile, typer.Option(help="quick: about a minute, shows the method; record: what the book rests on.")
    ] = (Profile.quick),
    seed: Annotated[int, typer.Option(help="Names initial weights and training tasks; test tasks stay the same.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint of an interrupted run.")] = False,
    device: Device = None,
    results: Results = None,
) -> None:
    """Train and evaluate an experiment, print its scores and write its record.

    With profile record and seed 0 the trained weights are written too, with a model card: into the clone's
    data/weights, or beside the records of --results.

    Killed at any moment, it goes on with --resume and ends with the same bits. Checkpoints are kept in $MLCORE_RUNS,
    else in the user's cache folder. On several processes: `torchrun --nproc-per-node 2 -m mlcore run RECIPE`.
    """
    with _one_sentence_errors(), _process_group() as rank:
        chosen = get_recipe(recipe)
        finished = run_recipe(
            chosen, profile=profile, seed=seed, device=choose_device(device), resume=resume, progress=True
        )
        if rank > 0:
            return
        for setting, score in finished.scores.items():
            typer.echo(f"{setting:24} {score}")
        entry = ledger.entry(chosen, finished, profile=profile, seed=seed)
        path = ledger.write(recipe, entry, results)
        if profile == "record" and seed == 0 and finished.history.loss:
            weights.save(chosen, finished, entry, results)
        typer.echo(
            f"{len(finished.history.loss):,} iterations in {finished.history.minutes:.1f} minutes; recorded in {path}"
        )


@app.command()
def score(
    recipe: Annotated[str, typer.Argument(help="A name from `mlcore list` whose weights are here.")],
    device: Device = None,
) -> None:
    """Score the trained weights that ship, without training, and say whether the record holds here.

    Test tasks are those of the record, so on another machine a score moves by some hundredths of a point.
    """
    with _one_sentence_errors():
        chosen = get_recipe(recipe)
        learner = weights.load(recipe).to(choose_device(device))
        recorded = {row["setting"]: row for row in ledger.recorded(recipe)["scores"]}
        holds = True
        for setting, now in score_rows(chosen, learner, chosen.splits()[2], Profile.record).items():
            before = recorded[setting]
            same = abs(now.mean - before["mean"]) <= before["ci95"]
            holds = holds and same
            verdict = "the record holds" if same else f"the record says {before['mean']:.4f} ± {before['ci95']:.4f}"
            typer.echo(f"{setting:24} {now}; {verdict}")
    if not holds:
        raise typer.Exit(1)


@app.command()
def sweep(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Names from `mlcore list`, or 'maml-*'.")],
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to N-1 of every recipe.", metavar="N")] = 1,
    profile: Annotated[Profile, typer.Option(help="As for `mlcore run`.")] = Profile.quick,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, as tcp://node1:8786; a local cluster by default.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes of the local cluster; one a core by default.")
    ] = None,
    device: Device = None,
    results: Results = None,
) -> None:
    """Run recipes × seeds side by side on a Dask cluster, and write each record as soon as its run ends.

    Runs that are recorded already are skipped, and an interrupted one goes on from its checkpoint in the worker's
    $MLCORE_RUNS: the same command goes on after Ctrl-C or a crash. Start workers of a scheduler of your own with
    `dask worker ADDRESS --nthreads 1`.
    """
    failures: dict[Job, Exception] = {}
    with _one_sentence_errors():
        if scheduler is not None and workers is not None:
            raise ValueError(
                f"--workers {workers} is the size of a local cluster; leave it out, and start workers with "
                f"`dask worker {scheduler} --nthreads 1`."
            )
        asked = [Job(name, profile.value, seed) for name in matching(recipes) for seed in range(seeds)]
        jobs = [job for job in asked if not job.is_recorded(results)]
        for job in asked:
            if job not in jobs:
                typer.echo(f"{job}: recorded already")
        if not jobs:
            return
        typer.echo(f"{len(jobs)} run{'s' * (len(jobs) > 1)}; {'connecting' if scheduler else 'starting workers'}")
        with connect(scheduler, workers) as client:
            if not client.nthreads():
                typer.echo(f"no workers yet; waiting for `dask worker {scheduler} --nthreads 1`")
            with tqdm(total=len(jobs), desc="sweep") as bar:
                for job, outcome in run_jobs(client, jobs, device):
                    if isinstance(outcome, Exception):
                        failures[job] = outcome
                        bar.set_postfix(failed=len(failures))
                    else:
                        entry, score = outcome
                        ledger.write(job.name, entry, results)
                        bar.write(f"{job}: {score}, {entry['minutes']} minutes")
                    bar.update()
        for job, error in failures.items():
            why = f"starts from {job.first}, which failed." if job.first in failures else reason(error)
            typer.echo(f"mlcore: {job}: {why}", err=True)
    if failures:
        raise typer.Exit(1)


@app.command()
def report(
    json: Annotated[bool, typer.Option("--json", help="A list of objects instead of tables.")] = False,
    results: Annotated[Path | None, typer.Option(help="Folder of records to read.", show_default=False)] = None,
) -> None:
    """Say how many published numbers our records meet, and print ours beside theirs, the largest gaps first.

    Accuracies, and the challenge's errors, in per cent with 95 % intervals over test tasks; sinusoid rows are mean
    squared errors. Published numbers that nobody could check, and recipes that are wrong on purpose, stand apart.
    """
    with _one_sentence_errors():
        table = ledger.rows(results)
        if json:
            typer.echo(ledger.as_json(table))
        elif table:
            typer.echo(summary(table))
        else:
            typer.echo(f"No records in {results or ledger.results_folder()}; `mlcore run RECIPE` writes them there.")


@app.command()
def data(
    download: Annotated[
        str | None, typer.Option(help="Fetch a data set into the data root, checksummed: omniglot.")
    ] = None,
) -> None:
    """Say which data sets are found where, and how to get the rest."""
    with _one_sentence_errors():
        if download == "omniglot":
            datasets.download_omniglot(data_root())
        elif download is not None:
            raise ValueError(
                f"{download!r} cannot be downloaded, only omniglot; `mlcore data` says how to get the rest."
            )
        missing = "" if data_root().is_dir() else ", which does not exist"
        typer.echo(f"data root: {data_root()}{missing} (set $MLCORE_DATA to use another)")
        found = datasets.describe()
        width = max(len(entry.name) for entry in found)
        for entry in found:
            origin = f", from {entry.source}" if entry.source else ""
            typer.echo(f"{entry.name:{width}} {entry.about}{origin} ({entry.licence})")
            typer.echo(f"{'':{width}} {entry.found or 'not found; ' + entry.how_to_get}")


@contextmanager
def _process_group():
    """Under torchrun, join its process group for the length of the block; gives this process's rank."""
    if "WORLD_SIZE" not in os.environ:
        yield 0
        return
    dist.init_process_group("gloo")
    try:
        yield dist.get_rank()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    app()
