"""Records of runs, and their comparison with the literature. The book's tables and numbers come from here."""

import json
import math
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from mlcore.evaluation import Score
from mlcore.experiments.catalogue import RECIPES
from mlcore.experiments.provenance import machine
from mlcore.experiments.recipe import Recipe
from mlcore.experiments.run import Run
from mlcore.files import repository_data, runs_root, write_atomically

_NUMBER = r"(?:[-+\d.eE]+|-?Infinity|NaN)"
_NUMBERS = re.compile(rf"\[\s*{_NUMBER}(?:,\s*{_NUMBER})*\s*\]")  # a list of them stands on one line


@dataclass(frozen=True)
class Published:
    """A number from the literature: accuracy in per cent, or an error; ``ci95`` as printed, None where none was."""

    id: str
    value: float
    ci95: float | None
    cite: str  # key in book/references.bib
    where: str
    protocol: str
    verified: str  # text, code, secondary, or memory: how far the number was checked
    training_tasks: int | None = None  # of the published learner, where known


@dataclass(frozen=True)
class Row:
    """Ours beside published; accuracies and errors in per cent."""

    recipe: str
    setting: str
    metric: str
    higher_is_better: bool
    percent: bool
    ours: float
    ours_ci95: float
    tasks: int
    diverged: int
    published: float | None
    published_ci95: float | None
    iterations: int
    profile: str
    seed: int
    published_id: str | None
    verified: str | None  # how far the published number was checked
    share: float | None  # of the published learner's training tasks, ours; None where its number is not known

    @property
    def agrees(self) -> bool | None:
        """Whether the two intervals overlap; None where there is nothing to compare with."""
        if self.published is None:
            return None
        return abs(self.ours - self.published) <= self.ours_ci95 + (self.published_ci95 or 0.0)

    @property
    def lead(self) -> float | None:
        """Ours minus published, turned so that a positive number is better; None where there is nothing to compare."""
        if self.published is None:
            return None
        return (self.ours - self.published) * (1 if self.higher_is_better else -1)

    @property
    def verdict(self) -> Literal["agrees", "better", "short"] | None:
        """How a reader would call it: intervals that overlap agree, and so do two numbers within one point."""
        if self.lead is None:
            return None
        if self.agrees or (self.percent and abs(self.lead) <= 1.0):
            return "agrees"
        return "better" if self.lead > 0 else "short"

    @property
    def falls_short(self) -> bool:
        """Whether our interval lies wholly on the worse side of the published one."""
        if self.published is None or self.agrees:
            return False
        return (self.ours < self.published) == self.higher_is_better


@dataclass(frozen=True)
class Gap:
    """Why a recipe falls short, as ``data/gaps.yaml`` has it.

    Whether the cause was *tested* is not said here. It follows from the records: from those of ``by``, recipes without
    the cause, beside that of the recipe itself.
    """

    cause: str
    by: list[str] = field(default_factory=list)
    changes: int = 1  # how many things that recipe does otherwise
    closes: str | None = None  # what would close what is left, and at what cost
    ablation: bool = False  # wrong on purpose: shown apart, and counted nowhere
    setting: str | None = None  # the only setting that this is about; all of the recipe's without it


def results_folder() -> Path:
    """Where records are written: the clone's ``data/results``, or beside the checkpoints when there is no clone."""
    data = repository_data()
    return (data or runs_root()) / "results"


def published() -> dict[str, Published]:
    """The literature's numbers by id; empty when the package was installed without a clone."""
    data = repository_data()
    if data is None:
        return {}
    entries = _yaml(data / "published.yaml")
    return {entry["id"]: Published(**entry) for entry in entries}


def gaps() -> dict[str, Gap]:
    """Why recipes fall short of their published numbers, by name; empty without a clone."""
    data = repository_data()
    return {} if data is None else {name: Gap(**values) for name, values in _yaml(data / "gaps.yaml").items()}


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({str(error).splitlines()[0]}); restore it from git.") from error


def record(recipe: Recipe, run: Run, *, profile: str, seed: int, folder: Path | None = None) -> Path:
    """Write a run to ``<folder>/<recipe>.json``, in place of an earlier one of the same profile and seed."""
    return write(recipe.name, entry(recipe, run, profile=profile, seed=seed), folder)


def entry(recipe: Recipe, run: Run, *, profile: str, seed: int) -> dict[str, Any]:
    """What the ledger says about a run, and about the machine that calls this."""
    values = {
        "profile": profile,
        "seed": seed,
        "recipe_hash": recipe.hash(profile),
        "iterations": len(run.history.loss),
        "minutes": round(run.history.minutes, 1),
        "peak_mib": run.peak_bytes and round(run.peak_bytes / 2**20, 1),
        **machine(run.learner),
        "scores": [
            {"setting": row.setting, **_score(run.scores[row.setting]), "batch_norm": row.batch_norm}
            for row in recipe.evaluations
        ],
        "validation": {
            "iteration": run.history.val_iteration,
            "mean": run.history.val_mean,
            "ci95": run.history.val_ci95,
            "best_iteration": run.history.best_iteration,
        },
    }
    return values | run.train.summary()


