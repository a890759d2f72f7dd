"""How far several processes go: seconds of a meta-training iteration on N ranks of one thread, and of its parts.

    python benchmarks/ranks.py

The ranks are processes that stay alive, joined by gloo as `torchrun` joins them, so that all numbers of ranks can take
turns in every round. Writes data/benchmarks/ranks.json, from which the book's page on clusters is made.
"""

import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from timing import save, summary
from torch import nn
from tqdm import tqdm

from mlcore import MAML, ClassificationTasks, Task, Tasks, conv4, meta_train, mlp, seeded
from mlcore.datasets import sinusoid
from mlcore.objective import cross_entropy, mse

ROUNDS = 5
CORES = os.cpu_count() or 1
RANKS = range(1, max(2, min(8, CORES)) + 1)
MESSAGES = (2, 1_000, 10_000, 100_000, 1_000_000)


def images(shots: int, queries: int) -> ClassificationTasks:
    """5-way tasks of as many images as Omniglot has, turned as its tasks are; costs do not depend on what they show."""
    x = torch.randint(256, (32_000, 1, 28, 28), dtype=torch.uint8, generator=seeded(0))
    y = torch.arange(1_600).repeat_interleave(20)
    return ClassificationTasks(x, y, shots=shots, queries=queries, rotations=True)


@dataclass(frozen=True)
class Shape:
    """A network, its tasks, and how many of them a meta-batch has; one inner step, second order."""

    name: str
    make: Callable[[], nn.Module]
    tasks: Callable[[], Tasks]
    meta_batch: int
    repeats: int  # of what is timed, in each round

    def learner(self) -> MAML:
        torch.manual_seed(0)
        regression = self.tasks is sinusoid_tasks
        return MAML(self.make(), inner_lr=0.01, loss_fn=mse if regression else cross_entropy)

    def sizes(self) -> list[int]:
        """Numbers of tasks whose meta-gradient is timed by itself: powers of two, and the whole meta-batch."""
        return [2**i for i in range(self.meta_batch.bit_length()) if 2**i < self.meta_batch] + [self.meta_batch]


sinusoid_tasks = partial(sinusoid, shots=10, queries=10)
SHAPES = [
    Shape("MLP 40-40, 25 × (10+10)", partial(mlp, 1, 40, 40, 1), sinusoid_tasks, 25, repeats=50),
    Shape("conv4 strided, 32 × (5+5)", partial(conv4, 1, 5), partial(images, 1, 1), 32, repeats=3),
    Shape("conv4 pooled, 16 × (25+75)", partial(conv4, 1, 5, downsample="pool"), partial(images, 5, 15), 16, repeats=1),
]


# What follows runs in the processes. A shape goes there as its position in SHAPES.


@cache
def tasks_of(shape: int) -> Tasks:
    return SHAPES[shape].tasks()


class Started(Tasks):
    """Tasks that remember when the first meta-batch was asked for: setting up is over then."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks, self.at, self.objective = tasks, math.nan, tasks.objective

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        if math.isnan(self.at):
            self.at = time.perf_counter()
        return self.tasks.sample(n_tasks, generator)


def mean_seconds(compute: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        compute()
    return (time.perf_counter() - start) / repeats


def warm_up(threads: int) -> None:
    """Whatever happens only once in a process."""
    found = torch.get_num_threads()
    if found != threads:
        raise RuntimeError(f"this process was to have {threads} threads but has {found}; is MKL_NUM_THREADS set?")
    for i, shape in enumerate(SHAPES):
        meta_train(shape.learner(), tasks_of(i), iterations=1, meta_batch=1, progress=False)


def iteration(shape: int) -> float:
    """Seconds of one iteration of meta_train, on all ranks of the process group there is."""
    tasks, repeats = Started(tasks_of(shape)), SHAPES[shape].repeats
    size = SHAPES[shape].meta_batch
    meta_train(SHAPES[shape].learner(), tasks, iterations=repeats, meta_batch=size, progress=False)
    return (time.perf_counter() - tasks.at) / repeats


def parts(shape: int) -> dict[str, float]:
    """Seconds of what an iteration is made of: the sample, the update, and meta-gradients of some numbers of tasks."""
    tasks, learner, repeats = tasks_of(shape), SHAPES[shape].learner().train(), SHAPES[shape].repeats
    batch = tasks.sample(SHAPES[shape].meta_batch, seeded(0))
    found = {"sample": mean_seconds(lambda: tasks.sample(SHAPES[shape].meta_batch, seeded(0)), repeats)}
    for size in SHAPES[shape].sizes():
        share = batch.each(lambda tensor, size=size: tensor[:size])
        found[str(size)] = mean_seconds(partial(learner.meta_backward, share, tasks.objective), repeats)
    descent = torch.optim.Adam(learner.parameters())

    def update() -> None:
        if all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None):
            descent.step()

    update()
    return found | {"update": mean_seconds(update, max(10, repeats))}


def reductions() -> list[float]:
    """Seconds of an all_reduce of each message, in double precision."""
    found = []
    for numbers in MESSAGES:
        message = torch.zeros(numbers, dtype=torch.float64)
        dist.all_reduce(message)
        found.append(mean_seconds(partial(dist.all_reduce, message), repeats=20))
    return found


def as_rank(rank: int, world: int, store: str, compute: Callable[..., object], *arguments: object) -> object:
    """Join the other ranks for one computation."""
    dist.init_process_group("gloo", init_method=Path(store).as_uri(), rank=rank, world_size=world)
    try:
        return compute(*arguments)
    finally:
        dist.destroy_process_group()


# What follows runs in the process that conducts them.


def started(threads: int) -> tuple[ProcessPoolExecutor, Future]:
    """A process that computes on so many threads, from its first import of torch on, and when it is warm."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    return pool, pool.submit(warm_up, threads)


