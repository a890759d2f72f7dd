"""Experiments of the amortised chapters: learners that read a support set in one pass."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mlcore.datasets import load
from mlcore.densities import Gaussian
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learners import (
    CNP,
    MANN,
    SNAIL,
    Alpaca,
    AttentiveCNP,
    EnsembleMAML,
    FiLM,
    InContext,
    LSTMLearner,
    PriorFitted,
    Tadam,
    TransformerNP,
    Versa,
)
from mlcore.learners.frozen import FrozenNet
from mlcore.nets import conv4, mlp, resnet12
from mlcore.task import Examples, Task, Tasks


def _gaussian_process(
    name: str, title: str, paper: str, learner: Any, *, published: str | None = None, iterations: int
) -> Recipe:
    """One-dimensional functions as in Lee et al. (2020) and Nguyen and Grover (2022), trained on the RBF kernel.

    There: 100,000 updates of 16 tasks, and a test on 3,000 batches of 16; here a task is a batch of its own.
    """
    kernels = {"rbf": "RBF kernel", "matern52": "Matérn kernel", "periodic": "periodic kernel"}
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "gaussian_process", kernel="rbf"),
        net=None,
        learner=learner,
        training={"meta_batch": 16, "outer_lr": 5e-4, "decay": "cosine"},
        evaluations=tuple(
            Evaluation(
                words,
                published=published and f"nguyen2022tnp/gp-{kernel}-{published}",
                on=None if kernel == "rbf" else partial(load, "gaussian_process", kernel=kernel),
            )
            for kernel, words in kernels.items()
        ),
        profiles=profiles(iterations, val_every=5_000, episodes=3_000, quick=(500, 200)),
    )


def _pixels(name: str, title: str, paper: str, learner: Any, *, iterations: int) -> Recipe:
    """Letters as functions of the place, completed from few pixels, in scripts that training never saw."""
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "pixels", of="glyphs"),
        net=None,
        learner=learner,
        training={"meta_batch": 8, "outer_lr": 2e-3, "decay": "cosine", "clip_norm": 1.0},
        evaluations=tuple(
            Evaluation(f"{shots} pixels known", sizes={"shots": shots, "queries": 400}) for shots in (10, 50, 100, 200)
        ),
        profiles=profiles(iterations, val_every=1_000, episodes=300, quick=(200, 100)),
    )


def _in_context(
    name: str, title: str, *, on: dict[str, Any], data: dict[str, Any], iterations: int, **settings: Any
) -> Recipe:
    """A transformer on linear regression, tested after several numbers of examples on the tasks of ``on``, by name."""
    dims, shots = data["dims"], data["shots"]
    lengths = [k for k in (1, 2, 3, 4, 5, 6, 8, 10) if k <= shots]
    return Recipe(
        name=name,
        title=title,
        paper="garg2022incontext",
        tasks=partial(load, "linear_regression", **data),
        net=None,
        learner=partial(InContext, dims, **settings),
        training={"meta_batch": 64, "outer_lr": 1e-3, "decay": "cosine", "clip_norm": 1.0},
        evaluations=tuple(
            Evaluation(f"{words}{k} example{'s' * (k > 1)}", sizes={"shots": k, "queries": 20}, on=tasks)
            for words, tasks in on.items()
            for k in lengths
        ),
        profiles=profiles(iterations, val_every=2_500, episodes=2_000, quick=(500, 200)),
    )


def tanh_features() -> nn.Module:
    """The features of Harrison et al. (2018) for sinusoids: two layers of 128, then 32 numbers."""
    return nn.Sequential(mlp(1, 128, 128, 32, activation=nn.Tanh), nn.Tanh())


def _waves(
    name: str,
    title: str,
    paper: str,
    learner: Any,
    *,
    net: Callable[[], nn.Module] | None = None,
    published: str | None = None,
    iterations: int,
    **training: float,
) -> Recipe:
    """Noisy sinusoids as in Harrison et al. (2018), judged by the likelihood of noisy targets after several points.

    There every task of a meta-batch has its own number of points, and training takes 3,000 updates; here all tasks of a
    meta-batch have one number.
    """
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "noisy_sinusoid"),
        net=net,
        learner=learner,
        training={"meta_batch": 10, "outer_lr": 1e-3, "decay": "cosine"} | training,
        evaluations=(
            Evaluation("0 to 10 points", published, episodes=500),  # of several shapes, so taken singly
            *(Evaluation(f"{k} point{'s' * (k != 1)}", sizes={"shots": k}) for k in (0, 1, 2, 3, 5, 10)),
        ),
        profiles=profiles(iterations, val_every=1_000, episodes=1_000, quick=(300, 200)),
    )


class OnFrozenFeatures(FrozenNet):
    """A reader of frozen features, less their running mean if ``centred``.

    Features behind a ReLU all point one way. So cosines between them are all near one, and a memory that is read by
    cosine can hardly tell its rows apart.
    """

    def __init__(self, net: nn.Module, *, centred: bool = True, **settings: Any) -> None:
        super().__init__(net, **settings)
        self.centred = centred
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(64))

    def embed(self, x: Any) -> Tensor:
        z = super().embed(x)
        if self.training and self.centred:
            self.mean.lerp_(z.mean(0), 0.01)
        return z - self.mean


class FrozenMANN(OnFrozenFeatures, MANN):
    """A MANN on frozen features."""


class FrozenLSTM(OnFrozenFeatures, LSTMLearner):
    """An LSTM on frozen features."""


class FrozenSNAIL(OnFrozenFeatures, SNAIL):
    """SNAIL on frozen features."""


def _stream(name: str, title: str, learner: Any, published: dict[int, str] | None = None) -> Recipe:
    """Streams of Omniglot's characters, five a stream, as in Santoro et al. (2016), on a ProtoNet's frozen features.

    There: pixels go straight into the network, 100,000 streams of ten instances each. ``published``: the numbers that
    instances answer to.
    """
    return Recipe(
        name=name,
        title=title,
        paper="santoro2016mann",
        tasks=partial(load, "omniglot", **_OMNIGLOT, instances=10),
        net=partial(conv4, 1, downsample="pool"),
        learner=partial(learner, along=True),
        training={"meta_batch": 16, "outer_lr": 3e-3, "decay": "cosine", "clip_norm": 1.0},
        evaluations=tuple(
            Evaluation(f"instance {i}", (published or {}).get(i), "running", sizes={"instance": i})
            for i in (1, 2, 3, 5, 10)
        ),
        profiles=profiles(3_000, val_every=500, episodes=1_000, quick=(100, 100)),
        start_from="protonet-omniglot-1s",
    )


def _written(
    name: str,
    title: str,
    paper: str,
    learner: Callable[..., Any],
    *,
    split: str,
    published: str | None = None,
) -> Recipe:
    """A frozen network whose last block is scaled and shifted by what a network reads in the support set.

    On CIFAR-FS that network is a ProtoNet's, which ships; on FC100 that of the transfer chapters. One learner serves
    1 to 5 shots, of which every meta-update draws a number.
    """
    fc100 = split == "fc100"
    slim = (16, 32, 64, 128)
    return Recipe(
        name=f"{split}-{name}",
        title=f"{title}, {'FC100' if fc100 else 'CIFAR-FS'}",
        paper=paper,
        tasks=partial(load, "cifar", split=split, ways=5, shots=(1, 5), queries=10, augment=True),
        net=partial(resnet12, 3, filters=slim) if fc100 else partial(conv4, 3, downsample="pool", image_size=32),
        learner=partial(learner, block="block4", features=slim[-1] if fc100 else 256),
        training={"meta_batch": 2, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=tuple(
            Evaluation(
                f"5-way {shots}-shot",
                published and f"{published}/fc100-5w{shots}s",
                "running",
                sizes={"shots": shots, "queries": 15},
            )
            for shots in (1, 5)
        ),
        profiles=profiles(300, val_every=150, quick=(50, 100), quick_val_episodes=50),
        validation={"shots": 1, "queries": 15},
        start_from="pretrain-fc100" if fc100 else "protonet-scaled-cifar-1s",
    )


class AskedAgain(Tasks):
    """The same tasks, which ask at the support points as well: so the code of neural processes trains."""

    def __init__(self, tasks: Tasks) -> None:
        self.tasks, self.objective, self.one_shape = tasks, tasks.objective, tasks.one_shape

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        support, query = self.tasks.sample(n_tasks, generator)
        return Task(support, tree_map(lambda *parts: torch.cat(parts, 1), support, query))

    def to(self, device: torch.device | str) -> Self:
        return type(self)(self.tasks.to(device))


class TwoEncoders(CNP):
    """A conditional neural process that encodes and averages twice, side by side, as the code of Lee et al. (2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.other = CNP()
        self.decoder = mlp(1 + 2 * self.width, self.width, self.width, 2)

    def begin(self) -> tuple[Any, Any]:
        return super().begin(), self.other.begin()

    def update(self, state: tuple[Any, Any], data: Examples) -> tuple[Any, Any]:
        return super().update(state[0], data), self.other.update(state[1], data)

    def predict(self, state: tuple[Any, Any], x: Tensor) -> Gaussian:
        pooled = [of.pooled(total / n.clamp(min=1)) for of, (total, n) in zip((self, self.other), state, strict=True)]
        raw = self.decoder(torch.cat([x, torch.cat(pooled).expand(len(x), -1)], -1))
        return Gaussian.of(raw, self.floor)


_CNP = _gaussian_process(
    "cnp-gp",
    "Conditional neural process on Gaussian processes",
    "garnelo2018cnp",
    CNP,
    published="cnp",
    iterations=100_000,
)
# Vinyals' split, turned characters as classes of their own, as for the metric learners.
_OMNIGLOT = {"split": "vinyals", "rotated_classes": True, "ways": 5}
_DIVERSE = {"dims": 4, "noise": 0.5, "shots": 8, "queries": 1}

_SNAIL = Recipe(
    name="snail-omniglot-5w1s",
    title="SNAIL on Omniglot, 5-way 1-shot",
    paper="mishra2018snail",
    tasks=partial(load, "omniglot", **_OMNIGLOT, shots=1, queries=1),
    net=partial(conv4, 1),
    learner=partial(SNAIL, filters=64, bfloat16=True),  # half of the paper's filters
    training={"meta_batch": 16, "outer_lr": 1e-3, "decay": "cosine"},
    evaluations=(Evaluation("5-way 1-shot", "mishra2018snail/omniglot-5w1s", "running", sizes={"queries": 15}),),
    profiles=profiles(6_000, val_every=500, episodes=1_000),
    validation={"queries": 5},
)

AMORTISED: tuple[Recipe, ...] = (
    _CNP,
    replace(
        _CNP,
        name="cnp-gp-as-released",
        title="Conditional neural process on Gaussian processes, two encoders, support points asked too",
        learner=TwoEncoders,
        train_on=AskedAgain,
    ),
    _gaussian_process(
        "attentive-cnp-gp",
        "Attentive conditional neural process on Gaussian processes",
        "kim2019anp",
        AttentiveCNP,
        published="canp",
        iterations=50_000,
    ),
    # Small enough for a figure in a page.
    _gaussian_process(
        "attentive-cnp-small-gp",
        "Attentive conditional neural process of half the width on Gaussian processes",
        "kim2019anp",
        partial(AttentiveCNP, width=64, heads=4),
        iterations=30_000,
    ),
    # Without a floor under the scale, all else equal: what the floor costs.
    _gaussian_process(
        "attentive-cnp-gp-free",
        "Attentive conditional neural process on Gaussian processes, any scale",
        "kim2019anp",
        partial(AttentiveCNP, floor=0.0),
        iterations=50_000,
    ),
    _gaussian_process(
        "tnp-gp",
        "Transformer neural process on Gaussian processes",
        "nguyen2022tnp",
        TransformerNP,
        published="tnpd",
        iterations=50_000,
    ),
    _pixels(
        "cnp-pixels",
        "Conditional neural process completes letters",
        "garnelo2018cnp",
        partial(CNP, 2),
        iterations=4_000,
    ),
    _pixels(
        "attentive-cnp-pixels",
        "Attentive conditional neural process completes letters",
        "kim2019anp",
        partial(AttentiveCNP, 2, width=32, heads=4),
        iterations=3_000,
    ),
    *(
        _in_context(
            f"in-context-linear{suffix}",
            f"A transformer in context on linear regression of five dimensions{words}",
            on={"": None},
            data={"dims": 5, "shots": 10, "queries": 1},
            iterations=iterations,
            **settings,
        )
        for suffix, words, iterations, settings in (
            ("", "", 30_000, {}),
            ("-long", ", for longer", 90_000, {}),
            # Up to four points most of an error is nobody's fault, and its gradient noise.
            ("-weighed", ", for longer, five points and more weigh ten times", 90_000, {"weights": [1] * 5 + [10] * 6}),
        )
    ),
    # How many different tasks it takes before a transformer learns instead of remembering (Raventós et al., 2023).
    *(
        _in_context(
            f"in-context-{different}-tasks",
            f"A transformer in context, trained on {different} different tasks",
            on={
                "its own tasks, ": partial(load, "linear_regression", **_DIVERSE, different=different),
                "new tasks, ": partial(load, "linear_regression", **_DIVERSE),
            },
            data=_DIVERSE | {"different": different},
            iterations=6_000,
        )
        for different in (4, 32, 256, 2_048)
    ),
    Recipe(
        name="prior-fitted-tables",
        title="A prior-fitted network on tables from random causal models",
        paper="pfefferle2025nanotabpfn",
        tasks=partial(load, "tables", columns=(2, 8), shots=(10, 80), queries=30),
        net=None,
        learner=PriorFitted,
        training={"meta_batch": 16, "outer_lr": 1e-3, "decay": "cosine", "clip_norm": 1.0},
        evaluations=tuple(
            Evaluation(f"{shots} labelled rows", sizes={"shots": shots, "queries": 100}) for shots in (10, 30, 80, 200)
        ),
        profiles=profiles(3_000, val_every=1_000, episodes=500, quick=(100, 100)),
    ),
    _waves(
        "alpaca-waves",
        "ALPaCA on noisy sinusoids",
        "harrison2018alpaca",
        partial(Alpaca, features=32, noise=0.02**0.5),
        net=tanh_features,
        published="harrison2018alpaca/sinusoid",
        iterations=10_000,
    ),
    _waves("cnp-waves", "Conditional neural process on noisy sinusoids", "garnelo2018cnp", CNP, iterations=10_000),
    _waves(
        "maml-ensemble-waves",
        "Five MAMLs on noisy sinusoids",
        "yoon2018bmaml",
        partial(EnsembleMAML, partial(mlp, 1, 40, 40, 1), inner_lr=0.01, inner_steps=3),
        iterations=3_000,
        outer_lr=3e-3,  # at 1e-3 it has hardly begun to learn after as many updates
        clip_norm=10.0,  # a single point far out throws a member far off
    ),
    _SNAIL,
    # Almost seven times as long, all else equal.
    replace(
        _SNAIL,
        name="snail-long-omniglot-5w1s",
        title="SNAIL on Omniglot, 5-way 1-shot, for longer",
        profiles=profiles(40_000, val_every=2_000, episodes=1_000),
    ),
    # Pooled, and from a ProtoNet's embedding: one that goes on learning, and one that is frozen and centred.
    replace(
        _SNAIL,
        name="snail-warm-omniglot-5w1s",
        title="SNAIL on Omniglot, 5-way 1-shot, from a ProtoNet's embedding",
        net=partial(conv4, 1, downsample="pool"),
        evaluations=(Evaluation("5-way 1-shot", None, "running", sizes={"queries": 15}),),
        start_from="protonet-omniglot-1s",
    ),
    replace(
        _SNAIL,
        name="snail-frozen-omniglot-5w1s",
        title="SNAIL on Omniglot, 5-way 1-shot, on a ProtoNet's frozen features",
        net=partial(conv4, 1, downsample="pool"),
        learner=partial(FrozenSNAIL, filters=64, bfloat16=True),
        profiles=profiles(10_000, val_every=1_000, episodes=1_000),
        start_from="protonet-omniglot-1s",
    ),
    replace(
        _SNAIL,
        name="snail-frozen-omniglot-20w1s",
        title="SNAIL on Omniglot, 20-way 1-shot, on a ProtoNet's frozen features",
        tasks=partial(load, "omniglot", **_OMNIGLOT | {"ways": 20}, shots=1, queries=1),
        net=partial(conv4, 1, downsample="pool"),
        learner=partial(FrozenSNAIL, ways=20, length=21, filters=64, bfloat16=True),
        evaluations=(Evaluation("20-way 1-shot", "mishra2018snail/omniglot-20w1s", "running", sizes={"queries": 15}),),
        profiles=profiles(4_000, val_every=500, episodes=500),
        start_from="protonet-omniglot-1s",
    ),
    _stream(
        "lstm-omniglot-stream",
        "An LSTM on streams of Omniglot",
        FrozenLSTM,
        {i: f"santoro2016mann/lstm-omniglot-instance{i}" for i in (2, 5)},
    ),
    _stream(
        "mann-omniglot-stream",
        "A network with an external memory on streams of Omniglot",
        FrozenMANN,
        {i: f"santoro2016mann/omniglot-instance{i}" for i in (1, 2, 5, 10)},
    ),
    _stream(
        "mann-uncentred-omniglot-stream",
        "The same, on features that are not centred",
        partial(FrozenMANN, centred=False),
    ),
    *(
        _written(name, title, paper, learner, split=split, published=published if split == "fc100" else None)
        for split in ("cifar_fs", "fc100")
        for name, title, paper, learner, published in (
            ("film", "A scale and a shift written from the support set", "requeima2019cnaps", FiLM, None),
            ("tadam", "TADAM's task conditioning, network frozen", "oreshkin2018tadam", Tadam, "oreshkin2018tadam"),
        )
    ),
    # From a ProtoNet's embedding, which goes on learning; 20 classes at a time.
    Recipe(
        name="versa-omniglot-5w1s",
        title="VERSA on Omniglot, 5-way 1-shot, from a ProtoNet's embedding",
        paper="gordon2019versa",
        tasks=partial(load, "omniglot", **_OMNIGLOT | {"ways": 20}, shots=1, queries=3),
        net=partial(conv4, 1, downsample="pool"),
        learner=partial(Versa, features=64),
        training={"meta_batch": 1, "outer_lr": 1e-3, "decay": "cosine"},
        evaluations=(
            Evaluation("5-way 1-shot", "gordon2019versa/omniglot-5w1s", "running", sizes={"ways": 5, "queries": 5}),
        ),
        profiles=profiles(4_000, val_every=1_000, episodes=600, quick=(100, 100), quick_val_episodes=50),
        validation={"queries": 5},
        start_from="protonet-omniglot-1s",
    ),
)
