"""How a function of one task is computed for a batch of tasks: all at once by ``vmap``, in chunks, or in a loop."""

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mlcore.task import Task

Mapping = Literal["auto", "vmap", "loop"] | int

# Of convolutions on a CPU, measured: numbers in a task's first layer from which a loop is as fast and holds less, and
# how many smaller tasks are worth mapping at once.
_ALONE, _TOGETHER = 500_000, 16


def check_mapping(mapping: Mapping) -> None:
    """Refuse what is no way to map."""
    if mapping not in ("auto", "vmap", "loop") and not (isinstance(mapping, int) and mapping > 0):
        raise ValueError(f"mapping must be 'auto', 'vmap', 'loop' or a number of tasks, not {mapping!r}.")


def tasks_at_once(mapping: Mapping, module: nn.Module, task: Task) -> int:
    """How many tasks are mapped at once: the rule behind ``"auto"``, see :class:`~mlcore.learner.Learner`.

    Chapter: Where the time goes.
    """
    if mapping == "loop":
        return 1
    if isinstance(mapping, int):
        return mapping
    convolution = next((m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)), None)
    images = [leaf for leaf in tree_leaves((task.support, task.query)) if leaf.dim() > 3]
    if mapping == "vmap" or convolution is None or not images or images[0].device.type != "cpu":
        return task.count
    examples = sum(image.shape[1] for image in images)
    pixels = max(1, math.prod(images[0].shape[3:]) // math.prod(convolution.stride))
    numbers = examples * convolution.out_channels * pixels  # in the first layer
    return 1 if numbers >= _ALONE else _TOGETHER


def map_tasks(one: Callable[..., Any], parts: tuple[Any, ...], at_once: int) -> Any:
    """``one(*parts)`` for every task, its results stacked; ``parts`` lead with the tasks dimension."""
    if at_once > 1:
        return torch.vmap(one, randomness="different", chunk_size=at_once)(*parts)
    count = len(tree_leaves(parts)[0])
    results = [one(*tree_map(lambda tensor, i=i: channels_last(tensor[i]), parts)) for i in range(count)]
    return tree_map(lambda *tensors: torch.stack(tensors), *results)


def channels_last(x: Tensor) -> Tensor:
    """The same numbers; those of images on a CPU lie channels last, which convolutions take less time for.

    An image of one channel has both layouts, and torch takes it for the other one unless the strides say.
    """
    if x.dim() != 4 or x.device.type != "cpu" or not x.is_floating_point():
        return x
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def map_or_loop(one: Callable[..., Any], parts: tuple[Any, ...], at_once: int, mapping: Mapping) -> tuple[Any, bool]:
    """:func:`map_tasks`; where ``vmap`` cannot and ``mapping`` is ``"auto"``, in a loop, which is said once.

    Gives the results, and whether ``vmap`` failed.

    Raises:
        RuntimeError: ``vmap`` cannot, and was asked for.
    """
    try:
        return map_tasks(one, parts, at_once), False
    except (RuntimeError, NotImplementedError, ValueError) as error:
        if at_once == 1 or not _is_vmaps(error):
            raise
        why = str(error).splitlines()[0]
        if mapping != "auto":
            raise RuntimeError(f"vmap cannot compute this learner ({why}); mapping='loop' can.") from error
    results = map_tasks(one, parts, 1)
    warnings.warn(f"vmap cannot compute this learner ({why}); tasks are taken one after another.", stacklevel=4)
    return results, True


def _is_vmaps(error: Exception) -> bool:
    """Whether an error is about vmap, and not about the tensors."""
    words = ("vmap", "functorch", "batching rule", "batchedtensor", "data-dependent", "torch.func")
    return any(word in str(error).lower() for word in words)


def first_tensor(tree: Any) -> Tensor:
    """The first tensor in a tree."""
    return tree_leaves(tree)[0]
