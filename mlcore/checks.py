"""One sentence for what does not fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from mlcore.task import Examples, Task


def check_task(task: Any) -> None:
    """Refuse a batch whose tensors do not fit each other."""
    if not isinstance(task, Task):
        raise TypeError(
            f"a learner is called on a Task, such as tasks.sample(4, seeded(0)), not {type(task).__name__}."
        )
    leaves = [(f"task{keystr(path)}", leaf) for path, leaf in tree_flatten_with_path(task)[0]]
    for name, leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(leaf).__name__}.")
    if not leaves:
        raise ValueError("the task holds no tensors.")
    tasks = len(leaves[0][1]) if leaves[0][1].dim() else 0
    for name, leaf in leaves:
        if leaf.dim() < 1 or len(leaf) != tasks or not tasks:
            raise ValueError(
                f"{name} has shape {list(leaf.shape)}, but must be [{tasks or 'n'} tasks, ...]; "
                "a single task needs a leading dimension of 1: x[None]."
            )
    for half, examples in (("support", task.support), ("query", task.query)):
        if isinstance(examples, Examples) and isinstance(examples.x, Tensor) and isinstance(examples.y, Tensor):
            check_examples(half, examples.x, examples.y)


def check_examples(half: str, x: Tensor, y: Tensor) -> None:
    """Refuse inputs [tasks, n, *input] and targets [tasks, n, ...] that are not equally many."""
    for name, tensor, least in ((f"{half}.x", x, 3), (f"{half}.y", y, 2)):
        if tensor.dim() < least:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, but must be [tasks, examples, ...]; a single task needs a "
                "leading dimension of 1: x[None]."
            )
    if y.dim() == 2 and y.dtype == torch.int64:
        raise TypeError(f"{half}.y holds labels [tasks, examples]; give one-hot rows: rows(labels, ways).")
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{half}.x has {x.shape[1]} examples a task but {half}.y has {y.shape[1]}.")


@contextmanager
def explained(net: nn.Module, x: Tensor) -> Iterator[None]:
    """Within the block, torch's error about examples x [n, *input] that ``net`` cannot take comes in one sentence."""
    try:
        yield
    except RuntimeError:
        check_input(net, x)
        raise


def check_input(net: nn.Module, x: Tensor) -> None:
    """Refuse examples x [n, *input] that the first layer of ``net``, by itself, cannot take."""
    with_weights = (m for m in net.modules() if next(m.parameters(recurse=False), None) is not None)
    first = next(with_weights, None)
    if not isinstance(first, nn.Conv2d | nn.Linear):
        return
    if x.dtype != (wanted := first.weight.dtype):
        fix = "x.float() / 255" if x.dtype == torch.uint8 else f"x.to({wanted})"
        raise TypeError(f"the examples are {x.dtype} but the network's weights {wanted}; convert: {fix}.")
    image = list(x.shape[1:])
    if isinstance(first, nn.Conv2d) and (len(image) != 3 or image[0] != first.in_channels):
        fix = "change the images or the network's in_channels"
        if len(image) == 2:
            fix = "add a channel: x.unsqueeze(-3)"
        elif image and image[-1] == first.in_channels:
            fix = "put channels first: x.movedim(-1, -3)"
        raise ValueError(
            f"an example has shape {image}, but the network's first layer needs images "
            f"[{first.in_channels} channel{'s' * (first.in_channels > 1)}, height, width]; {fix}."
        )
