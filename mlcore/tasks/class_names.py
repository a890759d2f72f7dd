"""Names of classes: which group they are of, which of them make a part."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlcore.task import seeded

_NO_GROUPS = '{}=True needs classes named "group/class", such as "Greek/character03".'


def group_of(name: int | str) -> str:
    """The group of a class: "Greek" for "Greek/character03", and nothing for a name without one."""
    return str(name).rpartition("/")[0]


def turned(name: int | str, degrees: int) -> int | str:
    """The name of a class of turned images: "Greek@90/character03", so that a turned group is one of its own."""
    if not degrees:
        return name
    group, slash, rest = str(name).rpartition("/")
    return f"{group}@{degrees}{slash}{rest}" if slash else f"{rest}@{degrees}"


def positions(classes: Sequence[Any], wanted: Sequence[Any]) -> Tensor:
    """Where the classes named stand among all."""
    position = {name: i for i, name in enumerate(classes)}
    missing = [name for name in wanted if name not in position]
    if missing:
        examples = ", ".join(map(repr, classes[:3]))
        raise ValueError(
            f"there is no class {missing[0]!r} among the {len(position)} classes here, such as {examples}."
        )
    if len(set(wanted)) < len(wanted):
        raise ValueError("a class is named twice; name each class once.")
    return torch.tensor([position[name] for name in wanted], dtype=torch.int64)


def large_groups(classes: Iterable[Any], ways: int) -> Tensor:
    """For each class the number of its group among those with at least ``ways`` classes, else -1."""
    names = [group_of(name) for name in classes]
    sizes = Counter(names)
    if "" in sizes:
        raise ValueError(_NO_GROUPS.format("within_groups"))
    large = sorted(name for name, size in sizes.items() if size >= ways)
    if not large:
        largest, size = sizes.most_common(1)[0]
        raise ValueError(f"ways={ways}, but the largest group, {largest!r}, has {size} classes; lower ways.")
    return torch.tensor([large.index(name) if name in large else -1 for name in names])


def parted(
    classes: Sequence[Any], fractions: Sequence[float], seed: int, *, whole_groups: bool, ways: int
) -> list[list[Any]]:
    """Disjoint random sets of classes, or of whole groups of them, one for each fraction, of ``ways`` or more each."""
    if min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
        raise ValueError(f"fractions must be positive and sum to at most 1, not {tuple(fractions)}.")
    unit = [group_of(name) for name in classes] if whole_groups else classes
    if whole_groups and "" in unit:
        raise ValueError(_NO_GROUPS.format("whole_groups"))
    units = list(dict.fromkeys(unit))
    order = torch.randperm(len(units), generator=seeded(seed)).tolist()
    edges = [round(float(edge) * len(order)) for edge in np.cumsum([0.0, *fractions])]
    parts = []
    for fraction, (start, stop) in zip(fractions, pairwise(edges), strict=True):
        chosen = {units[i] for i in order[start:stop]}
        parts.append([name for name, of in zip(classes, unit, strict=True) if of in chosen])
        if len(parts[-1]) < ways:
            raise ValueError(
                f"the fraction {fraction} of {len(order)} {'groups' if whole_groups else 'classes'} holds "
                f"{len(parts[-1])} classes, fewer than ways={ways}; enlarge the fraction or lower ways."
            )
    return parts
