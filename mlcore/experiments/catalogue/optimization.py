"""Experiments of the optimization chapters: MAML and its relatives on sinusoids and on Omniglot."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from mlcore.datasets import load
from mlcore.datasets.quadratics import iterate, squared_norm
from mlcore.experiments.recipe import Evaluation, Recipe, Splits, profiles
from mlcore.inner import Params, Rates
from mlcore.learner import Judged, Learner
from mlcore.learners import (
    ANIL,
    BOIL,
    CAVIA,
    IMAML,
    MAML,
    LearnedOptimizer,
    MAMLPlusPlus,
    MatchingNet,
    MetaSGD,
    Reptile,
)
from mlcore.nets import conv4, mlp
from mlcore.nets.norms import BatchNormPolicy
from mlcore.objective import Objective, mse
from mlcore.task import Examples, Task

_SINUSOID_STEPS = (1, 5, 10)
_SINUSOID_MAML = partial(MAML, inner_lr=0.01, inner_steps=1)
_OMNIGLOT_MAML = partial(MAML, inner_lr=2.0, inner_steps=1, test_steps=3)


def _sinusoid(
    name: str,
    title: str,
    paper: str = "finn2017maml",
    learner: Callable[..., Learner] = _SINUSOID_MAML,
    *,
    published: str | None = None,
    data: dict[str, int] | None = None,
    inputs: int = 1,
    iterations: int = 20_000,
    **training: Any,
) -> Recipe:
    """Regression as in Finn et al. (2017, section 5.1 and Table 2): trained with 10 shots, scored with 5.

    The paper trains for 70,000 iterations; its relatives here train for 20,000, or for fewer
    where one costs more.
    """
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, "sinusoid", **(data or {"shots": 10, "queries": 10})),
        net=partial(mlp, inputs, 40, 40, 1),
        learner=partial(learner, loss_fn=mse),
        training={"meta_batch": 25, "outer_lr": 1e-3} | training,
        evaluations=tuple(
            Evaluation(
                f"5-shot, {steps} step{'s' * (steps > 1)}",
                published=published and f"{published}-step{steps}",
                test_steps=steps,
                sizes={"shots": 5, "queries": 100},
            )
            for steps in _SINUSOID_STEPS
        ),
        profiles=profiles(iterations, val_every=min(iterations, 5_000), quick=(1_000, 600)),
    )


class SeparateStarts(Reptile):
    """Reptile's average, of networks that each begin at random weights of their own: for networks of linear layers.

    The multi-task baseline of Finn et al. (2017, appendix C.1) is one such meta-update with an outer rate of 1.
    """

    def begin(self) -> tuple[Params, Any]:
        """In training weights as torch draws them, other ones for every task; then θ."""
        params, memory = super().begin()
        if not self.training:
            return params, memory
        layers = [(name, layer) for name, layer in self.net.named_modules() if isinstance(layer, nn.Linear)]
        bounds = {name: layer.in_features**-0.5 for name, layer in layers}
        drawn = {name: 2 * torch.rand_like(value) - 1 for name, value in params.items()}
        return {name: bounds[name.rpartition(".")[0]] * value for name, value in drawn.items()}, memory


def _averaged(name: str, title: str, learner: type[Reptile], **options: Any) -> Recipe:
    """The average of 500 networks, each trained on one sinusoid."""
    inner = {"inner_lr": 0.01, "inner_steps": 2_000, "batch_size": 50, "inner_optimizer": "sgd"}
    return _sinusoid(
        name,
        title,
        learner=partial(learner, **inner, test_steps=1, test_batch_size=5),
        data={"shots": 1_000, "queries": 10},
        iterations=1,
        meta_batch=500,
        outer_lr=1.0,
        optimizer=torch.optim.SGD,
        **options,
    )


_SINUSOIDS = (
    _sinusoid("maml-sinusoid", "MAML on sinusoids", published="finn2017maml/sinusoid", iterations=70_000),
    # The paper prints an inner rate of 0.01; 0.001 is the default of its code.
    _sinusoid(
        "maml-sinusoid-code-rate",
        "MAML on sinusoids, with the inner rate of the paper's code",
        learner=partial(MAML, inner_lr=0.001, inner_steps=1),
        published="finn2017maml/sinusoid",
        iterations=70_000,
    ),
    # Without inner steps the meta-objective is the plain loss over all tasks: pre-training, then fine-tuning at test.
    _sinusoid(
        "pretrain-sinusoid",
        "Pre-training on all sinusoids, then fine-tuning",
        learner=partial(MAML, inner_lr=0.01, inner_steps=0),
        published="finn2017maml/sinusoid-pretrained",
        iterations=70_000,
    ),
    # Training 500 networks from one start, each on its own task, and averaging their weights is one step of Reptile.
    _averaged(
        "multitask-sinusoid", "Networks trained on single sinusoids from one start, averaged, then fine-tuned", Reptile
    ),
    _averaged(
        "multitask-independent-sinusoid",
        "Networks trained on single sinusoids from starts of their own, averaged, then fine-tuned",
        SeparateStarts,
        published="finn2017maml/sinusoid-multitask",
    ),
    _sinusoid("maml-sinusoid-20k", "MAML on sinusoids, 20,000 iterations"),
    _sinusoid(
        "fomaml-sinusoid",
        "First-order MAML on sinusoids",
        "nichol2018reptile",
        partial(MAML, inner_lr=0.01, inner_steps=1, first_order=True),
    ),
    _sinusoid(
        "reptile-sinusoid",
        "Reptile on sinusoids",
        "nichol2018reptile",
        partial(Reptile, inner_lr=0.01, inner_steps=10, batch_size=10, inner_optimizer="sgd"),
        iterations=10_000,
        meta_batch=5,
        outer_lr=1.0,
        optimizer=torch.optim.SGD,
        decay="linear",
    ),
    _sinusoid(
        "metasgd-sinusoid", "Meta-SGD on sinusoids", "li2017metasgd", partial(MetaSGD, inner_lr=0.01, inner_steps=1)
    ),
    _sinusoid("anil-sinusoid", "ANIL on sinusoids", "raghu2020anil", partial(ANIL, inner_lr=0.01, inner_steps=1)),
    _sinusoid("boil-sinusoid", "BOIL on sinusoids", "oh2021boil", partial(BOIL, inner_lr=0.01, inner_steps=1)),
    # With five steps, or once the multi-step loss lets go of the early ones, the learned rates run away here.
    _sinusoid(
        "mamlpp-sinusoid",
        "MAML++ on sinusoids",
        "antoniou2019mamlpp",
        partial(MAMLPlusPlus, inner_lr=0.01, inner_steps=3, multi_step_until=5_000, first_order_until=1_500),
        decay="cosine",
        iterations=5_000,
        clip=1.0,
    ),
    # Rate and number of context parameters are the defaults of the paper's code.
    _sinusoid(
        "cavia-sinusoid",
        "CAVIA on sinusoids, five context parameters",
        "zintgraf2019cavia",
        partial(CAVIA, context=5, inner_lr=1.0, inner_steps=1),
        inputs=6,
    ),
    # At 0.01 the inner loop, through which no gradient passes, becomes unstable after some thousand updates.
    _sinusoid(
        "imaml-sinusoid",
        "iMAML on sinusoids",
        "rajeswaran2019imaml",
        partial(IMAML, inner_lr=0.005, inner_steps=16, strength=2.0, cg_steps=5),
        iterations=2_000,
        clip=1.0,
    ),
)


def signed() -> nn.Sequential:
    """The network of the sinusoids with one more linear layer below its head, so that features have both signs."""
    return nn.Sequential(*mlp(1, 40, 40, 40), nn.Linear(40, 1))  # mlp ends in a linear layer


# Seeds 0 to 2 of each are in the chapter on feature reuse.
_SIGNED = tuple(
    replace(
        _sinusoid(f"{key}-linear-sinusoid", f"{method} on sinusoids, one more linear layer", paper, learner),
        net=signed,
    )
    for key, method, paper, learner in (
        ("anil", "ANIL", "raghu2020anil", partial(ANIL, inner_lr=0.01, inner_steps=1)),
        ("maml", "MAML", "finn2017maml", _SINUSOID_MAML),
    )
)


class WithoutInverse(IMAML):
    """iMAML's inner problem, solved in the same way, with dφ*/dθ taken for I in place of (I + H/λ)⁻¹."""

    def adapt(self, support: Examples) -> Params:
        """φ*, through which the gradient of the queries passes unchanged."""
        start = self.start()
        solution = self.solve(support, start)
        return {name: value + (solution[name] - value).detach() for name, value in start.items()}


