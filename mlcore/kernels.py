"""Covariances of Gaussian processes, of scale one, entry by entry (Rasmussen and Williams, 2006, chapter 4)."""

import math
from collections.abc import Callable

from torch import Tensor


def rbf(distance: Tensor, length: Tensor, period: Tensor | None = None) -> Tensor:
    """exp(-d²/2ℓ²)."""
    return (-(distance / length).square() / 2).exp()


def matern52(distance: Tensor, length: Tensor, period: Tensor | None = None) -> Tensor:
    """(1 + u + u²/3) exp(-u), with u = √5 d/ℓ."""
    u = math.sqrt(5) * distance.abs() / length
    return (1 + u + u.square() / 3) * (-u).exp()


def periodic(distance: Tensor, length: Tensor, period: Tensor | None = None) -> Tensor:
    """exp(-2 sin²(π d/p)/ℓ²)."""
    if period is None:
        raise ValueError("a periodic kernel needs a period.")
    return (-2 * ((math.pi * distance / period).sin() / length).square()).exp()


KERNELS: dict[str, Callable[..., Tensor]] = {"rbf": rbf, "matern52": matern52, "periodic": periodic}


def check_range(**ranges: tuple[float, float]) -> None:
    """Refuse what is no range of positive numbers."""
    for name, ends in ranges.items():
        if not (isinstance(ends, tuple) and len(ends) == 2 and 0 < ends[0] <= ends[1]):
            raise ValueError(f"{name}={ends} must be two positive numbers, the smaller one first.")
