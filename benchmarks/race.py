"""mlcore beside other libraries: first the same numbers from all of them, then seconds and memory of each.

    make bench

Writes data/benchmarks/peers.json, from which the book takes its table.
"""

import math
import random
import statistics
from collections import deque
from functools import partial

import peers
import torch
from easyfsl.datasets import WrapFewShotDataset
from easyfsl.methods import PrototypicalNetworks
from grid import SHAPES, Shape, plain
from metalearn.dataset.classification_task import FewShotSampler, MetaTaskDataset
from processes import neural_processes
from timing import measured, save, seconds_of
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from mlcore import ClassificationTasks, Examples, ProtoNet, Task, conv4, datasets, evaluate, seeded

ROUNDS = 5
CHUNK_SIZES = (1, 4, 8, 16, 32)
LIBRARIES = ("higher", "torchopt", "parallel-metalearn", "easyfsl", "neuralprocesses", "torch")


def gradient(net: nn.Module) -> Tensor:
    """What a step left in ``.grad``, as one vector. A bias before a batch normalisation may have been left out."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in net.parameters()])


def contestants(
    net: nn.Module, experiment: peers.Experiment, chunk_size: int
) -> dict[str, tuple[peers.Step, nn.Module] | None]:
    """Every way to the same meta-gradient: a step, and the network that it leaves the gradient in."""
    return {
        "mlcore": peers.mlcore_step(net, experiment),
        "higher": peers.higher_step(net, experiment),
        "torchopt": peers.torchopt_step(net, experiment),
        "parallel-metalearn": peers.metalearn_step(net, experiment, chunk_size),
    }


def check(shape: Shape, experiment: peers.Experiment) -> None:
    """The same meta-gradient from all, in double precision on two tasks."""
    torch.manual_seed(0)
    batch, expected = shape.batch(2, torch.float64), None
    for name, made in contestants(plain(shape.make()).double(), experiment, chunk_size=2).items():
        if made is not None:
            step, net = made
            step(batch)
            found = gradient(net)
            expected = found if expected is None else expected
            error = ((found - expected).norm() / expected.norm()).item()
            if not error < 1e-10:
                raise SystemExit(f"{name} computes another meta-gradient on {shape.name}: relative difference {error}.")


def best_chunk_size(net: nn.Module, experiment: peers.Experiment, batch: Task) -> int:
    """How many tasks at once suit parallel-metalearn best, the best of three trials of each until it is too large."""
    sizes = sorted({min(size, batch.count) for size in CHUNK_SIZES})
    trials = {size: partial(peers.metalearn_step(net, experiment, size)[0], batch) for size in sizes}
    trials[sizes[0]]()  # warms up
    seconds: dict[int, float] = {}
    for size, trial in trials.items():
        seconds[size] = min(seconds_of(trial) for _ in range(3))
        if seconds[size] > 1.2 * min(seconds.values()):
            break
    return min(seconds, key=lambda size: seconds[size])


def meta_gradients(bar: tqdm) -> list[dict]:
    """Meta-training steps: all shapes, second and first order."""
    rows = []
    for shape in SHAPES:
        for first_order in (False, True):
            bar.set_postfix_str(shape.name, refresh=True)
            # A rate that single precision holds exactly, since one library keeps it so.
            experiment = peers.Experiment(2.0**-6, shape.steps, first_order, shape.loss_fn, shape.objective)
            check(shape, experiment)
            torch.manual_seed(0)
            batch = shape.batch(shape.tasks, torch.float32)
            net = plain(shape.make())
            chunk_size = best_chunk_size(net, experiment, batch)
            made = contestants(net, experiment, chunk_size)
            results = measured(
                {name: partial(pair[0], batch) for name, pair in made.items() if pair is not None}, ROUNDS
            )
            results["parallel-metalearn"]["chunk_size"] = chunk_size
            order = "first order" if first_order else "second order"
            rows.append({"what": f"{shape.name}, {order}", "libraries": results})
            bar.update()
    return rows


def omniglot_or_glyphs() -> tuple[ClassificationTasks, str]:
    """The test classes of Omniglot where it is found, else of the embedded data."""
    found = {entry.name for entry in datasets.describe() if entry.found}
    name = "omniglot" if "omniglot" in found else "glyphs"
    return datasets.load(name)[-1], name


def sampling(bar: tqdm) -> list[dict]:
    """Episodes drawn from the same images in memory, ours in meta-batches of four; none is kept."""
    pool, name = omniglot_or_glyphs()
    codes = pool.codes()
    x = pool.examples(codes)
    y = torch.arange(len(pool.classes)).repeat_interleave(torch.tensor([*pool.class_sizes.values()]))
    wrapped = WrapFewShotDataset(TensorDataset(x, y))
    wrapped.labels = y.tolist()
    metalearn = FewShotSampler(x.numpy(), y.numpy(), {i: str(i) for i in range(len(pool.classes))})
    rows, episodes = [], 64
    for ways, shots in ((5, 1), (20, 5)):
        ours = pool.replace(ways=ways, shots=shots, queries=15)
        sampler = peers.EasySampler(wrapped, n_way=ways, n_shot=shots, n_query=15, n_tasks=episodes)
        loader = DataLoader(wrapped, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
        theirs = MetaTaskDataset(metalearn, ways, shots, 15, max_classes=len(pool.classes))
        computations = {
            "mlcore": lambda tasks=ours: deque((tasks.sample(4, seeded(0, i)) for i in range(episodes // 4)), maxlen=0),
            "easyfsl": lambda loader=loader: deque(loader, maxlen=0),
            "parallel-metalearn": lambda tasks=theirs: deque((tasks[i] for i in range(episodes)), maxlen=0),
        }
        what = f"an episode of {ways}-way {shots}-shot with 15 queries, {name}"
        rows.append({"what": what, "libraries": measured(computations, ROUNDS, per=episodes)})
        bar.update()
    return rows


def prototypes(bar: tqdm) -> list[dict]:
    """A Prototypical Network scored on the same episodes; each image is in several of them."""
    pool, name = omniglot_or_glyphs()
    torch.manual_seed(0)
    rows, episodes = [], 200
    for ways, shots in ((5, 1), (20, 5)):
        tasks = pool.replace(ways=ways, shots=shots, queries=15)
        net = plain(conv4(1)).eval()
        ours, theirs = ProtoNet(net).eval(), PrototypicalNetworks(net).eval()
        drawn = [tasks.sample(1, seeded(0, 1, i)) for i in range(episodes)]

        @torch.no_grad()
        def score_theirs(drawn: list[Task] = drawn, theirs: nn.Module = theirs) -> list[float]:
            right = []
            for task in drawn:
                support, query = (Examples(half.x[0], half.y[0].argmax(-1)) for half in task)
                theirs.process_support_set(support.x, support.y)
                right.append((theirs(query.x).argmax(-1) == query.y).double().mean().item())
            return right

        mine = evaluate(ours, tasks, episodes=episodes).per_task
        difference = (mine - torch.tensor(score_theirs(), dtype=torch.float64)).abs().max().item()
        if difference > 2 / (15 * ways):  # a tie may fall either way
            raise SystemExit(f"easyfsl scores the same episodes otherwise: by up to {difference}.")
        computations = {
            "mlcore": lambda ours=ours, tasks=tasks: evaluate(ours, tasks, episodes=episodes),
            "easyfsl": score_theirs,
        }
        what = f"ProtoNet on {episodes} tasks, {ways}-way {shots}-shot, {name}"
        rows.append({"what": what, "libraries": measured(computations, ROUNDS)})
        bar.update()
    return rows


def main() -> None:
    random.seed(0)
    with tqdm(total=2 * len(SHAPES) + 8, desc="benchmarks") as bar:
        groups = {
            "neural processes": neural_processes(bar, ROUNDS),
            "sampling": sampling(bar),
            "evaluation": prototypes(bar),
            "meta-training step": meta_gradients(bar),
        }
    save("peers", LIBRARIES, {"rounds": ROUNDS, **groups})
    for group, rows in groups.items():
        print(f"\n{group}: seconds of each over those of mlcore")
        fastest = []
        for row in rows:
            ours = row["libraries"]["mlcore"]["seconds"]
            ratios = {name: entry["seconds"] / ours for name, entry in row["libraries"].items() if name != "mlcore"}
            fastest.append(min(ratios.values()))
            print(f"  {row['what']}: {1000 * ours:.3g} ms; {', '.join(f'{n} {r:.2f}×' for n, r in ratios.items())}")
        print(f"  geometric mean of the fastest other: {math.exp(statistics.fmean(map(math.log, fastest))):.2f}×")


if __name__ == "__main__":
    main()
