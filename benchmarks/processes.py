"""Neural processes beside the package neuralprocesses (Bruinsma, 2024): the same shapes, as many parameters."""

from functools import partial

import neuralprocesses.torch as nps
import torch
from timing import measured
from torch import Tensor, nn
from tqdm import tqdm

from mlcore import Learner, Task, datasets, seeded
from mlcore.learners import CNP, AttentiveCNP

_TIMES = 20  # one step or prediction alone is over in milliseconds
_SIZES = {"dim_embedding": 128, "width": 128, "likelihood": "het"}

# Ours beside theirs, whose numbers of layers give as many parameters, within one in a hundred.
PAIRS = {
    "CNP": (CNP, partial(nps.construct_gnp, num_enc_layers=3, num_dec_layers=4, **_SIZES)),
    "attentive CNP": (AttentiveCNP, partial(nps.construct_agnp, num_enc_layers=5, num_dec_layers=6, **_SIZES)),
}


def turned(batch: Task) -> list[Tensor]:
    """Support inputs and targets, query inputs and targets, each [tasks, 1, points] as they have it."""
    return [tensor.mT.contiguous() for half in batch for tensor in half]


def our_step(learner: Learner, batch: Task) -> None:
    """The gradient of the mean negative log-likelihood."""
    learner.zero_grad()
    learner.meta_backward(batch, datasets.GaussianProcessTasks.objective)


def their_step(model: nn.Module, batch: Task) -> None:
    """The same of theirs."""
    model.zero_grad()
    (-nps.loglik(model, *turned(batch), normalise=True).mean()).backward()


def neural_processes(bar: tqdm, rounds: int) -> list[dict]:
    """A training step, and a prediction, for 16 functions of 24 points each, asked at 25."""
    batch = datasets.gaussian_process(shots=24, queries=25).sample(16, seeded(0))
    rows = []
    for name, (make, make_theirs) in PAIRS.items():
        torch.manual_seed(0)
        ours, theirs = make(), make_theirs()
        theirs(*turned(batch)[:3])  # its layers are made at the first call
        sizes = [sum(p.numel() for p in module.parameters()) for module in (ours, theirs)]
        if abs(sizes[0] / sizes[1] - 1) > 0.01:
            raise SystemExit(f"{name}: ours has {sizes[0]} parameters, neuralprocesses {sizes[1]}.")
        doing = {
            "training step": {"mlcore": partial(our_step, ours), "neuralprocesses": partial(their_step, theirs)},
            "prediction": {
                "mlcore": torch.no_grad()(ours),
                "neuralprocesses": torch.no_grad()(lambda batch, model=theirs: model(*turned(batch)[:3])),
            },
        }
        for what, computations in doing.items():
            repeated = {name: partial(_often, compute, batch) for name, compute in computations.items()}
            rows.append({"what": f"{name}, {what}", "libraries": measured(repeated, rounds, per=_TIMES)})
            bar.update()
    return rows


def _often(compute, batch: Task) -> None:
    for _ in range(_TIMES):
        compute(batch)
