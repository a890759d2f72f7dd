"""A vector for the name of each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mlcore.datasets.sentences import TextFeatures
from mlcore.files import folder_with, needed_folder
from mlcore.tasks import ClassificationTasks, NamedTasks

Names = Literal["own", "shuffled"]
Vectors = Literal["encoder", "letters"]
_FILE = "minilm/cifar100_names.npz"


def encoded_names(*, root: Path | str | None = None) -> dict[str, Tensor]:
    """Vectors [384] of the 100 classes of CIFAR-100 by fine label: of "maple tree", by a frozen sentence encoder.

    Args:
        root: the data root; by default ``$MLCORE_DATA``.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
    """
    folder = needed_folder("text", _FILE, root=root, what="names of classes", instead="letters of names need no files")
    with np.load(folder / _FILE, allow_pickle=False) as arrays:
        return dict(zip(arrays["names"].tolist(), torch.from_numpy(arrays["name"]).float(), strict=True))


def find_encoded_names(root: Path) -> Path | None:
    """The folder under ``root`` that holds them; None when there is none."""
    return folder_with(root / "text", _FILE)


def with_names(
    parts: Sequence[ClassificationTasks], names: Names, vectors: Vectors, *, buckets: int = 256
) -> tuple[NamedTasks, ...]:
    """Tasks of several parts, with vectors of the names of their classes.

    Args:
        parts: tasks, those to train on first.
        names: each class its ``"own"``, or for a control ``"shuffled"`` within a part.
        vectors: ``"encoder"``, of :func:`encoded_names`; or ``"letters"``, hashed counts of runs of letters in a
            name such as "Greek/small alpha", weighed by how rare they are among the training classes.
        buckets: numbers that such counts become.

    Raises:
        ValueError: unknown names.
    """
    if names not in ("own", "shuffled"):
        raise ValueError(f"there are no names {names!r}; choose 'own' or 'shuffled'.")
    if vectors == "encoder":
        known = encoded_names()
        words = [{name: known[name.rpartition("/")[2]] for name in part.classes} for part in parts]
    else:
        texts = [[str(name).replace("/", " ") for name in part.classes] for part in parts]
        count = TextFeatures(texts[0], of="letters", buckets=buckets)
        words = [dict(zip(part.classes, count(text), strict=True)) for part, text in zip(parts, texts, strict=True)]
    return tuple(NamedTasks(part, of, shuffled=names == "shuffled") for part, of in zip(parts, words, strict=True))
