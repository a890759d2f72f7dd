"""Omniglot: 1,623 characters of 50 alphabets, each drawn by 20 people (Lake, Salakhutdinov and Tenenbaum, 2015)."""

import hashlib
import io
import os
import random
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from mlcore.datasets.cache import cached_images
from mlcore.files import data_root
from mlcore.objective import Metric, Objective, accuracy, cross_entropy
from mlcore.tasks import ClassificationTasks, Examples, FixedTasks, Task, rows, seeded

SPLITS = ("vinyals", "vinyals-trainval", "lake", "random", "imaml", "imaml-unseen")
"""The class splits of :func:`omniglot`."""

BACKGROUNDS = {
    "all": None,
    "small1": ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"),
    "small2": ("Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog"),
}
"""What one may learn from before the Omniglot challenge: all 30 background alphabets, or one of two sets of five."""

_CHARACTERS = {"images_background": 964, "images_evaluation": 659}
_DRAWINGS = 20
_SIZE = 28
_RECIPE = "omniglot-1"  # change it when the images made from a drawing change
_VALIDATION_ALPHABETS = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_GET_IT = "get it again with `mlcore data --download omniglot`."
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, SyntaxError)
"""What zipfile and Pillow raise for bytes that are not what they should be."""


def omniglot(
    split: str = "vinyals",
    *,
    root: Path | str | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    rotations: bool = False,
) -> tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]:
    """Omniglot as (train, val, test) episodes over disjoint characters.

    Images are uint8 [1, 28, 28] with ink = 255; classes are named "Greek/character03".

    Args:
        split: ``"vinyals"``, 1,028 / 172 / 423 characters, published with Prototypical Networks (Snell et al., 2017):
            validation has five alphabets of its own, and but for one alphabet test shares none with training.
            ``"vinyals-trainval"``, the same with the validation characters in training too, as for the numbers of that
            paper: validation then chooses nothing.
            ``"lake"``, training on the 30 background alphabets, five of which (the same) are held out for validation,
            and test on the 20 evaluation alphabets. ``"random"``, 1,100 / 100 / 423 characters whatever their alphabet,
            as in the MAML code; which ones that code drew was never published, so these are a fixed draw of our own.
            ``"imaml"``, as iMAML's released commands split them: training and test characters are two draws with
            seeds of their own, so that 310 of the 423 test characters are training characters too; ``"imaml-unseen"``,
            the same tested on the other 113. Validation is a part of training, as that code has none.
        root: where ``omniglot/images_background.zip`` and ``images_evaluation.zip``, or folders of these names, are;
            :func:`mlcore.files.data_root` by default.
        ways, shots, queries, rotations: as for :class:`~mlcore.tasks.ClassificationTasks`.

    Raises:
        ValueError: an unknown split, or files that are damaged or not Omniglot's.
        FileNotFoundError: no data; the message says where it looked and how to get them.
    """
    if split not in SPLITS:
        raise ValueError(f"there is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    tasks, names = _everything(root, ways=ways, shots=shots, queries=queries, rotations=rotations)
    train, val, test = (tasks.select_classes(part) for part in split_names(names, split))
    return train, val, test


def omniglot_background(
    background: str = "all", *, root: Path | str | None = None, ways: int = 20, shots: int = 1, queries: int = 5
) -> ClassificationTasks:
    """Episodes within the alphabets that one may learn from before :func:`omniglot_challenge`.

    Args:
        background: a name in :data:`BACKGROUNDS`.
        root, ways, shots, queries: as for :func:`omniglot`.
    """
    if background not in BACKGROUNDS:
        raise ValueError(f"there is no background set {background!r}; choose one of {', '.join(BACKGROUNDS)}.")
    tasks, names = _everything(root, ways=ways, shots=shots, queries=queries)
    alphabets = BACKGROUNDS[background]
    chosen = [
        name
        for name in names[: _CHARACTERS["images_background"]]
        if alphabets is None or name.split("/")[0] in alphabets
    ]
    return tasks.select_classes(chosen).replace(within_groups=True)


def omniglot_challenge(*, root: Path | str | None = None, size: int = _SIZE) -> FixedTasks:
    """Lake's 20 one-shot runs: each 20 characters of *one* unseen alphabet, drawn by one person and asked of another.

    Images are floats [1, size, size], ink = 1: [20 runs, 20, 1, size, size] for support and query; every class has
    one query, in the order of the files. With ``size=105`` the original bitmaps. The challenge reports errors.

    Raises:
        FileNotFoundError: no ``omniglot/all_runs.zip`` in the data root.
        ValueError: the file is damaged.
    """
    path = Path(root or data_root()) / "omniglot" / "all_runs.zip"
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}: set $MLCORE_DATA to the folder that holds omniglot/all_runs.zip; "
            "it is in the folder one-shot-classification of the authors' repository brendenlake/omniglot."
        )
    runs = range(1, 21)
    try:
        with zipfile.ZipFile(path) as archive:
            support = [
                [_small(archive.read(f"run{run:02}/training/class{i:02}.png"), size) for i in runs] for run in runs
            ]
            query = [[_small(archive.read(f"run{run:02}/test/item{i:02}.png"), size) for i in runs] for run in runs]
            keys = [archive.read(f"run{run:02}/class_labels.txt").decode().split()[1::2] for run in runs]
    except (*DAMAGE, KeyError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); get it again.") from error
    answers = torch.tensor([[int(PurePosixPath(name).stem.removeprefix("class")) - 1 for name in key] for key in keys])
    labels = torch.arange(20).expand(20, -1)
    task = Task(Examples(_floats(support), rows(labels, 20)), Examples(_floats(query), rows(answers, 20)))
    return FixedTasks(task, Objective(cross_entropy, {"error": Metric(_error, higher_is_better=False)}))


