"""What MAML's relatives cost, as ratios to MAML within one run: a meta-update, an adaptation at test, and memory.

    python benchmarks/relatives.py

The methods take turns, so that whatever else the machine does hits all of them, and the median of each is compared.
Ratios move by some per cent from run to run; bytes do not move.
"""

import torch
from timing import measured

from mlcore import (
    ANIL,
    BOIL,
    IMAML,
    MAML,
    Examples,
    Learner,
    MAMLPlusPlus,
    MetaSGD,
    ProtoMAML,
    Reptile,
    Task,
    classification,
    conv4,
    rows,
)

WAYS, ROUNDS = 5, 5


def random_tasks(tasks: int) -> Task:
    """5-way 1-shot tasks of Omniglot's size, one query a class; costs do not depend on what the images show."""
    y = rows(torch.arange(WAYS)).expand(tasks, -1, -1)
    return Task(*(Examples(torch.rand(tasks, WAYS, 1, 28, 28), y) for _ in range(2)))


def learners(steps: int) -> dict[str, Learner]:
    """The methods on the network of the MAML code, with the same inner steps."""
    common = {"inner_lr": 0.1, "inner_steps": steps}
    return {
        "MAML": MAML(conv4(1, WAYS), **common),
        "FOMAML": MAML(conv4(1, WAYS), **common, first_order=True),
        "Meta-SGD": MetaSGD(conv4(1, WAYS), **common),
        "MAML++": MAMLPlusPlus(conv4(1, WAYS), **common),
        "ANIL": ANIL(conv4(1, WAYS), **common),
        "BOIL": BOIL(conv4(1, WAYS), **common),
        "Proto-MAML": ProtoMAML(conv4(1), **common),
        "iMAML": IMAML(conv4(1, WAYS), **common),
        "Reptile": Reptile(conv4(1, WAYS), **common),
    }


def main() -> None:
    torch.manual_seed(0)
    batch = random_tasks(8)
    threads = torch.get_num_threads()
    print(f"conv4, 8 tasks of 5-way 1-shot with one query a class; torch {torch.__version__}, {threads} threads")
    for steps in (1, 5):
        methods = learners(steps)
        training = measured(
            {name: lambda m=m: m.meta_backward(batch, classification) for name, m in methods.items()}, ROUNDS
        )
        for method in methods.values():
            method.eval()
        with torch.no_grad():
            inference = measured(
                {name: lambda m=m: m(batch, batch_norm="transductive") for name, m in methods.items()}, ROUNDS
            )
        maml = training["MAML"]
        milliseconds, at_test = (1000 * m["MAML"]["seconds"] for m in (training, inference))
        print(f"\n{steps} inner step{'s' * (steps > 1)}; MAML takes {milliseconds:.0f} ms a meta-update,")
        print(f"{at_test:.0f} ms to adapt and predict at test, and {maml['peak_mib']:.0f} MiB")
        print(f"{'':12}{'faster in training':>20}{'faster at test':>16}{'memory':>10}")
        for name in methods:
            ratios = [m["MAML"]["seconds"] / m[name]["seconds"] for m in (training, inference)]
            memory = training[name]["peak_mib"] / maml["peak_mib"]
            print(f"{name:12}{ratios[0]:>19.2f}×{ratios[1]:>15.2f}×{memory:>9.2f}×")


if __name__ == "__main__":
    main()
