"""Fewer classes to learn from: by group, or a number of them."""

from collections.abc import Sequence

import torch

from mlcore.tasks import ClassificationTasks, group_of, seeded
from mlcore.tasks.sizes import most


def of_groups(tasks: ClassificationTasks, groups: Sequence[str]) -> ClassificationTasks:
    """Only the classes of the groups named, such as alphabets.

    Raises:
        ValueError: a group without classes here.
    """
    here = {group_of(name) for name in tasks.classes}
    for group in groups:
        if group not in here:
            raise ValueError(f"there is no group {group!r} here; choose among {', '.join(sorted(here))}.")
    return tasks.select_classes(name for name in tasks.classes if group_of(name) in groups)


def fewer_classes(
    tasks: ClassificationTasks, number: int, *, whole_groups: bool = False, seed: int = 0
) -> ClassificationTasks:
    """``number`` classes drawn at random. With one seed, fewer classes are among more.

    Args:
        tasks: what to draw from.
        number: how many classes to keep.
        whole_groups: take one group after another, each with all its classes, instead of classes from anywhere.
        seed: of the draw.

    Raises:
        ValueError: fewer than ``tasks.ways`` or more than there are.
    """
    if not most(tasks.ways) <= number <= len(tasks.classes):
        raise ValueError(
            f"number={number} must be between ways={most(tasks.ways)} and the {len(tasks.classes)} classes there are."
        )
    order = [tasks.classes[i] for i in torch.randperm(len(tasks.classes), generator=seeded(seed)).tolist()]
    if whole_groups:
        groups = list(dict.fromkeys(map(group_of, order)))  # in the random order of their first classes
        order = sorted(order, key=lambda name: groups.index(group_of(name)))
    return tasks.select_classes(order[:number])
