"""Characters as strokes, of which any number can be drawn: invented ones without end, and eleven thousand kanji."""

import math
import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageDraw

from mlcore.datasets.cache import cached_images
from mlcore.files import folder_with, needed_folder
from mlcore.tasks import ClassificationTasks
from mlcore.tasks.sizes import Size

SIDE = 105  # of the page on which a character is thought to stand, as Omniglot's
_SMALL, _FINE = 28, 4  # pixels of a drawing; each is averaged from 4 × 4
_UNSTEADY = 1.8  # the hand strays so far that pixels tell characters apart hardly better than chance
_FOLDER, _FILE, _KANJI = "kanji_strokes", "kanji_strokes.npz", 11_335
_RECIPE = 1  # of the drawings; a new number is a new file in the cache

Strokes = list[np.ndarray]
"""A character: each stroke is a line through points [n, 2], x to the right and y down."""
_SPLITS = ("train", "val", "test")
Splits = tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]


def invent(rng: np.random.Generator) -> Strokes:
    """A character of two to four strokes, each a line, an arc or a loop."""
    return [_STROKES[rng.integers(len(_STROKES))](rng) for _ in range(rng.integers(2, 5))]


def _line(rng: np.random.Generator) -> np.ndarray:
    start = rng.uniform(15, 90, 2)
    end = rng.uniform(15, 90, 2)
    while math.dist(start, end) < 25:
        end = rng.uniform(15, 90, 2)
    return start + np.linspace(0, 1, 24)[:, None] * (end - start)


def _arc(rng: np.random.Generator) -> np.ndarray:
    return _part_of_an_ellipse(rng, rng.uniform(0.35, 0.75))


def _loop(rng: np.random.Generator) -> np.ndarray:
    return _part_of_an_ellipse(rng, 1.05)


def _part_of_an_ellipse(rng: np.random.Generator, turns: float) -> np.ndarray:
    angles = rng.uniform(0, 2 * math.pi) + rng.choice([-1, 1]) * np.linspace(0, 2 * math.pi * turns, 24)
    return rng.uniform(30, 75, 2) + rng.uniform(8, 26, 2) * np.stack([np.cos(angles), np.sin(angles)], -1)


_STROKES = (_line, _arc, _loop)


def by_hand(character: Strokes, rng: np.random.Generator, unsteady: float) -> Strokes:
    """The character drawn anew: turned, stretched and slanted as a whole; each stroke moved, resized and wavering."""
    angle, slant = unsteady * rng.normal(0, (0.13, 0.12))
    stretch = np.exp(unsteady * rng.normal(0, 0.13, 2))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    whole = turn @ np.array([[1, slant], [0, 1]]) @ np.diag(stretch)
    offset = unsteady * rng.normal(0, 5, 2)
    drawing = []
    for stroke in character:
        middle, t = stroke.mean(0), np.linspace(0, 1, len(stroke))[:, None]
        size = np.exp(unsteady * rng.normal(0, 0.12, 2))
        # A slow wave along the stroke, with another one in each coordinate.
        waves, phases = rng.uniform(0.5, 2, 2), rng.uniform(0, 2 * math.pi, 2)
        wobble = unsteady * rng.normal(0, 2, 2) * np.sin(2 * math.pi * waves * t + phases)
        moved = middle + size * (stroke - middle) + unsteady * rng.normal(0, 3, 2) + wobble
        drawing.append((moved - SIDE / 2) @ whole.T + SIDE / 2 + offset)
    return drawing


def inked(character: Strokes, rng: np.random.Generator) -> np.ndarray:
    """A drawing by another hand, with a pen and a size of its own: uint8 [28, 28], ink = 255."""
    strokes = by_hand(character, rng, _UNSTEADY)
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    # On average as large as a drawing of Omniglot, and as far from the middle.
    zoom = 64 * math.exp(rng.normal(0, 0.2)) / max(*(high - low), 1.0)
    place = SIDE / 2 + rng.normal(0, 4, 2)
    scale = _SMALL * _FINE / SIDE
    page = Image.new("L", (_SMALL * _FINE, _SMALL * _FINE))
    pen, width = ImageDraw.Draw(page), round(scale * rng.uniform(3, 6.5))
    for stroke in strokes:
        line = scale * (place + zoom * (stroke - (low + high) / 2))
        pen.line([(x, y) for x, y in line.tolist()], fill=255, width=width, joint="curve")
    return np.asarray(page.reduce(_FINE))


