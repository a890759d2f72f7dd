"""Numbers in the prose stand somewhere: in the literature's list, or in a record."""

import json
import re
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).parents[2]
# A number with a decimal point before ± or a unit of accuracy, or after ±.
STATED = re.compile(r"(?<![\w.,])(\d+\.\d+)(?=\s*(?:±|%|\\%|per cent|points))|(?<=± )(\d+\.\d+)")
IMAGINED = {"100.0", "0.0"}  # a perfect score that an exercise supposes


def known_numbers() -> set[str]:
    entries = yaml.safe_load((ROOT / "data" / "published.yaml").read_text(encoding="utf-8"))
    values = [value for entry in entries for value in (entry["value"], entry["ci95"]) if value is not None]
    for file in (ROOT / "data" / "results").glob("*.json"):
        for run in json.loads(file.read_text(encoding="utf-8"))["runs"]:
            for score in run["scores"]:
                scale = 100 if score["percent"] else 1
                values += [scale * score["mean"], scale * score["ci95"]]
    return {f"{value:.{digits}f}" for value in values for digits in (1, 2)} | IMAGINED


def test_typed_numbers_are_published_or_recorded():
    known, seen = known_numbers(), 0
    for path in (ROOT / "book").rglob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            for match in STATED.finditer(cell.source) if cell.cell_type == "markdown" else ():
                number = match[1] or match[2]
                seen += 1
                assert number in known, f"{path.name} states {number}: …{cell.source[match.start() - 60 : match.end()]}"
    assert seen > 0
