"""CIFAR-FS and FC100: the 100 classes of CIFAR-100 (Krizhevsky, 2009), split for few-shot learning."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mlcore.datasets.cache import cached_images
from mlcore.datasets.omniglot import DAMAGE
from mlcore.files import folder_with, needed_folder
from mlcore.tasks import ClassificationTasks

_RECIPE = "cifar-1"  # change it when the images made from a sheet change
_SHEETS = ("cifar100_train.zip", "cifar100_val.zip", "cifar100_test.zip")
_FILES = (*_SHEETS, "meta.json")
_IMAGES, _SIZE = 600, 32


def cifar(
    split: Literal["cifar_fs", "fc100"] = "cifar_fs",
    *,
    root: Path | str | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    augment: bool = False,
) -> tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]:
    """CIFAR-100 as (train, val, test) episodes over disjoint classes.

    Images are uint8 [3, 32, 32], 600 of each class; classes are named by their coarse and fine label,
    "aquatic_mammals/beaver".

    Args:
        split: ``"cifar_fs"``, 64 / 16 / 20 classes at random (Bertinetto et al., 2019), or ``"fc100"``, 60 / 20 / 20
            classes such that no coarse label is in two parts (Oreshkin et al., 2018).
        root: where ``cifar_fs/`` is; :func:`mlcore.files.data_root` by default.
        ways, shots, queries: as for :class:`~mlcore.tasks.ClassificationTasks`.
        augment: crop and mirror training images at random, see :func:`crop_and_flip`.

    Raises:
        ValueError: an unknown split, or a file that is damaged.
        FileNotFoundError: no data; the message says where it looked.
    """
    if split not in ("cifar_fs", "fc100"):
        raise ValueError(f"there is no split {split!r}; choose 'cifar_fs' or 'fc100'.")
    folder = needed_folder(
        "cifar_fs", *_FILES, root=root, what="CIFAR-FS", instead="the dataset 'glyphs' needs no files"
    )
    stats = [(folder / name).stat() for name in (*_SHEETS, "meta.json")]
    identity = hashlib.sha256(repr([(stat.st_size, stat.st_mtime_ns) for stat in stats]).encode()).hexdigest()[:16]
    images, names = cached_images(f"{_RECIPE}-{identity}", lambda: _decode(folder))
    tasks = ClassificationTasks(
        torch.from_numpy(images.reshape(-1, *images.shape[2:])),
        np.repeat(names, images.shape[1]),
        ways=ways,
        shots=shots,
        queries=queries,
    )
    full = {name.rpartition("/")[2]: name for name in names}
    parts = ((folder / "splits" / split / f"{part}.txt").read_text().split() for part in ("train", "val", "test"))
    train, val, test = (tasks.select_classes(full[name] for name in part) for part in parts)
    return (train.replace(augment=crop_and_flip) if augment else train), val, test


def find_cifar(root: Path) -> Path | None:
    """The folder under ``root`` that holds CIFAR-FS; None when there is none."""
    return folder_with(root / "cifar_fs", *_FILES)


def crop_and_flip(image: Tensor) -> Tensor:
    """Augment as is usual for CIFAR: shift by up to 4 pixels, fill the gap by reflection, mirror half of the time."""
    return _crop_and_flip()(image)


@cache
def _crop_and_flip() -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2  # slow to import

    return v2.Compose([v2.RandomCrop(_SIZE, padding=4, padding_mode="reflect"), v2.RandomHorizontalFlip()])


def _decode(folder: Path) -> tuple[np.ndarray, list[str]]:
    """Images uint8 [100, 600, 3, 32, 32], and the names of the classes."""
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    coarse_labels = [meta["coarse_labels"][i] for i in meta["coarse_of_fine"]]
    coarse = dict(zip(meta["fine_labels"], coarse_labels, strict=True))
    images, names = [], []
    with tqdm(total=100, desc="reading CIFAR-100", unit="class") as bar:
        for sheet in _SHEETS:
            try:
                with zipfile.ZipFile(folder / sheet) as archive:
                    for entry in sorted(archive.namelist()):
                        pixels = np.asarray(Image.open(io.BytesIO(archive.read(entry))).convert("RGB"))
                        tiles = pixels.reshape(24, _SIZE, 25, _SIZE, 3).transpose(0, 2, 4, 1, 3)
                        images.append(tiles.reshape(_IMAGES, 3, _SIZE, _SIZE))
                        names.append(f"{coarse[Path(entry).stem]}/{Path(entry).stem}")
                        bar.update()
            except (*DAMAGE, ValueError, KeyError) as error:
                raise ValueError(f"{folder / sheet} is truncated or damaged ({error}); get it again.") from error
    return np.stack(images), names
