"""One shape for images of any source, so that a network of one can be asked about another."""

import copy

import torch.nn.functional as F

from mlcore.tasks import ClassificationTasks


def in_colour(tasks: ClassificationTasks, *, size: int = 32) -> ClassificationTasks:
    """The same tasks with images [3, size, size]: a rim of zeros, which is paper, around small ones; grey three times.

    Nothing is interpolated, so a stroke stays as it was drawn.

    Raises:
        ValueError: images that are larger, or have neither one channel nor three.

    Chapter: Far from home.
    """
    channels, height, width = tasks.x.shape[1:]
    if channels not in (1, 3) or max(height, width) > size:
        raise ValueError(
            f"images {[channels, height, width]} do not become [3, {size}, {size}]; give grey or colour images of at "
            f"most {size} pixels a side."
        )
    top, left = (size - height) // 2, (size - width) // 2
    other = copy.copy(tasks)
    padded = F.pad(tasks.x, (left, size - width - left, top, size - height - top))
    other.x = padded.expand(-1, 3, -1, -1)  # a view: no grey image is stored three times
    return other