def invented(
    *, characters: int = 300, drawings: int = 20, ways: Size = 5, shots: Size = 1, queries: Size = 15
) -> Splits:
    """Characters that nobody ever wrote, as many as you like, as (train, val, test) tasks. Nothing is downloaded.

    Args:
        characters: training characters; the first of more are the fewer. 100 others validate, 200 test.
        drawings: of each character, by hands of their own.
        ways, shots, queries: as for :class:`~mlcore.tasks.ClassificationTasks`.

    Raises:
        ValueError: numbers that are none.

    Chapter: What changes at scale.
    """
    _check(characters=characters, drawings=drawings)

    def drawn(split: int, i: int) -> np.ndarray:
        rng = np.random.default_rng((split, i))
        return _by_hands(invent(rng), drawings, rng)

    return _splits(
        ("invented", drawings),
        [range(characters), range(100), range(200)],
        lambda split, i: f"invented/{_SPLITS[split]}{i:06}",
        drawn,
        ways,
        shots,
        queries,
    )


def kanji(
    *, characters: int = 10_000, drawings: int = 20, ways: Size = 5, shots: Size = 1, queries: Size = 15
) -> Splits:
    """The kanji of KanjiVG, one example each in the file and ``drawings`` by hand here, as (train, val, test) tasks.

    Args:
        characters: training kanji, at most 10,635; the first of more are the fewer. 200 others validate, 500 test.
        drawings, ways, shots, queries: as for :func:`invented`.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
        ValueError: numbers that are none, or a file that is not the one expected.

    Chapter: What changes at scale.
    """
    _check(characters=characters, drawings=drawings)
    strokes = read_kanji()
    most = _KANJI - 700
    if characters > most:
        raise ValueError(f"characters={characters}, but {most:,} kanji are left beside validation and test; lower it.")
    order = np.random.default_rng(0).permutation(_KANJI).tolist()
    return _splits(
        ("kanji", drawings),
        [order[700 : 700 + characters], order[500:700], order[:500]],
        lambda _, number: f"kanji/{number:05}",
        lambda _, number: _by_hands(strokes[number], drawings, np.random.default_rng((9, number))),
        ways,
        shots,
        queries,
    )


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise ValueError(f"{name} must be a positive whole number, not {number!r}.")


def _by_hands(character: Strokes, drawings: int, rng: np.random.Generator) -> np.ndarray:
    return np.stack([inked(character, rng) for _ in range(drawings)])[:, None]


def _splits(
    kind: tuple[str, int],
    numbers: Sequence[Sequence[int]],
    name: Callable[[int, int], str],
    drawn: Callable[[int, int], np.ndarray],
    ways: Size,
    shots: Size,
    queries: Size,
) -> Splits:
    """Tasks over the characters with these numbers in each split, built once and kept."""

    def tasks(split: int) -> ClassificationTasks:
        def build() -> tuple[np.ndarray, list[str]]:
            return np.stack([drawn(split, i) for i in numbers[split]]), [name(split, i) for i in numbers[split]]

        file = f"{kind[0]}-{_RECIPE}-{_SPLITS[split]}-{len(numbers[split])}-{kind[1]}-pillow-{PIL.__version__}"
        images, classes = cached_images(file, build)
        x, y = images.reshape(-1, *images.shape[2:]), np.repeat(classes, images.shape[1])
        return ClassificationTasks(x, y, ways=ways, shots=shots, queries=queries)

    return tasks(0), tasks(1), tasks(2)


def find_kanji(root: Path) -> Path | None:
    """The folder under ``root`` that holds the kanji; None when there is none."""
    return folder_with(root / _FOLDER, _FILE)


@cache
def read_kanji(root: Path | str | None = None) -> list[Strokes]:
    """The 11,335 distinct kanji of KanjiVG (Ulrich Apel; here as the sketch-RNN data sets have them), as strokes.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
        ValueError: a file that is not the one expected.
    """
    folder = needed_folder(_FOLDER, _FILE, root=root, what="the kanji", instead="the dataset 'invented' needs no files")
    try:
        with open(folder / _FILE, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            points, lifted, offsets = arrays["xy"] / 16.0, arrays["pen"].astype(bool), arrays["offsets"]
        seen: dict[bytes, Strokes] = {}
        for start, end in pairwise(offsets):
            part = points[start:end]
            ends = np.flatnonzero(lifted[start:end])[:-1] + 1
            seen.setdefault(part.tobytes() + lifted[start:end].tobytes(), np.split(part, ends))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{folder / _FILE} is truncated or damaged ({error}); get it again.") from error
    if len(seen) != _KANJI:
        raise ValueError(f"{folder / _FILE} has {len(seen):,} distinct kanji, not {_KANJI:,}; get it again.")
    return list(seen.values())
