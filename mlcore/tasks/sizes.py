"""Sizes of tasks, which may be ranges, and what samplers refuse."""

from typing import Any

import numpy as np
import torch

Size = int | tuple[int, int]
"""A number of ways, shots or queries; or the least and the most, of which each batch draws one."""

_NAMES = ("ways", "shots", "queries")


def check_positive(*, at_least: int = 1, **sizes: Size) -> None:
    """Refuse sizes that are not whole numbers of at least 1, or of what ``at_least`` says, or ranges of them."""
    for name, value in sizes.items():
        ends = value if isinstance(value, tuple) else (value,)
        if not all(isinstance(end, int | np.integer) and end >= at_least for end in ends):
            raise ValueError(f"{name} must be at least {at_least}, and whole, not {value!r}.")
        if len(ends) > 2 or ends[0] > ends[-1]:
            raise ValueError(f"{name}={value} is no range; give the least and the most, such as {name}=(1, 5).")


def least(size: Size) -> int:
    """The smallest that a size may become."""
    return size[0] if isinstance(size, tuple) else size


def most(size: Size) -> int:
    """The largest that a size may become."""
    return size[1] if isinstance(size, tuple) else size


def one(size: Size) -> int:
    """A size that must not be a range.

    Raises:
        ValueError: it is one.
    """
    if isinstance(size, tuple):
        raise ValueError(f"{size} is a range, of which sample() draws a size; name one here: replace(…={size[0]}).")
    return size


def vary(tasks: Any) -> bool:
    """Whether a size of these tasks is a range."""
    return any(isinstance(getattr(tasks, name, None), tuple) for name in _NAMES)


def settled(tasks: Any, generator: torch.Generator) -> Any:
    """The same tasks with one size drawn for each range; without ranges themselves, and nothing is drawn."""
    check_generator(generator)
    if not vary(tasks):
        return tasks
    ranges = {name: size for name in _NAMES if isinstance(size := getattr(tasks, name, None), tuple)}
    draw = {name: int(torch.randint(a, b + 1, (), generator=generator)) for name, (a, b) in ranges.items()}
    return tasks.replace(**draw)


def check_generator(generator: torch.Generator) -> None:
    """Refuse what is no generator."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"sample() needs a torch.Generator, not {generator!r}; write seeded(0).")