def _error(outputs: Tensor, y: Tensor) -> Tensor:
    return 1 - accuracy(outputs, y)


def _floats(images: list[list[np.ndarray]]) -> Tensor:
    return torch.from_numpy(np.array(images))[:, :, None].float() / 255


def _everything(root: Path | str | None, **sizes) -> tuple[ClassificationTasks, list[str]]:
    """All characters as tasks, and their names with the background alphabets first."""
    sources = _find(Path(root or data_root()))
    images, names = cached_images(f"{_RECIPE}-{_identity(sources)}", lambda: _decode(sources))
    x, y = torch.from_numpy(images.reshape(-1, *images.shape[2:])), np.repeat(names, images.shape[1])
    return ClassificationTasks(x, y, **sizes), names


def find_omniglot(root: Path) -> Path | None:
    """The folder under ``root`` that holds Omniglot; None when there is none."""
    for folder in (root / "omniglot", root / "omniglot-py"):  # the second is torchvision's name
        if all((folder / name).is_dir() or (folder / f"{name}.zip").is_file() for name in _CHARACTERS):
            return folder
    return None


def download_omniglot(root: Path) -> None:
    """Fetch the authors' two zips into ``root/omniglot``, checked against torchvision's MD5 sums.

    Raises:
        OSError: a file that cannot be fetched, or is not the authors'; what was there before is kept.
    """
    from torchvision.datasets import Omniglot, utils  # slow to import, and seldom needed

    folder = root / "omniglot"
    folder.mkdir(parents=True, exist_ok=True)
    for name in _CHARACTERS:
        partial = f"{name}.zip.partial"
        url = f"{Omniglot.download_url_prefix}/{name}.zip"
        try:
            utils.download_url(url, str(folder), filename=partial, md5=Omniglot.zips_md5[name])
            os.replace(folder / partial, folder / f"{name}.zip")
        except (OSError, RuntimeError) as error:  # torchvision reports a wrong sum as a RuntimeError
            raise OSError(f"{url} cannot be fetched ({error}); try again, or put it into {folder} yourself.") from error
        finally:
            (folder / partial).unlink(missing_ok=True)


def split_names(names: list[str], split: str) -> tuple[list[str], list[str], list[str]]:
    """Class names of (train, val, test), given all of them with the background alphabets first."""
    if split == "random":
        everything = sorted(names)
        order = torch.randperm(len(everything), generator=seeded(0)).tolist()
        train, val, test = (
            sorted(everything[i] for i in part) for part in (order[:1100], order[1100:1200], order[1200:])
        )
        return train, val, test
    if split.startswith("imaml"):
        return _released_by_imaml(sorted(names), unseen=split == "imaml-unseen")
    n_background = _CHARACTERS["images_background"]
    background, evaluation = sorted(names[:n_background]), sorted(names[n_background:])
    # Vinyals' split, as a rule: all of the background and the first 236 evaluation characters are for learning.
    known = 0 if split == "lake" else 236
    learning, test = background + evaluation[:known], evaluation[known:]
    val = [name for name in learning if name.split("/")[0] in _VALIDATION_ALPHABETS]
    train = learning if split == "vinyals-trainval" else [name for name in learning if name not in set(val)]
    return train, val, test


