"""EuroSAT: what covers the ground, seen from a satellite (Helber, Bischke, Dengel and Borth, 2019)."""

import hashlib
import io
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from mlcore.datasets.cache import cached_images
from mlcore.datasets.omniglot import DAMAGE
from mlcore.files import folder_with, needed_folder
from mlcore.tasks import ClassificationTasks

_RECIPE = "eurosat-1"  # change it when the images made from the file change
_FOLDER, _FILE = "eurosat", "eurosat_rgb_300.zip"
_CLASSES, _IMAGES, _SIZE = 10, 300, 32
_MEAN = Image.Resampling.BOX


def eurosat(
    *, root: Path | str | None = None, ways: int = 5, shots: int = 5, queries: int = 15
) -> tuple[None, None, ClassificationTasks]:
    """Ten kinds of land cover as (None, None, test): a far target domain, on which nothing trains.

    Images are uint8 [3, 32, 32], means over 2×2 of the 64×64 pixels of the Sentinel-2 RGB images; 300 of each class, a
    random draw of the published 2,000 to 3,000.

    Args:
        root: where ``eurosat/`` is; :func:`mlcore.files.data_root` by default.
        ways, shots, queries: as for :class:`~mlcore.tasks.ClassificationTasks`.

    Raises:
        ValueError: a file that is damaged, or not the draw of 300 images of each class.
        FileNotFoundError: no data; the message says where it looked.
    """
    folder = needed_folder(_FOLDER, _FILE, root=root, what="EuroSAT", instead="the dataset 'glyphs' needs no files")
    stat = (folder / _FILE).stat()
    identity = hashlib.sha256(repr((stat.st_size, stat.st_mtime_ns)).encode()).hexdigest()[:16]
    images, names = cached_images(f"{_RECIPE}-{identity}", lambda: _decode(folder / _FILE))
    x = images.reshape(-1, *images.shape[2:])
    return None, None, ClassificationTasks(x, np.repeat(names, _IMAGES), ways=ways, shots=shots, queries=queries)


def find_eurosat(root: Path) -> Path | None:
    """The folder under ``root`` that holds EuroSAT; None when there is none."""
    return folder_with(root / _FOLDER, _FILE)


def _decode(file: Path) -> tuple[np.ndarray, list[str]]:
    """Images uint8 [10, 300, 3, 32, 32], and the names of the classes."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
            images = [
                np.asarray(Image.open(io.BytesIO(archive.read(entry))).convert("RGB").resize((_SIZE, _SIZE), _MEAN))
                for entry in entries
            ]
    except (*DAMAGE, ValueError) as error:
        raise ValueError(f"{file} is truncated or damaged ({error}); get it again.") from error
    counts = Counter(entry.partition("/")[0] for entry in entries)
    if list(counts.values()) != [_IMAGES] * _CLASSES:
        raise ValueError(f"{file} holds {dict(counts)} images, not {_IMAGES} of each of {_CLASSES} classes.")
    return np.stack(images).transpose(0, 3, 1, 2).reshape(_CLASSES, _IMAGES, 3, _SIZE, _SIZE), list(counts)