def _solved(key: str, title: str, learner: type[IMAML]) -> Recipe:
    """A pull so strong that the inner problem gets solved: 28 steps leave three hundredths of a flat direction."""
    recipe = _sinusoid(
        f"{key}-solved-sinusoid",
        title,
        "rajeswaran2019imaml",
        partial(learner, inner_lr=0.006, inner_steps=28, strength=20.0, cg_steps=5),
        meta_batch=10,
        outer_lr=2e-3,
        decay="cosine",
        clip=1.0,
    )
    sizes = {"shots": 5, "queries": 100}
    return replace(
        recipe,
        evaluations=(Evaluation("5-shot, solved", sizes=sizes),),
        profiles=profiles(500, val_every=100, quick=(100, 200)),
        validation={"shots": 5, "queries": 25},
    )


# Seeds 0 to 2 of each are in the chapter on implicit gradients.
_SOLVED = (
    _solved("imaml", "iMAML on sinusoids, its inner problem solved", IMAML),
    _solved(
        "imaml-without-inverse", "iMAML on sinusoids, its inner problem solved, without the inverse", WithoutInverse
    ),
)


class SlowRates(MAMLPlusPlus):
    """MAML++ whose learned rates move 15 times as slowly as its weights: an optimiser moves 15 α in place of α.

    A meta-gradient that is no number moves nothing, so that a run that blows up goes on and can be recorded.
    """

    def rates_of(self, step: int) -> Rates:
        """α of one step, by layer."""
        rates = super().rates_of(step)
        return {name: rate / _SLOWER for name, rate in rates.items()} if isinstance(rates, Mapping) else rates

    def meta_backward(self, task: Task, objective: Objective) -> Judged:
        """The meta-gradient, where it is finite."""
        judged = super().meta_backward(task, objective)
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not nn.utils.get_total_norm(gradients).isfinite():
            self.zero_grad()
        return judged._replace(losses=judged.losses.nan_to_num(_LOST, _LOST).clamp(max=_LOST))