def together(ranks: list[ProcessPoolExecutor], compute: Callable[..., object], *arguments: object) -> object:
    """The first rank's answer when all compute at the same time."""
    if len(ranks) == 1:
        return ranks[0].submit(compute, *arguments).result()
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder).resolve() / "store")
        jobs = [rank.submit(as_rank, i, len(ranks), store, compute, *arguments) for i, rank in enumerate(ranks)]
        first, *_ = [job.result() for job in jobs]  # all are waited for
        return first


def ring(rows: list[dict]) -> dict[str, float]:
    """Latency of a step and seconds a number of gloo's ring: 2(N-1) steps, each with an N-th of the d numbers."""
    steps = np.array([2 * (row["ranks"] - 1) for row in rows])
    share = np.array([row["numbers"] / row["ranks"] for row in rows])
    seconds = np.array([row["seconds"] for row in rows])
    # Divided by the seconds, so that relative errors count and short messages have a say.
    design = np.stack([steps, steps * share], 1) / seconds[:, None]
    latency, a_number = np.linalg.lstsq(design, np.ones(len(rows)), rcond=None)[0]
    return {"latency": max(0.0, float(latency)), "seconds_a_number": max(0.0, float(a_number))}


def message_size(learner: MAML) -> int:
    """Numbers that ranks exchange in an iteration: gradients, running statistics, the loss and the score."""
    averages = sum(b.numel() for b in learner.buffers() if b.is_floating_point())
    return sum(p.numel() for p in learner.parameters()) + averages + 2


def measure() -> tuple[list[dict], list[dict]]:
    """Rows of the shapes and rows of the reductions."""
    crew = [started(threads) for threads in (*[1] * len(RANKS), CORES)]
    for _, warm in crew:
        warm.result()
    *ranks, wide = [pool for pool, _ in crew]
    whole = {(i, n, threads): [] for i in range(len(SHAPES)) for n, threads in [*((n, 1) for n in RANKS), (1, CORES)]}
    pieces, reduced = [[] for _ in SHAPES], {n: [] for n in RANKS[1:]}
    with tqdm(total=ROUNDS * (len(whole) + len(pieces) + len(reduced)), desc="ranks") as bar:
        for _ in range(ROUNDS):
            for i in range(len(SHAPES)):
                pieces[i].append(ranks[0].submit(parts, i).result())
                bar.update()
            for (i, n, threads), seconds in whole.items():
                seconds.append(together(ranks[:n] if threads == 1 else [wide], iteration, i))
                bar.update()
            for n, seconds in reduced.items():
                seconds.append(together(ranks[:n], reductions))
                bar.update()
    for pool, _ in crew:
        pool.shutdown()
    shapes = [
        {
            "name": shape.name,
            "tasks": shape.meta_batch,
            "numbers": message_size(shape.learner()),
            "sample": summary(piece["sample"] for piece in pieces[i]),
            "update": summary(piece["update"] for piece in pieces[i]),
            "compute": [{"tasks": size} | summary(piece[str(size)] for piece in pieces[i]) for size in shape.sizes()],
            "iteration": [
                {"processes": n, "threads": threads} | summary(seconds)
                for (position, n, threads), seconds in whole.items()
                if position == i
            ],
        }
        for i, shape in enumerate(SHAPES)
    ]
    messages = [
        {"ranks": n, "numbers": numbers} | summary(values)
        for n, rounds in reduced.items()
        for numbers, values in zip(MESSAGES, zip(*rounds, strict=True), strict=True)
    ]
    return shapes, messages


def main() -> None:
    shapes, messages = measure()
    fit = ring(messages)
    measured = {"rounds": ROUNDS, "shapes": shapes, "all_reduce": {"messages": messages} | fit}
    save("ranks", ["torch"], measured)
    print(f"\n{'':28}{'processes × threads':>20}{'ms an iteration':>17}{'efficiency':>12}")
    for shape in shapes:
        alone = shape["iteration"][0]["seconds"]
        for row in shape["iteration"]:
            used = row["processes"] * row["threads"]
            ways = f"{row['processes']} × {row['threads']}"
            efficiency = alone / (used * row["seconds"])
            print(f"{shape['name']:28}{ways:>20}{1000 * row['seconds']:>17.1f}{efficiency:>12.2f}")
    print(f"all_reduce: {1e6 * fit['latency']:.0f} µs a step and {1e9 * fit['seconds_a_number']:.1f} ns a number")


if __name__ == "__main__":
    main()
