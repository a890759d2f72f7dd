"""One-shot segmentation: find a character, shown once, on a canvas crowded with others."""

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcore.objective import Objective
from mlcore.segmentation import segmentation
from mlcore.task import Examples, Task
from mlcore.tasks.episodes import ClassificationTasks
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size, check_generator, check_positive, most

_TURN, _SHEAR, _LARGEST = math.radians(20), math.radians(10), 2.0  # as in the paper's code
_INK = 0.35  # of the paper's bitmaps, of which a reduced drawing keeps thin strokes
_CELLS = 3  # a canvas is as wide as so many drawings


class Canvases(Functions):
    """Cluttered canvases: a task is one character, known from a drawing or a few and their masks.

    A query is a canvas with another drawing of the character on top of drawings of other characters, and the target is
    the mask of that drawing. Every drawing has one colour of its own, is turned by up to 20°, sheared by up to 10° and
    stretched along each axis by a factor from 1/2 to 2; a support drawing is not stretched, as in the code of Michaelis
    et al. (2018). Theirs are canvases of 96 pixels, and a character may be its own clutter.

    Shapes: support ``x`` [tasks, shots, 3, side / 2, side / 2] and ``y`` [tasks, shots, side / 2, side / 2], query
    ``x`` [tasks, queries, 3, side, side] and ``y`` [tasks, queries, side, side]; masks of zeros and ones.

    Args:
        tasks: images [n, 1, height, width] and their classes, such as those of :func:`mlcore.datasets.glyphs`; its
            ways, shots and queries do not matter.
        characters: on a canvas, the one that is looked for among them, or a range, of which every batch draws one, each
            doubling being equally likely.
        shots, queries: support drawings and canvases of a task.
        side: of a canvas, in pixels.
        noise: standard deviation of what is added to each number of a picture.

    Raises:
        ValueError: sizes that are none, or a canvas that is too small for its drawings.

    Derived in: Find it, outline it, :eq:`eq-find-task`.
    """

    objective: Objective = segmentation

    def __init__(
        self,
        tasks: ClassificationTasks,
        *,
        characters: Size = 4,
        shots: Size = 1,
        queries: Size = 1,
        side: int = 64,
        noise: float = 0.0,
    ) -> None:
        self.tasks, self.characters, self.side, self.noise = tasks, characters, side, noise
        super().__init__(shots, queries)

    def check(self) -> None:
        """Refuse sizes that are none, and more drawings than a class has."""
        super().check()
        check_positive(characters=self.characters)
        if self.side < 32 or self.side % 16:
            raise ValueError(f"side={self.side} must be a multiple of 16 and at least 32; use side=64.")
        if self.noise < 0:
            raise ValueError(f"noise={self.noise} must not be negative.")
        self.tasks.replace(ways=2, shots=most(self.shots), queries=most(self.queries))  # refuses what is too much

    def __repr__(self) -> str:
        return (
            f"Canvases({len(self.tasks.classes)} classes; characters={self.characters}, shots={self.shots}, "
            f"queries={self.queries}, side={self.side})"
        )

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` characters and their canvases; equal generators give equal tasks."""
        shots, queries = self.sizes(generator)
        others = self._characters(generator) - 1
        classes = torch.randint(len(self.tasks.classes), (n_tasks, 1), generator=generator)
        own = self.tasks.replace(ways=1, shots=shots, queries=queries)
        drawings = self.tasks.examples(own.draw_examples(classes, generator)[:, 0])[:, :, 0]
        known, hidden = drawings[:, :shots], drawings[:, shots:]
        clutter = self._others(classes, queries * others, generator)
        clutter = clutter.view(n_tasks, queries, others, *clutter.shape[2:])
        support = self._pictures(known[:, :, None], self.side // 2, 1.0, generator)
        query = self._pictures(torch.cat([clutter, hidden[:, :, None]], 2), self.side, _LARGEST, generator)
        return Task(Examples(*support), Examples(*query)).to(self._device)

    def _characters(self, generator: torch.Generator) -> int:
        check_generator(generator)
        if not isinstance(self.characters, tuple):
            return self.characters
        low, high = self.characters
        return round(low * (high / low) ** torch.rand((), generator=generator).item())

    def _others(self, classes: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """``n`` drawings of characters that are not a task's own: [tasks, n, height, width]."""
        beside = torch.randint(1, len(self.tasks.classes), (len(classes), n), generator=generator)
        single = self.tasks.replace(ways=1, shots=1, queries=1)
        codes = single.draw_examples((classes + beside) % len(self.tasks.classes), generator)[..., 0]
        return self.tasks.examples(codes)[:, :, 0]

    def _pictures(
        self, drawings: Tensor, size: int, largest: float, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Drawings [tasks, n, characters, height, width], the later above the earlier, and the mask of the last."""
        shape = drawings.shape[:3]
        ink = placed(drawings.flatten(0, 2), size, self.side / _CELLS, largest, generator).view(*shape, size, size)
        colours = torch.rand(*shape, 3, generator=generator)
        above = (ink * torch.arange(1, shape[2] + 1, dtype=torch.uint8)[:, None, None]).amax(2).long()  # 0 is paper
        palette = torch.cat([torch.zeros(*shape[:2], 1, 3), colours], 2)
        x = palette.gather(2, above.flatten(2)[..., None].expand(-1, -1, -1, 3)).mT.reshape(*shape[:2], 3, size, size)
        if self.noise:
            x = x + self.noise * torch.randn(x.shape, generator=generator)
        return x, ink[:, :, -1].float()

    def replace(self, *, characters: Size | None = None, noise: float | None = None, **sizes: Any) -> Self:
        """The same distribution with other ``characters``, ``noise``, ``shots`` or ``queries``."""
        other = super().replace(**sizes)
        other.characters = self.characters if characters is None else characters
        other.noise = self.noise if noise is None else noise
        other.check()
        return other


def placed(drawings: Tensor, size: int, width: float, largest: float, generator: torch.Generator) -> Tensor:
    """Each drawing [n, height, width] turned, sheared, stretched and put somewhere: ink, uint8 [n, size, size].

    Args:
        drawings: ink from 0 to 1.
        size: pixels a side of what it is put on, within which all of its ink stays.
        width: of an unstretched drawing, in pixels.
        largest: stretches are powers of it, with exponents uniform on [-1, 1]; with 1 it is put in the middle.
        generator: of all that is random.
    """
    n = len(drawings)

    def uniform(bound: float) -> Tensor:
        return bound * (2 * torch.rand(n, generator=generator) - 1)

    turn, shear, wide, high = uniform(_TURN), uniform(_SHEAR), *(uniform(math.log(largest)).exp() for _ in range(2))
    # Columns: where the drawing's two axes go, the turn and the shear as the paper's code combines them.
    axes = torch.stack(
        [
            torch.stack([wide * (turn + shear).cos(), high * (turn - shear).sin()], -1),
            torch.stack([-wide * (turn + shear).sin(), high * (turn - shear).cos()], -1),
        ],
        1,
    ) * (width / size)  # [n, 2, 2], in halves of the canvas
    centre, half = _extents(drawings > _INK)
    room = (1 - (axes.abs() @ half[..., None])[..., 0]).clamp(min=0)  # how far its middle may be from the canvas's
    middle = room * (2 * torch.rand(n, 2, generator=generator) - 1) if largest > 1 else torch.zeros(n, 2)
    back = torch.linalg.inv(axes)
    affine = torch.cat([back, centre[..., None] - back @ middle[..., None]], -1)
    grid = F.affine_grid(affine, [n, 1, size, size], align_corners=False)
    return (F.grid_sample(drawings[:, None], grid, align_corners=False)[:, 0] > _INK).to(torch.uint8)


def _extents(ink: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half width of the box around the ink of drawings [n, height, width], as (x, y), a drawing being 2."""
    ends = []
    for along in (1, 2):
        seen = ink.any(along).to(torch.uint8)  # [n, columns], then [n, rows]
        size = seen.shape[1]
        first, last = seen.argmax(1), size - seen.flip(1).argmax(1)
        ends.append(((first + last) / size - 1, (last - first) / size))
    centres, halves = zip(*ends, strict=True)
    return torch.stack(centres, -1), torch.stack(halves, -1)