def _released_by_imaml(names: list[str], *, unseen: bool) -> tuple[list[str], list[str], list[str]]:
    """The two shuffles of the released code, of a list in the names' order; its own is in the order of a folder."""
    first, second = list(names), list(names)
    random.Random(123).shuffle(first)
    random.Random(12345).shuffle(second)
    train, test = first[:1200], second[1200:]
    seen = set(train)
    return train, train[-100:], [name for name in test if name not in seen] if unseen else test


def _find(root: Path) -> list[Path]:
    folder = find_omniglot(root)
    if folder is None:
        raise FileNotFoundError(
            f"no Omniglot in {root / 'omniglot'}: set $MLCORE_DATA to the folder that holds omniglot/, or fetch it "
            "with `mlcore data --download omniglot`; the dataset 'glyphs' needs no download."
        )
    return [folder / name if (folder / name).is_dir() else folder / f"{name}.zip" for name in _CHARACTERS]


def _identity(sources: list[Path]) -> str:
    """Changes when a source does."""
    # A folder's own time stamp does not change with the files deep inside it.
    files = [(source, file) for source in sources for file in (_drawings(source) if source.is_dir() else [source])]
    stats = [(file.relative_to(source.parent).as_posix(), file.stat()) for source, file in files]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def _drawings(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*.png"))


def _decode(sources: list[Path]) -> tuple[np.ndarray, list[str]]:
    """Images uint8 [characters, 20, 1, 28, 28], and the characters' names."""
    drawings: dict[str, list[np.ndarray]] = {}
    total = sum(_CHARACTERS.values()) * _DRAWINGS
    with tqdm(total=total, desc="reading Omniglot", unit="image") as bar:
        for source in sources:
            before = len(drawings)
            for name, image in _read(source):
                drawings.setdefault(name, []).append(image)
                bar.update()
            expected = _CHARACTERS[source.stem]
            if len(drawings) - before != expected:
                raise ValueError(f"{source} holds {len(drawings) - before} characters, not {expected}; {_GET_IT}")
    for name, images in drawings.items():
        if len(images) != _DRAWINGS:
            raise ValueError(f"{name} has {len(images)} drawings, not {_DRAWINGS}; {_GET_IT}")
    return np.stack([np.stack(images)[:, None] for images in drawings.values()]), list(drawings)


def _small(png: bytes, size: int = _SIZE) -> np.ndarray:
    """A drawing of 105 x 105 bits, paper = 1, as size x size bytes with ink = 255."""
    image = Image.open(io.BytesIO(png)).convert("L")
    return np.asarray(ImageOps.invert(image).resize((size, size), Image.Resampling.LANCZOS))


def _read(source: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Each drawing, 28 x 28, with its character's name, "Greek/character03", in the order of file names."""
    at = source
    try:
        if source.is_dir():
            for at in _drawings(source):
                yield f"{at.parts[-3]}/{at.parts[-2]}", _small(at.read_bytes())
            return
        with zipfile.ZipFile(source) as archive:
            for entry in archive.namelist():
                _check_entry(source, entry)
            for entry in sorted(archive.namelist()):
                parts = PurePosixPath(entry).parts
                # Archives may also hold folders, or notes that an operating system left behind.
                if len(parts) == 4 and parts[0] == source.stem and entry.endswith(".png"):
                    yield f"{parts[1]}/{parts[2]}", _small(archive.read(entry))  # read() checks the CRC
    except DAMAGE as error:
        raise ValueError(f"{at} is truncated or damaged ({error}); delete {source.name} and {_GET_IT}") from error


def _check_entry(source: Path, entry: str) -> None:
    """Nothing is extracted here, but a zip that would write elsewhere is not one to trust."""
    windows = PureWindowsPath(entry)
    if windows.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(f"{source} has an entry {entry!r} that would leave its folder; do not use this file.")
