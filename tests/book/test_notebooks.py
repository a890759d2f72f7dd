"""The committed notebooks, as files: run top to bottom, small cells, tagged, with solutions that were executed."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import nbformat
import pytest
from execute import code_of

ROOT = Path(__file__).parents[2]

NOTEBOOKS = sorted(path for path in (ROOT / "book").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)

CHAPTERS = [path for path in NOTEBOOKS if path.parent.name != "reference"]  # the others are tables made from records


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell):
    return cell.metadata.get("tags", [])


def test_the_first_code_cell_holds_the_parameters(notebook):
    first = code_cells(notebook)[0]
    assert "parameters" in tags(first)
    names = set(re.findall(r"^(\w+) = ", first.source, re.MULTILINE))
    assert names == {"dataset", "profile", "seed"}


def test_it_was_run_from_top_to_bottom_without_an_error(notebook):
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_its_outputs_are_of_its_code(request, notebook):
    path = request.node.callspec.params["notebook"].relative_to(ROOT)
    assert notebook.metadata.get("ran") == code_of(notebook), f"run it again: python book/execute.py {path} {path}"


def test_printed_text_is_one_block(notebook):
    for cell in code_cells(notebook):
        kinds = [output.output_type for output in cell.outputs]
        assert ("stream", "stream") not in pairwise(kinds), cell.source.splitlines()[0]


def test_cells_are_short(notebook):
    for cell in code_cells(notebook):
        assert len(cell.source.splitlines()) <= 20, cell.source.splitlines()[0]


# Chapters are held to the width of the page, as the ruff.toml of their folder says.
WIDTHS = [
    (path, settings["line-length"])
    for file in sorted((ROOT / "book").glob("*/ruff.toml"))
    for settings in [tomllib.loads(file.read_text(encoding="utf-8"))]
    for path in sorted(file.parent.glob("*.ipynb"))
]


@pytest.mark.parametrize(("path", "width"), WIDTHS, ids=[path.stem for path, _ in WIDTHS])
def test_code_fits_the_page(path, width):
    for cell in code_cells(nbformat.read(path, as_version=4)):
        assert max(map(len, cell.source.splitlines())) <= width, cell.source.splitlines()[0]


@pytest.mark.parametrize("notebook", CHAPTERS, indirect=True, ids=lambda path: path.stem)
def test_nbval_has_something_to_compare(notebook):
    checked = [cell for cell in code_cells(notebook) if "nbval-check-output" in tags(cell)]
    assert len(checked) >= 2
    assert all(any(o.get("text") or "text/plain" in o.get("data", {}) for o in cell.outputs) for cell in checked)


def said(cell):
    """What a cell printed and, as text, gave; of pictures nothing."""
    results = [output.get("data", {}) for output in cell.outputs]
    texts = [result["text/plain"] for result in results if "image/png" not in result and "text/plain" in result]
    return [output.text for output in cell.outputs if output.output_type == "stream"], texts


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_executed_chapter_says_what_the_committed_one_does(run, path):
    """Where its text cannot differ between processors; as nbval compares, but of the run that the pages are made of."""
    both = (code_cells(nbformat.read(each, as_version=4)) for each in (path, run / path.relative_to(ROOT)))
    for committed, ours in zip(*both, strict=True):
        if "nbval-check-output" in tags(committed):
            assert said(ours) == said(committed), committed.source.splitlines()[0]


def test_figures_have_a_caption_and_a_description(notebook):
    for cell in code_cells(notebook):
        if not any("image/png" in output.get("data", {}) for output in cell.outputs):
            continue
        described = cell.metadata.get("mystnb", {})
        assert described.get("image", {}).get("alt"), f"no alt text: {cell.source.splitlines()[0]}"


def test_a_figure_is_its_cells_only_result(notebook):
    for cell in code_cells(notebook):
        if "figure" in cell.metadata.get("mystnb", {}):
            results = [output for output in cell.outputs if output.output_type in ("display_data", "execute_result")]
            assert len(results) == 1, f"two results have one name; end the cell with `;`: {cell.source.splitlines()[0]}"


@pytest.mark.parametrize("notebook", CHAPTERS, indirect=True, ids=lambda path: path.stem)
def test_exercises_have_solutions_that_ran(notebook):
    text = "\n".join(cell.source if cell.cell_type == "markdown" else "CODE" for cell in notebook.cells)
    exercises = re.findall(r"\{exercise-start\}[^\n]*\n:label: (\S+)", text)
    assert 3 <= len(exercises) <= 6
    for label in exercises:
        solution = re.search(rf"\{{solution-start\}} {label}\n(.*?)\{{solution-end\}}", text, re.DOTALL)
        assert solution, f"{label} has no solution"
        assert "CODE" in solution[1], f"the solution of {label} runs nothing"
