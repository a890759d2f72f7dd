"""Modified Hausdorff distance, the baseline of the Omniglot challenge (Dubuisson and Jain, 1994; Lake et al., 2015)."""

from typing import Any

import torch
from torch import Tensor

from mlcore.learner import Learner
from mlcore.task import Examples


class ModifiedHausdorff(Learner):
    """Give a query the class of the drawing whose ink is nearest, point by point, after centring both drawings.

    d(A, B) is the larger of two means: over the points of A, of the distance to the nearest point of B; and the
    reverse (Dubuisson and Jain, 1994, equations 6 and 8). Images are bitmaps with ink = 1. With several shots the
    nearest one counts.

    Derived in: The Omniglot challenge, :eq:`eq-hausdorff`.
    """

    def __init__(self) -> None:
        super().__init__(mapping="loop")  # drawings differ in how many points they have

    def update(self, state: Any, data: Examples) -> tuple[list[Tensor], Tensor]:
        """The points of each support drawing, and their classes."""
        return [_points(image) for image in data.x], data.y

    def predict(self, state: tuple[list[Tensor], Tensor], x: Tensor) -> Tensor:
        """Minus the distance to the nearest drawing of each class: [n, ways]."""
        drawings, support_y = state
        queries = [_points(image) for image in x]
        nearness = -torch.stack([torch.stack([modified_hausdorff(a, b) for b in drawings]) for a in queries])
        return torch.where(support_y.mT.bool(), nearness[:, None], -torch.inf).amax(-1)


def modified_hausdorff(a: Tensor, b: Tensor) -> Tensor:
    """The distance between two sets of points [n, 2] and [m, 2]."""
    distances = torch.cdist(a, b)
    return torch.maximum(distances.amin(1).mean(), distances.amin(0).mean())


def _points(image: Tensor) -> Tensor:
    """Where the ink of an image [1, height, width] is, relative to its centre of mass: [points, 2]."""
    points = (image[0] > 0.5).nonzero().float()
    if not len(points):
        raise ValueError("a drawing has no ink above 0.5, so it has no points to compare; ink must be 1, paper 0.")
    return points - points.mean(0)
