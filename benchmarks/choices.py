"""What mlcore can choose for one meta-gradient: how tasks are mapped, and bfloat16. Seconds, memory and accuracy.

    python benchmarks/choices.py

Writes data/benchmarks/choices.json, from which the book takes its numbers.
"""

from functools import partial

import torch
from grid import SHAPES, Shape, plain
from timing import measured, save
from tqdm import tqdm

from mlcore import MAML, Score, conv4, datasets, evaluate, meta_train

ROUNDS, SEEDS = 4, 3
ITERATIONS, FILTERS, TASKS = 200, 16, 300
AT_ONCE = (1, 4, 16)


def compare(shape: Shape, first_order: bool) -> dict:
    """Seconds and peak memory of one meta-gradient: as mlcore chooses, some other mappings, and bfloat16."""
    torch.manual_seed(0)
    batch, net = shape.batch(shape.tasks, torch.float32), plain(shape.make())
    common = {"inner_lr": 2.0**-6, "inner_steps": shape.steps, "first_order": first_order}
    auto, half = MAML(net, **common), MAML(net, **common, bfloat16=True)
    chosen = auto.tasks_at_once(batch)
    ways = {"auto": auto, "bfloat16": half}
    ways |= {str(n): MAML(net, **common, mapping=n) for n in AT_ONCE if n != chosen}
    found = measured(
        {name: partial(learner.meta_backward, batch, shape.objective) for name, learner in ways.items()}, ROUNDS
    )
    return {"at_once": chosen, "choices": found}


def learn(seed: int, bfloat16: bool) -> Score:
    """A short meta-training on the embedded data, scored on validation classes."""
    train, val, _ = datasets.load("glyphs", queries=5)
    torch.manual_seed(seed)
    learner = MAML(conv4(1, 5, filters=FILTERS), inner_lr=0.5, bfloat16=bfloat16)
    meta_train(learner, train, iterations=ITERATIONS, outer_lr=3e-3, seed=seed, progress=False)
    return evaluate(learner, val, episodes=TASKS)


def main() -> None:
    convolutional = [shape for shape in SHAPES if shape.ways]
    rows, accuracies = [], []
    with tqdm(total=2 * len(convolutional) + SEEDS, desc="choices") as bar:
        for shape in convolutional:
            for first_order in (False, True):
                bar.set_postfix_str(shape.name, refresh=True)
                order = "first order" if first_order else "second order"
                rows.append({"what": f"{shape.name}, {order}"} | compare(shape, first_order))
                bar.update()
        for seed in range(SEEDS):
            scores = {"float32": learn(seed, False), "bfloat16": learn(seed, True)}
            accuracies.append({name: {"mean": score.mean, "ci95": score.ci95} for name, score in scores.items()})
            bar.update()
    accuracy = {"iterations": ITERATIONS, "filters": FILTERS, "tasks": TASKS, "seeds": accuracies}
    save("choices", ["torch"], {"rounds": ROUNDS, "meta-training step": rows, "accuracy": accuracy})
    for row in rows:
        seconds = {name: entry["seconds"] for name, entry in row["choices"].items()}
        chosen = seconds.pop("auto")
        ratios = ", ".join(f"{name} {value / chosen:.2f}×" for name, value in seconds.items())
        print(f"{row['what']}: {row['at_once']} at once, {1000 * chosen:.3g} ms; {ratios}")
    for seed, scores in enumerate(accuracies):
        print(f"seed {seed}: " + ", ".join(f"{n} {s['mean']:.3f} ± {s['ci95']:.3f}" for n, s in scores.items()))


if __name__ == "__main__":
    main()