class SlowMetaSGD(MetaSGD):
    """Meta-SGD whose rates move 15 times as slowly as its weights."""

    def rates(self) -> Params:
        """α, the same at every step."""
        return {name: rate / _SLOWER for name, rate in super().rates().items()}


_SLOWER = 15
_LOST = 1e9  # the loss of a task that blew up


def _ablated(
    key: str, title: str, learner: Callable[..., Learner] = MAML, inner_lr: float = 0.03, **training: Any
) -> Recipe:
    """Five inner steps on sinusoids for 1,200 meta-updates of 8 tasks, validated every 10: a curve, and its teeth."""
    recipe = _sinusoid(
        f"ablation-{key}-sinusoid",
        f"Five inner steps on sinusoids: {title}",
        "antoniou2019mamlpp",
        partial(learner, inner_lr=inner_lr, inner_steps=5),
        meta_batch=8,
        outer_lr=6e-3,
        **training,
    )
    sizes = {"shots": 5, "queries": 100}
    return replace(
        recipe,
        evaluations=(Evaluation("5-shot, 5 steps", sizes=sizes),),
        profiles=profiles(1_200, val_every=10, quick=(200, 200)),
        validation={"shots": 5, "queries": 25},
    )


_FAST = _SLOWER * 0.03  # where 15 α starts
_MULTI_STEP = {"multi_step_until": 400}
_SCHEDULED = _MULTI_STEP | {"first_order_until": 400}

