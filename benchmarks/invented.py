"""How well the shipped ProtoNet reads alphabets that nobody has ever written, drawn by no hand but a program's.

    python benchmarks/invented.py

Invents alphabets of five symbols, each of two to four random strokes, and draws every symbol several times with the
jitter of two hands, a steady and an unsteady one. A drawing becomes a picture exactly as in the live figure of the
front page (book/_static/figures/alphabet.js; a test compares the two pixel by pixel), and the task is the figure's:
five symbols seen once, one drawn again. Nearest neighbours of pixels answer the same questions. Writes
data/benchmarks/invented.json, which the front page prints.
"""

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import mlcore
from mlcore import Examples, Learner, NearestNeighbour, Task
from mlcore.datasets.strokes import SIDE, Strokes, by_hand, invent
from mlcore.experiments.weights import weights_path
from mlcore.files import write_atomically

ROOT = Path(__file__).parents[1]
RECIPE = "protonet-omniglot-1s"
ALPHABETS, SYMBOLS, QUERIES = 400, 5, 3
SEED = 2026
# How far a hand strays. With the second, pixels tell symbols apart about as badly as those of Omniglot's writers.
HANDS = {"steady": 1.0, "unsteady": 1.8}

# As in book/_static/figures/alphabet.js; all but SMALL in pixels of Omniglot's own 105.
SMALL = 28
PEN = 2.5  # half the width of a stroke
MIDDLE = 51  # where Omniglot's drawings have their middle, on average
LONGER = 64  # the longer side of a drawing, without the width of the pen
ZOOM = 3  # how far a small drawing is enlarged; a dot stays a dot


def picture(strokes: Strokes) -> np.ndarray:
    """The drawing as Omniglot would hold it after mlcore has read it: uint8 [28, 28], ink = 255."""
    points = np.concatenate(strokes)
    low, high = points.min(0), points.max(0)
    zoom = min(ZOOM, LONGER / max(*(high - low), 1e-9))
    ink = np.zeros((SIDE, SIDE), bool)
    for stroke in strokes:
        line = MIDDLE + zoom * (stroke - (low + high) / 2)
        for start, end in pairwise(line) if len(line) > 1 else [(line[0], line[0])]:
            _trace(ink, start, end)
    return _shrunk(ink)


def _shrunk(ink: np.ndarray) -> np.ndarray:
    drawing = Image.fromarray(255 * ink.astype(np.uint8))
    return np.asarray(drawing.resize((SMALL, SMALL), Image.Resampling.LANCZOS))


def _trace(ink: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
    """Blacken, in place, the pixels whose centre is within the pen's reach of a segment."""
    first = np.maximum(np.floor(np.minimum(start, end) - PEN), 0).astype(int)
    last = np.minimum(np.ceil(np.maximum(start, end) + PEN), SIDE).astype(int)
    columns, rows = (np.arange(a, b) for a, b in zip(first, last, strict=True))
    x, y = columns[None, :] + 0.5 - start[0], rows[:, None] + 0.5 - start[1]
    dx, dy = end - start
    length = dx * dx + dy * dy
    along = np.clip((x * dx + y * dy) / length, 0, 1) if length > 0 else 0.0
    ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] |= (x - along * dx) ** 2 + (
        y - along * dy
    ) ** 2 <= PEN * PEN


def tasks(unsteady: float, alphabets: int = ALPHABETS, seed: int = SEED) -> Task:
    """One task an alphabet: each symbol once in the support set, and ``QUERIES`` times as a query."""
    rng = np.random.default_rng(seed)
    pictures = np.stack(
        [
            [[picture(by_hand(symbol, rng, unsteady)) for _ in range(1 + QUERIES)] for symbol in symbols]
            for symbols in ([invent(rng) for _ in range(SYMBOLS)] for _ in range(alphabets))
        ]
    )
    x = torch.from_numpy(pictures)[:, :, :, None].float() / 255  # [alphabets, symbols, drawings, 1, 28, 28]
    y = torch.eye(SYMBOLS)[:, None].expand(-1, QUERIES, -1).flatten(0, 1)
    every = (alphabets, -1, -1)
    return Task(
        Examples(x[:, :, 0], torch.eye(SYMBOLS).expand(every)), Examples(x[:, :, 1:].flatten(1, 2), y.expand(every))
    )


@torch.no_grad()
def rate(learner: Learner, batch: Task) -> dict[str, float]:
    """The share of drawings that are named rightly, with a 95 % interval over alphabets."""
    right: Tensor = (learner.eval()(batch).argmax(-1) == batch.query.y.argmax(-1)).float().mean(-1)
    return {"mean": right.mean().item(), "ci95": 1.96 * right.std().item() / len(right) ** 0.5}


def main() -> None:
    if not weights_path(RECIPE).exists():
        raise SystemExit(f"there are no weights of {RECIPE} to measure: mlcore run {RECIPE} --profile record")
    learner = mlcore.load(RECIPE)
    hands = {name: tasks(unsteady) for name, unsteady in HANDS.items()}
    measured = {
        "recipe": RECIPE,
        "weights": hashlib.sha256(weights_path(RECIPE).read_bytes()).hexdigest()[:12],  # which ones these are
        "seed": SEED,
        "alphabets": ALPHABETS,
        "symbols": SYMBOLS,
        "queries": QUERIES,
        "hands": {
            name: {"unsteady": HANDS[name], "protonet": rate(learner, batch), "pixels": rate(NearestNeighbour(), batch)}
            for name, batch in hands.items()
        },
    }
    text = json.dumps(measured, indent=1) + "\n"
    record = ROOT / "data" / "benchmarks" / "invented.json"
    write_atomically(record, lambda path: path.write_text(text, encoding="utf-8"))
    print(text, end="")


if __name__ == "__main__":
    main()
