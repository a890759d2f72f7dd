"""Seconds of several computations, measured so that they can be compared."""

import statistics
import time
from collections.abc import Callable


def in_turns(computations: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each in every round. They take turns, so that whatever else the machine does hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in computations}
    for _ in range(rounds + 1):
        for name, compute in computations.items():
            start = time.perf_counter()
            compute()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[1:] for name, values in seconds.items()}  # the first round warms up


def medians(computations: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median over rounds of each."""
    return {name: statistics.median(values) for name, values in in_turns(computations, rounds).items()}