# Seeds 0 to 4 of each are in the chapter on training MAML; the parts are added one after the other.
_ABLATIONS = (
    _ablated("careful", "MAML with an inner rate of 0.01", inner_lr=0.01),
    _ablated("maml", "MAML with an inner rate of 0.03"),
    _ablated("clipped", "MAML, its meta-gradient clamped", clip=0.5),
    _ablated("metasgd", "Meta-SGD", SlowMetaSGD, _FAST),
    _ablated("rates", "rates by layer and step", SlowRates, _FAST),
    _ablated("multistep", "and a multi-step loss", partial(SlowRates, **_MULTI_STEP), _FAST),
    _ablated("cosine", "and a cosine", partial(SlowRates, **_MULTI_STEP), _FAST, decay="cosine"),
    _ablated("mamlpp", "and first order at first: MAML++", partial(SlowRates, **_SCHEDULED), _FAST, decay="cosine"),
)


def _omniglot(
    name: str,
    title: str,
    paper: str = "finn2017maml",
    learner: Callable[..., Learner] = _OMNIGLOT_MAML,
    *,
    dataset: str = "omniglot",
    ways: int = 5,
    shots: int = 1,
    queries: int = 1,
    downsample: Literal["stride", "pool"] = "stride",
    policies: tuple[BatchNormPolicy, ...] = ("transductive", "one_query"),
    published: dict[BatchNormPolicy, str] | None = None,
    iterations: int,
    val_every: int | None = None,
    val_episodes: int = 200,
    **training: Any,
) -> Recipe:
    """N-way 1-shot by the protocol of the MAML code: rotations at train and test, one query a class, 3 steps at test.

    Its inner rate 0.4 multiplies a cross-entropy summed over the five classes; ours is a mean, hence 2.0. All relatives
    share network, split, tasks and, where their paper does not ask otherwise, these rates.
    """
    sizes = {"shots": 1} if shots > 1 else {}
    split = {"split": "random"} if dataset == "omniglot" else {}
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        tasks=partial(load, dataset, ways=ways, shots=shots, queries=queries, rotations=True, **split),
        net=partial(conv4, 1, ways, filters=64, downsample=downsample),
        learner=learner,
        training={"meta_batch": 32, "outer_lr": 1e-3} | training,
        evaluations=tuple(
            Evaluation(_POLICY_NAMES[policy], (published or {}).get(policy), policy, sizes=sizes) for policy in policies
        ),
        profiles=profiles(iterations, val_every=val_every or iterations // 4, val_episodes=val_episodes),
        validation=sizes,
    )


_POLICY_NAMES: dict[BatchNormPolicy, str] = {
    "transductive": "transductive",
    "support": "support statistics",
    "one_query": "support + one query",
    "running": "running statistics",
}
_ALL_POLICIES = tuple(_POLICY_NAMES)

_MAML = (
    _omniglot(
        "maml-omniglot-5w1s",
        "MAML on Omniglot, 5-way 1-shot",
        policies=_ALL_POLICIES,
        published={
            "transductive": "finn2017maml/omniglot-5w1s",
            "running": "bronskill2020tasknorm/maml-omniglot-5w1s-running",
        },
        iterations=8_000,
        val_every=1_000,
    ),
    _omniglot(
        "maml-glyphs-5w1s",
        "MAML on warped glyphs, 5-way 1-shot",
        dataset="glyphs",
        policies=_ALL_POLICIES,
        iterations=8_000,
        val_every=1_000,
    ),
)


def _reptile_training(setting: str) -> dict[str, Any]:
    """What all of Reptile's runs share: ten shots in training, plain steps of the outer loop, falling from 1 to 0."""
    return {
        "published": {
            "transductive": f"nichol2018reptile/reptile-transductive-{setting}",
            "one_query": f"nichol2018reptile/reptile-{setting}",
        },
        "shots": 10,
        "meta_batch": 5,
        "outer_lr": 1.0,
        "optimizer": torch.optim.SGD,
        "decay": "linear",
        "val_episodes": 100,
    }


