"""Images as functions of the place: the tasks of neural processes on images (Garnelo, Rosenbaum et al., 2018)."""

import torch
from torch import Tensor

from mlcore.densities import density
from mlcore.objective import Objective
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size, most


class PixelTasks(Functions):
    """Every task is one image: some of its pixels are known, and others are asked for.

    An input is a place (row, column), each from -1 to 1, and a target the ink there, from 0 to 1. No pixel comes twice.

    Args:
        images: ``uint8`` [n, 1, size, size], of which a task draws one.
        shots, queries: known pixels and pixels asked for, or ranges, of which every batch draws one.

    Chapter: Predicting functions.
    """

    objective: Objective = density

    def __init__(self, images: Tensor, *, shots: Size = (10, 200), queries: Size = 200) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != 1:
            raise ValueError(f"images must be uint8 [n, 1, size, size], not {images.dtype} {list(images.shape)}.")
        self.images = images.flatten(1)
        axes = [torch.linspace(-1, 1, side) for side in images.shape[2:]]
        self.places = torch.cartesian_prod(*axes)  # [pixels, 2]
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"PixelTasks({len(self.images)} images; shots={self.shots}, queries={self.queries})"

    def check(self) -> None:
        """Refuse sizes that are none, and more pixels than an image has."""
        super().check()
        if most(self.shots) + most(self.queries) > len(self.places):
            raise ValueError(
                f"shots={self.shots} and queries={self.queries} are more than the {len(self.places)} pixels there are."
            )

    def draw(self, n_tasks: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Places [tasks, points, 2] and the ink there [tasks, points, 1], of a random image for each task."""
        which = torch.randint(len(self.images), (n_tasks, 1), generator=generator)
        pixels = torch.rand(n_tasks, len(self.places), generator=generator).topk(points).indices
        return self.places[pixels], self.images[which, pixels][..., None] / 255
