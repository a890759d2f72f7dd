"""Examples as a frozen network sees them, embedded once."""

import copy

import torch
from torch import Tensor, nn

from mlcore.learner import in_evaluation_mode
from mlcore.tasks import ClassificationTasks
from mlcore.tasks.labelled import scaled


@torch.no_grad()
def features_of(x: Tensor, net: nn.Module) -> Tensor:
    """Embeddings [n, features] of examples x [n, *input], by running statistics.

    Chapter: With words.
    """
    with in_evaluation_mode(net):
        return torch.cat([net(scaled(part)) for part in x.split(256)])


def in_features(tasks: ClassificationTasks, z: Tensor) -> ClassificationTasks:
    """The same tasks with embeddings z [n, features] in place of their n examples ``tasks.x``.

    Raises:
        ValueError: not as many embeddings as examples.

    Chapter: With words.
    """
    if len(z) != len(tasks.x):
        raise ValueError(f"there are {len(tasks.x)} examples but {len(z)} embeddings; make them of tasks.x.")
    other = copy.copy(tasks)
    other.x = z
    return other
