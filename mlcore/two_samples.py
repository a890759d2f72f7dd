"""Do two samples come from one distribution? Two statistics, and the permutation test that makes them a test."""

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from mlcore.task import seeded


def mmd(x: Tensor, y: Tensor, scale: float | None = None) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy (Gretton et al., 2012, equation 3): a number.

    With a Gaussian kernel. It is 0 on average where both samples come from one distribution, so it may be negative.

    Args:
        x, y: samples [n, features] and [m, features].
        scale: of the kernel; the median distance in both samples by default.

    Raises:
        ValueError: fewer than two points.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-mmd`.
    """
    _check(x, y)
    distance = torch.cdist(torch.cat([x, y]), torch.cat([x, y]))
    n, m = len(x), len(y)
    if scale is None:
        above = torch.ones_like(distance, dtype=torch.bool).triu(1)
        scale = float(distance[above].median())
    kernel = (-(distance / scale).square() / 2).exp()
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return within - 2 * kernel[:n, n:].mean()


def neighbours_of_own_kind(x: Tensor, y: Tensor) -> Tensor:
    """The share of points whose nearest neighbour is of their own sample (Lopez-Paz and Oquab, 2017): a number.

    Near 1/2 for equally large samples of one distribution. Near 1 they are told apart; far below 1/2 one is a copy of
    the other.

    Args:
        x, y: samples [n, features] and [m, features].

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-mmd`.
    """
    _check(x, y)
    both = torch.cat([x, y])
    first = torch.arange(len(both)) < len(x)
    nearest = torch.cdist(both, both).fill_diagonal_(torch.inf).argmin(1)
    return (first[nearest] == first).double().mean()


def permutation_test(
    x: Tensor,
    y: Tensor,
    statistic: Callable[[Tensor, Tensor], Tensor] = mmd,
    *,
    permutations: int = 200,
    generator: Generator | None = None,
) -> float:
    """The share of random regroupings with a statistic as large as this one: a p-value, exact in its level.

    Args:
        x, y: samples [n, features] and [m, features].
        statistic: large where samples differ.
        permutations: how many regroupings.
        generator: draws them; that of seed 0 by default.
    """
    _check(x, y)
    generator = generator or seeded(0)
    both, seen = torch.cat([x, y]), float(statistic(x, y))
    larger = 1  # the grouping at hand is one of them
    for _ in range(permutations):
        mixed = both[torch.randperm(len(both), generator=generator)]
        larger += float(statistic(mixed[: len(x)], mixed[len(x) :])) >= seen
    return larger / (permutations + 1)


def _check(x: Tensor, y: Tensor) -> None:
    if x.dim() != 2 or y.dim() != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(
            f"samples of shapes {list(x.shape)} and {list(y.shape)} cannot be compared; both must be [n, features] "
            "with at least two points."
        )
