"""Run one notebook from top to bottom and write it, with its outputs, where it is wanted.

    python book/execute.py book/foundations/learning_to_learn.ipynb _build/somewhere.ipynb --dataset omniglot

`make book` runs the chapters into `_build`; `make notebooks` runs them in place. What changes from run to run and
tells a reader nothing (timings, progress bars and warnings on stderr, paths of this machine) is left out, so that a
second run of the same notebook gives a small difference.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Fixed, so that a reader's minor version of Python does not show up as a change of every notebook.
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}


def without_paths(text: str) -> str:
    """The same text, the paths of this machine made relative to the repository or to the home folder."""
    return text.replace(f"{ROOT}{os.sep}", "").replace(str(ROOT), ".").replace(str(Path.home()), "~")


def clean(notebook) -> None:
    """Drop, in place, what should be neither committed nor rendered."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.update(kernelspec=dict(KERNEL), language_info=dict(LANGUAGE))
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):  # papermill gives every cell an empty list
            del cell.metadata["tags"]
        if cell.cell_type != "code":
            continue
        kept = [output for output in cell.outputs if output.get("name") != "stderr"]
        cell.outputs = []
        for output in kept:
            if output.output_type == "stream" and cell.outputs and cell.outputs[-1].output_type == "stream":
                cell.outputs[-1].text += output.text  # what was printed in several goes is one block on the page
            else:
                cell.outputs.append(output)
        for output in cell.outputs:
            if "text" in output:
                output.text = without_paths(output.text)
            for kind, value in output.get("data", {}).items():
                if kind.startswith("text/") and isinstance(value, str):
                    output.data[kind] = without_paths(value)


def code_of(notebook) -> str:
    """A fingerprint of the code; a notebook keeps that of the code that ran, so that older outputs are noticed."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def that_matter(notebook, parameters: dict) -> dict:
    """The parameters that some cell besides their own reads; the others change nothing."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in code if "parameters" not in cell.metadata.get("tags", []))
    return {name: value for name, value in parameters.items() if re.search(rf"\b{name}\b", text)}


def fingerprint(notebook, parameters: dict) -> str:
    """Changes with whatever may change a notebook's outputs: its cells, parameters, the package, records and data."""
    digest = hashlib.sha256(json.dumps([parameters, os.environ.get("MLCORE_DATA"), sys.version]).encode())
    digest.update(json.dumps([[cell.cell_type, cell.source] for cell in notebook.cells]).encode())
    files = [*ROOT.glob("mlcore/**/*.py"), *ROOT.glob("data/*.yaml"), *ROOT.glob("data/*/*.json")]
    for path in sorted([*files, ROOT / "requirements.lock"]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:24]


def execute(source: Path, target: Path, parameters: dict) -> None:
    """Run ``source`` in its own folder and write ``target`` whole, or not at all.

    Into ``_build``, a notebook that ran before with all that matters the same is copied.
    """
    import nbformat
    import papermill

    notebook = nbformat.read(source, as_version=4)
    if not any("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells):
        sys.exit(f"{source}: no cell is tagged `parameters`, so there is nowhere to put the dataset, profile and seed.")
    parameters = that_matter(notebook, parameters)
    started = time.perf_counter()
    before = ROOT / "_build" / "run" / "seen" / f"{fingerprint(notebook, parameters)}.ipynb"
    if source.resolve() != target.resolve() and before.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(before, target)
        print(f"   same  {source}", flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            notebook = papermill.execute_notebook(
                source.resolve(),
                Path(scratch) / "notebook.ipynb",
                parameters=parameters,
                cwd=source.resolve().parent,
                kernel_name="python3",
                language="python",
                progress_bar=False,
                # A kernel that is shut down reports the interruption as an error of its own; those of cells are raised.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
        except papermill.PapermillExecutionError as error:
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
            sys.exit(f"{source}: cell {error.exec_count} failed.\n\n{error.source}\n\n{trace}")
    clean(notebook)
    notebook.metadata["ran"] = code_of(notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f".{target.name}.{os.getpid()}")
    nbformat.write(notebook, half)
    half.replace(target)
    if source.resolve() != target.resolve():
        before.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, before)
    chosen = ", ".join(f"{name}={value}" for name, value in parameters.items())
    print(f"{time.perf_counter() - started:5.0f} s  {source}{f' ({chosen})' if chosen else ''}", flush=True)


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """Options for the parameters that every notebook has."""
    parser.add_argument("--dataset", help="glyphs, omniglot, …; default: as the notebook has it, like the next two")
    parser.add_argument("--profile", help="quick or record")
    parser.add_argument("--seed", type=int)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the notebook to run")
    parser.add_argument("target", type=Path, help="where to write it, with outputs; may be the same file")
    add_parameters(parser)
    arguments = vars(parser.parse_args())
    source, target = arguments.pop("source"), arguments.pop("target")
    if not source.is_file():
        sys.exit(f"{source}: there is no such notebook.")
    # A kernel of the same name in the user's folder must not run in place of this environment's.
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the profiler warns of memory older than itself
    execute(source, target, {name: value for name, value in arguments.items() if value is not None})


if __name__ == "__main__":
    main()