def _relatives(ways: int) -> tuple[Recipe, ...]:
    """MAML and its relatives at one setting: 8,000 meta-updates at 5 ways and 2,000 at 20.

    Shorter are MAML++ and iMAML at 5 ways, with about an hour of one core each.

    8 tasks in a meta-update at 5 ways and 4 at 20, where the MAML paper has 32 and 16.
    """
    five = ways == 5
    setting, one_step = f"omniglot-{ways}w1s", {"inner_lr": 2.0, "inner_steps": 1, "test_steps": 3}
    meta_batch = 8 if five else 4

    def recipe(key: str, method: str, paper: str, learner: Callable[..., Learner], **settings: Any) -> Recipe:
        title = f"{method} on Omniglot, {ways}-way 1-shot"
        return _omniglot(f"{key}-{setting}", title, paper, learner, ways=ways, **{"meta_batch": meta_batch, **settings})

    iterations = 8_000 if five else 2_000
    unrolled = 5_000 if five else iterations
    reptile = (
        {"inner_lr": 0.001, "inner_steps": 5, "test_steps": 50, "batch_size": 10, "test_batch_size": 5}
        if five
        else {"inner_lr": 0.0005, "inner_steps": 10, "test_steps": 50, "batch_size": 20, "test_batch_size": 10}
    )
    return (
        recipe(
            "maml-short",
            f"MAML, {meta_batch} tasks a meta-update,",
            "finn2017maml",
            partial(MAML, **one_step),
            published={"transductive": f"finn2017maml/{setting}"},
            iterations=iterations,
        ),
        recipe(
            "fomaml",
            "First-order MAML",
            "nichol2018reptile",
            partial(MAML, **(one_step | {"first_order": True})),
            published={"transductive": f"nichol2018reptile/fomaml-{setting}"},
            iterations=iterations,
        ),
        # At MAML's rate the first-order gradient is far off; a fifth of it did better on validation classes.
        recipe(
            "fomaml-slow",
            "First-order MAML, inner rate 0.4,",
            "nichol2018reptile",
            partial(MAML, **(one_step | {"inner_lr": 0.4, "first_order": True})),
            published={"transductive": f"nichol2018reptile/fomaml-{setting}"},
            iterations=iterations,
        ),
        # The inner loop of the paper's code; it meets ten shots in training. Its meta-batch is 5 as well. In that code
        # Adam's second moment goes on from task to task; what that is worth, the two rows show.
        *(
            recipe(
                key,
                method,
                "nichol2018reptile",
                partial(Reptile, **(reptile | moments)),
                iterations=iterations,
                **_reptile_training(setting),
            )
            for key, method, moments in (
                ("reptile", "Reptile, Adam afresh in every task,", {}),
                ("reptile-kept", "Reptile, Adam's second moment kept,", {"keep_moments": True}),
            )
        ),
        recipe(
            "metasgd",
            "Meta-SGD",
            "li2017metasgd",
            partial(MetaSGD, **one_step),
            published={"transductive": f"li2017metasgd/{setting}"},
            iterations=iterations,
        ),
        recipe(
            "anil",
            "ANIL",
            "raghu2020anil",
            partial(ANIL, **one_step),
            published=None if five else {"transductive": "raghu2020anil/anil-omniglot-20w1s"},
            iterations=iterations,
        ),
        # Shares of the run as in the paper's code: a tenth with the multi-step loss, a third of first order.
        recipe(
            "mamlpp",
            "MAML++",
            "antoniou2019mamlpp",
            partial(
                MAMLPlusPlus,
                inner_lr=0.4,
                inner_steps=5,
                multi_step_until=unrolled // 10,
                first_order_until=unrolled // 3,
            ),
            policies=("transductive", "one_query", "running"),
            published={"transductive": f"antoniou2019mamlpp/{setting}"},
            decay="cosine",
            iterations=unrolled,
        ),
        # The published runs have strength 2 and an inner rate of 0.1. On validation classes, after 200 updates, 0.5
        # was better than 2 at 5 ways, and after 160, 0.2 better than 0.5 at 20 ways.
        recipe(
            "imaml",
            "iMAML",
            "rajeswaran2019imaml",
            partial(
                IMAML,
                **(
                    {"inner_lr": 0.4, "inner_steps": 16, "strength": 0.5, "cg_steps": 5}
                    if five
                    else {"inner_lr": 0.5, "inner_steps": 16, "strength": 0.2, "cg_steps": 5}
                ),
            ),
            published={"transductive": f"rajeswaran2019imaml/gd-{setting}"},
            meta_batch=4 if five else 2,
            iterations=6_000 if five else iterations,
        ),
    )