def _score(score: Score) -> dict[str, Any]:
    metric = score.metrics[score.metric]
    values = {
        "metric": score.metric,
        "higher_is_better": metric.higher_is_better,
        "percent": metric.percent,
        "mean": score.mean,
        "ci95": score.ci95,
        "tasks": len(score.per_task),
        "diverged": score.diverged,
        # Of every test task, for paired comparisons: the tasks are the same for all learners with these sizes.
        "per_task": [round(value, 5) for value in score.of_task.tolist()],
    }
    others = {name: {"mean": score[name].mean, "ci95": score[name].ci95} for name in list(score.metrics)[1:]}
    return values | ({"also": others} if others else {})


def write(name: str, entry: dict[str, Any], folder: Path | None = None) -> Path:
    """Put an entry into ``<folder>/<name>.json``, in place of an earlier one of the same profile and seed."""
    path = (folder or results_folder()) / f"{name}.json"
    mine = (entry["profile"], entry["seed"])
    others = [old for old in read_runs(path) if (old["profile"], old["seed"]) != mine]
    runs = sorted([*others, entry], key=lambda run: (run["profile"], run["seed"]))
    text = json.dumps({"recipe": name, "runs": runs}, indent=1) + "\n"
    text = _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return path


def read_runs(path: Path) -> list[dict[str, Any]]:
    """The runs recorded in one file; none when there is no file.

    Raises:
        ValueError: a file that is not a record.
    """
    if not path.exists():
        return []
    try:
        return json.loads(path.read_text(encoding="utf-8"))["runs"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a record that can be read ({error}); restore it, or delete it.") from error


def recorded(name: str, *, profile: str = "record", seed: int = 0) -> dict[str, Any]:
    """One recorded run, for a table or a sentence of the book."""
    path = results_folder() / f"{name}.json"
    for run in read_runs(path):
        if (run["profile"], run["seed"]) == (profile, seed):
            return run
    raise LookupError(f"no record of {name} ({profile}, seed {seed}); make one: mlcore run {name} --profile {profile}.")


def rows(folder: Path | None = None) -> list[Row]:
    """Every recorded score beside its published number, in the order of the recipes."""
    literature = published()
    table = []
    for recipe in RECIPES.values():
        by_setting = {evaluation.setting: evaluation.published for evaluation in recipe.evaluations}
        for run in read_runs((folder or results_folder()) / f"{recipe.name}.json"):
            for score in run["scores"]:
                scale = 100.0 if score["percent"] else 1.0
                theirs = literature.get(by_setting.get(score["setting"]) or "")
                length = theirs.training_tasks if theirs else None
                table.append(
                    Row(
                        recipe=recipe.name,
                        setting=score["setting"],
                        metric=score["metric"],
                        higher_is_better=score["higher_is_better"],
                        percent=score["percent"],
                        ours=scale * score["mean"],
                        ours_ci95=scale * score["ci95"],
                        tasks=score["tasks"],
                        diverged=score["diverged"],
                        published=theirs.value if theirs else None,
                        published_ci95=theirs.ci95 if theirs else None,
                        iterations=run["iterations"],
                        profile=run["profile"],
                        seed=run["seed"],
                        published_id=theirs.id if theirs else None,
                        verified=theirs.verified if theirs else None,
                        share=run["iterations"] * recipe.training["meta_batch"] / length if length else None,
                    )
                )
    return table


def as_json(table: list[Row]) -> str:
    """The rows as a JSON list of objects; a mean that diverged is null."""
    objects = [asdict(row) for row in table]
    for entry in objects:
        entry.update({k: None for k, v in entry.items() if isinstance(v, float) and not math.isfinite(v)})
    return json.dumps(objects, indent=1)


def as_markdown(table: list[Row]) -> str:
    """The rows as a Markdown table; a terminal reads it as well as a page does.

    Of profile and seed it speaks where they are not the usual ones, ``record`` and 0.
    """
    shown = [n for n, usual in (("profile", "record"), ("seed", 0)) if {getattr(row, n) for row in table} - {usual}]
    length = "iterations (of the published length)" if any(row.share for row in table) else "iterations"
    head = ["recipe", "setting", "ours", "published", "tasks", length, *shown]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in table:
        tasks = f"{row.tasks}, {row.diverged} diverged" if row.diverged else row.tasks
        extra = [getattr(row, name) for name in shown]
        length = (f"{row.iterations:,}" if row.iterations else "none") + f" ({share(row)})" * bool(row.share)
        cells = (row.recipe, row.setting, ours(row), theirs(row), tasks, length, *extra)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def ours(row: Row) -> str:
    """Our number with its interval, as tables print it."""
    return with_interval(row.ours, row.ours_ci95, row.percent)


def theirs(row: Row) -> str:
    """The published number, as tables print it, and a word where we could not check it."""
    if row.published is None:
        return "-"
    return with_interval(row.published, row.published_ci95, row.percent) + " (unverified)" * (row.verified == "memory")


def share(row: Row) -> str:
    """Of the training tasks behind the published number, how many ours saw; a dash where their number is not known."""
    return "-" if row.share is None else f"{100 * row.share:.{0 if row.share >= 0.1 else 1}f} %"


def with_interval(value: float, ci95: float | None, percent: bool) -> str:
    """A number and its interval, rounded as the book rounds."""
    if not math.isfinite(value):
        return "diverged"
    digits, unit = (1, " %") if percent else (2, "")
    interval = "" if ci95 is None else f" ± {ci95:.{digits}f}"
    return f"{value:.{digits}f}{interval}{unit}"
