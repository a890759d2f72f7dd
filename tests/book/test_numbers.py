"""A number that is typed stands in its own record: the one that the cell names in its metadata, ``numbers``."""

import json
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from mlcore.experiments import ledger
from mlcore.experiments.catalogue import RECIPES

ROOT = Path(__file__).parents[2]
# A number with a decimal point before ± or a unit of accuracy, or after ±.
STATED = re.compile(r"(?<![\w.,])(\d+\.\d+)(?=\s*(?:±|%|\\%|per cent|points))|(?<=± )(\d+\.\d+)")


def literature() -> dict[str, list[float]]:
    entries = yaml.safe_load((ROOT / "data" / "published.yaml").read_text(encoding="utf-8"))
    return {entry["id"]: [value for value in (entry["value"], entry["ci95"]) if value is not None] for entry in entries}


def records() -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for file in (ROOT / "data" / "results").glob("*.json"):
        for run in json.loads(file.read_text(encoding="utf-8"))["runs"]:
            for score in run["scores"]:
                scale = 100 if score["percent"] else 1
                found.setdefault(file.stem, []).extend((scale * score["mean"], scale * score["ci95"]))
    return found


KNOWN = literature() | records()


def known(source: str) -> set[str]:
    """The numbers of a published entry or a recipe's record; ``imagined 1.2`` is one that nobody saw."""
    if source.startswith("imagined "):
        return set(source.split()[1:])
    return {f"{value:.{digits}f}" for value in KNOWN[source] for digits in (1, 2)}


@pytest.mark.parametrize("path", sorted((ROOT / "book").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_typed_numbers_stand_in_the_record_that_their_cell_names(path):
    for cell in nbformat.read(path, as_version=4).cells:
        stated = [found[1] or found[2] for found in STATED.finditer(cell.source)]
        sources = cell.metadata.get("numbers", [])
        here = set().union(*map(known, sources))
        missing = [number for number in stated if number not in here]
        assert not missing, (
            f"cell {cell.id} states {missing}, and {sources or 'nothing'} holds no such number; name the entry of "
            "published.yaml or the recipe in the cell's metadata, as numbers: [finn2017maml/omniglot-5w1s]"
        )
        assert stated or not sources, f"cell {cell.id} names {sources} and states no number"


def test_a_number_of_another_record_would_be_noticed():
    (ours, *_), (theirs, *_) = KNOWN["protonet-omniglot-1s"], KNOWN["finn2017maml/omniglot-5w1s"]
    assert f"{ours:.1f}" in known("protonet-omniglot-1s") and f"{theirs:.1f}" not in known("protonet-omniglot-1s")
    assert [
        found[1] or found[2] for found in STATED.finditer("It has 98.7 ± 0.4 % and 20.1 points, after 5.0 hours")
    ] == [
        "98.7",
        "0.4",
        "20.1",
    ]


RESULTS = ROOT / "data" / "results"
SHOWN = re.compile(r"(?<![\w.+-])(\d+\.\d+) ± (\d+\.\d+)")


def shown(recipe: str) -> set[tuple[str, str]]:
    """Mean and interval of every score of a recipe, and the published ones beside it, as tables print them."""
    numbers = [KNOWN[recipe]] + [KNOWN[row.published] for row in RECIPES[recipe].evaluations if row.published in KNOWN]
    pairs = [pair for values in numbers for pair in zip(values[::2], values[1::2], strict=False)]
    return {(f"{mean:.{digits}f}", f"{half:.{digits}f}") for mean, half in pairs for digits in (1, 2, 3)}


@pytest.mark.parametrize("path", sorted((ROOT / "book").rglob("*.ipynb")), ids=lambda path: path.stem)
def test_tables_of_records_show_what_the_records_hold(path):
    """A record that is made anew makes the pages that print it stale, until they are run again."""
    stale = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            for line in output.get("data", {}).get("text/markdown", "").splitlines():
                first, *cells = [part.strip(" `") for part in line.strip("|").split("|")]
                # Of several seeds a table may show the mean.
                if line.startswith("|") and first in RECIPES and len(ledger.read_runs(RESULTS / f"{first}.json")) == 1:
                    known_here = shown(first)
                    stale += [
                        (first, *pair) for part in cells for pair in SHOWN.findall(part) if pair not in known_here
                    ]
    assert not stale, f"{stale} are not in the records; run the page again: book/execute.py {path.name}"
