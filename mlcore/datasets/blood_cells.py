"""Blood smears with boxes around cells: BCCD, and a stand-in that is made up and needs no download."""

import csv
import io
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mlcore.datasets.cache import cached_images
from mlcore.datasets.omniglot import DAMAGE
from mlcore.detection import check_boxes, detection
from mlcore.files import folder_with, needed_folder
from mlcore.objective import Objective
from mlcore.task import Examples, Task, seeded
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size, most

KINDS = ("RBC", "WBC", "Platelets")
"""Red cells, white cells, platelets."""

_FOLDER, _FILE, _PICTURES = "bccd", "bccd.zip", 364
_SHRUNK = 4  # 640 × 480 pixels become 160 × 120
_HEIGHT, _WIDTH = 120, 160


class Smears(NamedTuple):
    """Pictures, and the boxes of each kind of cell in them."""

    images: Tensor  # uint8 [n, 3, height, width]
    boxes: dict[str, list[Tensor]]  # by kind, for each picture [cells, 4]: left, top, right, bottom, in pixels


class MarkedCells(Functions):
    """A task is a kind of cell: ``shots`` pictures with one cell marked in each, and pictures to find them all in.

    Support ``x`` [tasks, shots, 3, height, width] and ``y`` [tasks, shots, 4]; query ``y`` [tasks, queries, most, 4],
    with NaN for the boxes that a picture has not. Every query picture has at least one cell of the kind.

    Args:
        smears: pictures and boxes.
        kind: one of :data:`KINDS`.
        shots, queries: marked cells, and pictures asked about.

    Raises:
        ValueError: a kind that there is not, a box outside of its picture, or too few pictures.

    Derived in: Find it, outline it, :eq:`eq-find-ap`.
    """

    objective: Objective = detection

    def __init__(self, smears: Smears, kind: str, *, shots: Size = 1, queries: Size = 10) -> None:
        if kind not in smears.boxes:
            raise ValueError(f"there is no kind {kind!r}; choose one of {', '.join(smears.boxes)}.")
        for boxes in smears.boxes[kind]:
            check_boxes(boxes, *smears.images.shape[-2:])
        self.smears, self.kind = smears, kind
        self._with = [i for i, boxes in enumerate(smears.boxes[kind]) if len(boxes)]
        self._most = max((len(boxes) for boxes in smears.boxes[kind]), default=0)
        super().__init__(shots, queries)

    def check(self) -> None:
        """Refuse sizes that are none, and more pictures than show the kind."""
        super().check()
        needed = most(self.shots) + most(self.queries)
        if needed > len(self._with):
            raise ValueError(
                f"shots + queries = {needed}, but only {len(self._with)} pictures show {self.kind}; lower queries."
            )

    def __repr__(self) -> str:
        return f"MarkedCells({self.kind} in {len(self._with)} pictures; shots={self.shots}, queries={self.queries})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` sets of pictures; equal generators give equal tasks."""
        shots, queries = self.sizes(generator)
        drawn = torch.rand(n_tasks, len(self._with), generator=generator).topk(shots + queries).indices
        which = torch.tensor(self._with)[drawn]
        boxes = self.smears.boxes[self.kind]
        marked = [[_one(boxes[i], generator) for i in row] for row in which[:, :shots].tolist()]
        asked = [[_padded(boxes[i], self._most) for i in row] for row in which[:, shots:].tolist()]
        x = self.smears.images[which].float() / 255
        halves = zip(x.split([shots, queries], 1), (marked, asked), strict=True)
        task = Task(*(Examples(half, torch.stack([torch.stack(row) for row in y])) for half, y in halves))
        return task.to(self._device)


def _one(boxes: Tensor, generator: torch.Generator) -> Tensor:
    return boxes[int(torch.randint(len(boxes), (), generator=generator))]


def _padded(boxes: Tensor, most: int) -> Tensor:
    return F.pad(boxes, (0, 0, 0, most - len(boxes)), value=torch.nan)


def find_blood_cells(root: Path) -> Path | None:
    """The folder under ``root`` that holds the smears; None when there is none."""
    return folder_with(root / _FOLDER, _FILE)


