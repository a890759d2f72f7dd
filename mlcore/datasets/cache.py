"""Images that took a while to make, kept in the user's cache folder."""

import warnings
import zipfile
from collections.abc import Callable

import numpy as np

from mlcore.files import cache_root, write_atomically


def cached_images(name: str, build: Callable[[], tuple[np.ndarray, list[str]]]) -> tuple[np.ndarray, list[str]]:
    """What ``build`` returns, built once and kept as ``<name>.npz``; a damaged file is built again.

    Args:
        name: names the recipe *and* the identity of everything it is made from, so that a change in either is a new
            file and nothing stale is ever read.
        build: makes images uint8 [classes, drawings, 1, 28, 28] and the names of the classes.
    """
    path = cache_root() / f"{name}.npz"
    try:
        # The zip inside checks its sums, and allow_pickle=False runs no code: the file can be wrong, not harmful.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return arrays["images"], arrays["classes"].tolist()
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile):
        pass  # absent or damaged
    images, classes = build()
    try:
        write_atomically(path, lambda temporary: np.savez(temporary, images=images, classes=np.array(classes)))
    except OSError as error:
        warnings.warn(f"cannot keep {path} ({error}); it will be built again next time.", stacklevel=3)
    return images, classes
