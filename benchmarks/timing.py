"""Seconds of several computations, measured so that they can be compared, and where they are kept."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

import torch

from mlcore.experiments.provenance import processor
from mlcore.files import repository_data, write_atomically
from mlcore.profiling import peak_memory


def seconds_of(compute: Callable[[], object]) -> float:
    """Seconds of one computation."""
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


def summary(values: Iterable[float]) -> dict[str, float | list[float]]:
    """Median and range of seconds."""
    values = list(values)
    return {"seconds": statistics.median(values), "range": [min(values), max(values)]}


def measured(computations: dict[str, Callable[[], object]], rounds: int, per: int = 1) -> dict[str, dict]:
    """Seconds, divided by ``per``, and peak memory of each.

    In every round they take turns, so that whatever else the machine does hits all of them.
    """
    peaks = {name: peak_memory(compute) for name, compute in computations.items()}  # this warms up, too
    turns = [{name: seconds_of(compute) / per for name, compute in computations.items()} for _ in range(rounds)]
    return {name: summary(turn[name] for turn in turns) | {"peak_mib": peaks[name] / 2**20} for name in computations}


def save(name: str, libraries: Iterable[str], measured: dict) -> None:
    """Write data/benchmarks/<name>.json: the machine, versions of the libraries, and what was measured."""
    machine = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
    }
    record = {
        "machine": machine,
        "versions": {library: version(library) for library in libraries} | {"python": platform.python_version()},
        **measured,
    }
    path = (repository_data() or Path("data")) / "benchmarks" / f"{name}.json"
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(record, indent=1) + "\n"))