def blood_cells(kind: str, *, root: Path | str | None = None, shots: Size = 1, queries: Size = 10) -> MarkedCells:
    """BCCD: 364 smears of 640 × 480 pixels, here at a quarter of that, with 4,888 boxes of three kinds of cells.

    Not every red cell is marked. Empty boxes are left out, and what is beyond an edge is cut off.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
        ValueError: a file that is truncated or damaged.
    """
    folder = needed_folder(_FOLDER, _FILE, root=root, what="blood smears", instead="the stand-in needs no files")
    return MarkedCells(_smears(folder / _FILE), kind, shots=shots, queries=queries)


def _smears(path: Path) -> Smears:
    try:
        with zipfile.ZipFile(path) as archive:
            table = list(csv.DictReader(io.StringIO(archive.read("boxes.csv").decode())))
            names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
            stamp = f"bccd-1-{path.stat().st_size}-{path.stat().st_mtime_ns}"
            images, names = cached_images(stamp, lambda: (np.stack([_small(archive.read(n)) for n in names]), names))
        number = {Path(name).stem: i for i, name in enumerate(names)}
        boxes: dict[str, list[list[list[float]]]] = {kind: [[] for _ in names] for kind in KINDS}
        for row in table:
            sides = [float(row[side]) / _SHRUNK for side in ("xmin", "ymin", "xmax", "ymax")]
            box = [min(max(s, 0), end) for s, end in zip(sides, (_WIDTH, _HEIGHT) * 2, strict=True)]
            if box[0] < box[2] and box[1] < box[3]:
                boxes[row["class"]][number[Path(row["image"]).stem]].append(box)
    except (*DAMAGE, KeyError, ValueError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}); get it again.") from error
    if len(names) != _PICTURES:
        raise ValueError(f"{path} holds {len(names)} pictures, not {_PICTURES}; get it again.")
    tensors = {kind: [torch.tensor(rows).view(-1, 4) for rows in of] for kind, of in boxes.items()}
    return Smears(torch.from_numpy(images), tensors)


def _small(jpeg: bytes) -> np.ndarray:
    """A picture as uint8 [3, 120, 160]."""
    image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((_WIDTH, _HEIGHT), Image.Resampling.BOX)
    return np.asarray(image).transpose(2, 0, 1)


def made_up_cells(kind: str, *, pictures: int = 60, shots: Size = 1, queries: Size = 10, seed: int = 0) -> MarkedCells:
    """The stand-in: discs on a pale ground, many red ones, a few large violet ones, some small violet ones.

    Colours and sizes are of the order of real smears, shapes are discs, and every cell is marked. What is found here
    says nothing about blood.
    """
    generator = seeded(seed)
    looks = {  # colour, radius and how many there are at most
        "RBC": ((0.75, 0.55, 0.55), 12.0, 14),
        "WBC": ((0.50, 0.30, 0.65), 22.0, 1),
        "Platelets": ((0.55, 0.40, 0.68), 5.0, 3),
    }
    y, x = torch.arange(_HEIGHT)[:, None] + 0.5, torch.arange(_WIDTH) + 0.5
    images = torch.empty(pictures, 3, _HEIGHT, _WIDTH)
    boxes: dict[str, list[Tensor]] = {kind: [] for kind in KINDS}
    for image in images:
        light = 0.04 * torch.randn(3, 1, 1, generator=generator)  # each smear has its own
        image[:] = torch.tensor([0.85, 0.78, 0.74])[:, None, None] + light
        for name, (colour, radius, at_most) in looks.items():
            rows = []
            for _ in range(int(torch.randint(1, at_most + 1, (), generator=generator))):
                r = radius * float(torch.empty(()).uniform_(0.8, 1.2, generator=generator))
                cx, cy = (float(r + (end - 2 * r) * torch.rand((), generator=generator)) for end in (_WIDTH, _HEIGHT))
                shade = torch.tensor(colour) + 0.03 * torch.randn(3, generator=generator)
                disc = (x - cx) ** 2 + (y - cy) ** 2 < r**2
                image[:, disc] = shade[:, None] + light[..., 0]
                rows.append([cx - r, cy - r, cx + r, cy + r])
            boxes[name].append(torch.tensor(rows))
        image += 0.03 * torch.randn(image.shape, generator=generator)
    smears = Smears((images.clamp(0, 1) * 255).round().to(torch.uint8), boxes)
    return MarkedCells(smears, kind, shots=shots, queries=queries)
