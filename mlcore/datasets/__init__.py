"""Data sets, ready as tasks. Glyphs and sinusoids need no download; Omniglot is read from the data root."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mlcore.datasets.glyphs import glyphs
from mlcore.datasets.omniglot import download_omniglot, find_omniglot, omniglot
from mlcore.datasets.sinusoid import sinusoid
from mlcore.files import data_root
from mlcore.tasks import ClassificationTasks

__all__ = ["Found", "describe", "download_omniglot", "find_omniglot", "glyphs", "load", "omniglot", "sinusoid"]

_IMAGES: dict[str, Callable[..., tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]]] = {
    "glyphs": glyphs,
    "omniglot": omniglot,
}


def load(name: str, **sizes) -> tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]:
    """The image data set of that name as (train, val, test); keywords go to :func:`glyphs` or :func:`omniglot`."""
    if name not in _IMAGES:
        raise ValueError(f"there is no data set {name!r}; choose one of {', '.join(_IMAGES)}.")
    return _IMAGES[name](**sizes)


class Found(NamedTuple):
    """Where a data set is."""

    name: str
    about: str
    found: Path | str | None
    how_to_get: str


def describe() -> list[Found]:
    """Each data set: what it is, where it was found, and how to get it."""
    return [
        Found("sinusoid", "regression tasks, drawn as needed", "built in", ""),
        Found("glyphs", "warped letters of matplotlib's fonts", "built in", ""),
        Found(
            "omniglot",
            "1,623 handwritten characters",
            find_omniglot(data_root()),
            "`mlcore data --download omniglot` fetches 15 MB",
        ),
    ]