# As the papers and their codes have it, and longer: inner steps in training and test alike, second order from the
# start, the length of the run by what a core can do in some hours.
_AS_PUBLISHED = (
    _omniglot(
        "anil-tied-omniglot-20w1s",
        "ANIL on Omniglot, 20-way 1-shot, all classes starting from one row,",
        "raghu2020anil",
        partial(ANIL, inner_lr=2.0, inner_steps=5, tied_head=True),
        ways=20,
        published={"transductive": "raghu2020anil/anil-omniglot-20w1s"},
        meta_batch=8,
        decay="cosine",
        iterations=6_000,
    ),
    _omniglot(
        "anil-long-omniglot-5w1s",
        "ANIL on Omniglot, 5-way 1-shot, 32 tasks a meta-update,",
        "raghu2020anil",
        partial(ANIL, inner_lr=2.0, inner_steps=1, test_steps=3),
        decay="cosine",
        iterations=8_000,
    ),
    _omniglot(
        "fomaml-long-omniglot-5w1s",
        "First-order MAML on Omniglot, 5-way 1-shot, inner rate 0.4, 32 tasks a meta-update,",
        "nichol2018reptile",
        partial(MAML, inner_lr=0.4, inner_steps=1, test_steps=3, first_order=True),
        published={"transductive": "nichol2018reptile/fomaml-omniglot-5w1s"},
        decay="cosine",
        iterations=10_000,
    ),
    _omniglot(
        "metasgd-one-step-omniglot-5w1s",
        "Meta-SGD on Omniglot, 5-way 1-shot, one step at test, 15 queries,",
        "li2017metasgd",
        partial(MetaSGD, inner_lr=2.0, inner_steps=1),
        queries=15,
        downsample="pool",
        published={"transductive": "li2017metasgd/omniglot-5w1s"},
        meta_batch=4,
        decay="cosine",
        iterations=12_000,
    ),
    _omniglot(
        "maml-five-steps-omniglot-20w1s",
        "MAML on Omniglot, 20-way 1-shot, five inner steps,",
        learner=partial(MAML, inner_lr=2.0, inner_steps=5),
        ways=20,
        published={"transductive": "finn2017maml/omniglot-20w1s"},
        meta_batch=16,
        decay="cosine",
        iterations=3_000,
    ),
    *(
        _omniglot(
            f"mamlpp-second-order-omniglot-{ways}w1s",
            f"MAML++ on Omniglot, {ways}-way 1-shot, second order from the start,",
            "antoniou2019mamlpp",
            partial(MAMLPlusPlus, inner_lr=0.1, inner_steps=5, multi_step_until=iterations // 10),
            ways=ways,
            downsample="pool",
            published={"transductive": f"antoniou2019mamlpp/omniglot-{ways}w1s"},
            meta_batch=8,
            decay="cosine",
            iterations=iterations,
        )
        for ways, iterations in ((5, 15_000), (20, 5_000))
    ),
)


def as_maml(learner: MAML, *, frozen: int = 0) -> MAML:
    """The network of a learner, adapted at test as MAML does, but for its first ``frozen`` blocks."""
    net = copy.deepcopy(cast(nn.Sequential, learner.net))
    net[:frozen].requires_grad_(False)
    return MAML(net, inner_lr=learner.inner_lr).eval()


def as_boil(learner: MAML) -> BOIL:
    """The network of a learner, of which the body adapts."""
    return BOIL(copy.deepcopy(learner.net), inner_lr=learner.inner_lr).eval()


def as_nil(learner: MAML) -> MatchingNet:
    """Without its head, and without an inner loop: cosines to the support images (Raghu et al., 2020, section 5)."""
    return MatchingNet(copy.deepcopy(cast(nn.Sequential, learner.net)[:-1])).eval()


def negative(image: Tensor) -> Tensor:
    """Paper and ink exchanged."""
    return 1 - image


def shuffled(image: Tensor) -> Tensor:
    """The sixteen tiles of an image [1, 28, 28] in another order, the same for all images."""
    tiles = image.unflatten(-1, (4, 7)).unflatten(-3, (4, 7)).movedim(-2, -3).flatten(-4, -3)
    tiles = tiles[..., [6, 13, 1, 10, 15, 4, 8, 3, 12, 0, 7, 9, 2, 14, 11, 5], :, :]
    return tiles.unflatten(-3, (4, 4)).movedim(-2, -3).flatten(-4, -3).flatten(-2)


def _moved(name: str, change: Callable[[Tensor], Tensor] | None = None, **settings: Any) -> Splits:
    train, val, test = load(name, ways=5, shots=1, rotations=True, **settings)
    return train, val, test.replace(augment=change)


_FROZEN = ("everything", "blocks 2-4, head", "blocks 3-4, head", "block 4, head", "head")
_SHIFTS = {
    "negatives": partial(_moved, "omniglot", negative, split="random"),
    "shuffled": partial(_moved, "omniglot", shuffled, split="random"),
    "glyphs": partial(_moved, "glyphs"),
}
_READINGS: dict[str, Callable[[Any], Learner]] = {
    **{name: partial(as_maml, frozen=blocks) for blocks, name in enumerate(_FROZEN)},
    "body": as_boil,
    "nothing": as_nil,
}


def _reused(key: str, method: str, paper: str, learner: type[MAML]) -> Recipe:
    """One network, read in many ways: a row names what adapts at test, and where a shift has moved the images."""
    sizes = {"queries": 5}
    readings = [Evaluation(name, learner=read, sizes=sizes) for name, read in _READINGS.items()]
    moved = [
        Evaluation(f"{name}, {shift}", learner=_READINGS[name], sizes=sizes, on=on)
        for shift, on in _SHIFTS.items()
        for name in ("everything", "head", "nothing")
    ]
    recipe = _omniglot(
        f"reuse-{key}-omniglot-5w1s",
        f"{method} on Omniglot, 5-way 1-shot, 32 filters, read in many ways",
        paper,
        partial(learner, inner_lr=2.0, inner_steps=1),
        meta_batch=8,
        outer_lr=3e-3,
        decay="cosine",
        iterations=2_500,
        val_every=500,
    )
    return replace(recipe, net=partial(conv4, 1, 5, filters=32), evaluations=(*readings, *moved))


# What adapts in training; and at test, on the same tasks, everything in turn.
_REUSE = (
    _reused("maml", "MAML", "finn2017maml", MAML),
    _reused("anil", "ANIL", "raghu2020anil", ANIL),
    _reused("boil", "BOIL", "oh2021boil", BOIL),
)


def _reptile_released(ways: int, iterations: int, **settings: Any) -> Recipe:
    """Reptile by its code: minibatches at random, Adam's second moment kept, flattened features; test classes as drawn.

    That code runs for 100,000 meta-updates at 5 ways and 200,000 at 20, with images made small by nearest neighbours.
    """
    recipe = _omniglot(
        f"reptile-released-omniglot-{ways}w1s",
        f"Reptile on Omniglot as its code trains it, {ways}-way 1-shot",
        "nichol2018reptile",
        partial(Reptile, **settings, test_steps=50, shuffle=True, keep_moments=True),
        ways=ways,
        iterations=iterations,
        **_reptile_training(f"omniglot-{ways}w1s"),
    )
    upright = {"shots": 1, "rotations": False}
    return replace(
        recipe,
        net=partial(conv4, 1, ways, flatten=True),
        evaluations=tuple(replace(row, sizes=upright) for row in recipe.evaluations),
        validation=upright,
    )


# 20,000 meta-updates in that code. Our network, whose features are averaged, did better than its own in short runs. The
# meta-gradient is twice that code's, and so is Adam's eps: the steps are the same.
_IMAML = replace(
    _omniglot(
        "imaml-released-omniglot-5w1s",
        "iMAML on Omniglot as its code trains it, 5-way 1-shot",
        "rajeswaran2019imaml",
        partial(IMAML, inner_lr=0.1, inner_steps=16, pull_back=0.2, strength=24.0, cg_steps=5),
        published={"transductive": "rajeswaran2019imaml/gd-omniglot-5w1s"},
        optimizer=partial(torch.optim.Adam, eps=2e-3),
        iterations=2_000,
    ),
    profiles=profiles(2_000, val_every=250, quick=(20, 200)),
)
_AS_IMAML = partial(load, "omniglot", ways=5, shots=1, queries=1, rotations=True)

# As the authors' codes train, where the papers' numbers come from; shorter.
_RELEASED = (
    _reptile_released(5, 25_000, inner_lr=1e-3, inner_steps=5, batch_size=10, test_batch_size=5),
    _reptile_released(20, 8_000, inner_lr=5e-4, inner_steps=10, batch_size=20, test_batch_size=10),
    _IMAML,
    # With its commands' test characters, most of which are training characters, and with those that are not.
    replace(
        _IMAML,
        name="imaml-leak-omniglot-5w1s",
        title="iMAML on Omniglot as its code trains and tests it, 5-way 1-shot",
        tasks=partial(_AS_IMAML, split="imaml"),
        evaluations=(
            Evaluation("test characters of the commands", "rajeswaran2019imaml/gd-omniglot-5w1s"),
            Evaluation("those never trained on", on=partial(_AS_IMAML, split="imaml-unseen")),
        ),
    ),
)

# Their code makes five updates of 1e-3 along each of 10,000 batches of 128 problems; here it is one a batch.
_LEARNED_OPTIMIZER = Recipe(
    name="lstm-quadratics",
    title="A learned optimiser on quadratics of ten dimensions",
    paper="andrychowicz2016",
    tasks=partial(load, "quadratics", dims=10),
    net=iterate,
    learner=partial(LearnedOptimizer, inner_lr=0.1, inner_steps=100, unroll=20, loss_fn=squared_norm),
    training={"meta_batch": 64, "outer_lr": 1e-2, "decay": "cosine", "clip_norm": 1.0},
    evaluations=(
        Evaluation("100 steps", "andrychowicz2016/quadratic-l2l"),
        Evaluation("1,000 steps", test_steps=1_000, episodes=500),
    ),
    profiles=profiles(800, val_every=200, episodes=1_000, quick=(40, 100)),
)
_OPTIMIZERS = (
    _LEARNED_OPTIMIZER,
    replace(
        _LEARNED_OPTIMIZER,
        name="lstm-whole-quadratics",
        title="A learned optimiser on quadratics of ten dimensions, its gradient never cut",
        learner=partial(LearnedOptimizer, inner_lr=0.1, inner_steps=100, loss_fn=squared_norm),
    ),
)

OPTIMIZATION = (
    *_SINUSOIDS,
    *_SIGNED,
    *_SOLVED,
    *_ABLATIONS,
    *_MAML,
    *_relatives(5),
    *_relatives(20),
    *_AS_PUBLISHED,
    *_REUSE,
    *_RELEASED,
    *_OPTIMIZERS,
)
