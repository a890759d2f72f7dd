"""Copies of notebooks with parameters in place, not run, for nbval to run. Prints what to run.

    python book/given.py _build/given/omniglot book/foundations/*.ipynb --dataset omniglot

A notebook that none of the parameters matters to stays where it is. The copies keep nothing to compare, since their
outputs are of other data; tests/book/test_notebooks.py compares the executed book.
"""

import argparse
from pathlib import Path

import nbformat
from execute import add_parameters, that_matter
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write them, each under its own path")
    parser.add_argument("notebooks", type=Path, nargs="+")
    add_parameters(parser)
    given = vars(parser.parse_args())
    folder, notebooks = given.pop("folder"), given.pop("notebooks")
    for path in notebooks:
        notebook = load_notebook_node(str(path))
        parameters = that_matter(notebook, {name: value for name, value in given.items() if value is not None})
        if parameters:
            notebook = parameterize_notebook(notebook, parameters)
            for cell in notebook.cells:
                cell.metadata.tags = [tag for tag in cell.metadata.tags if tag != "nbval-check-output"]
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, folder / path)
        print((folder / path if parameters else path).as_posix())


if __name__ == "__main__":
    main()
