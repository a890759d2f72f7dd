"""Experiments on sentences: the same tasks in richer and richer features, and what meta-learning adds to them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from mlcore.datasets import load
from mlcore.experiments.recipe import Evaluation, Recipe, profiles
from mlcore.learners import ProtoNet


def from_identity(size: int) -> nn.Linear:
    """A linear map of ``size`` numbers to as many that at first changes nothing."""
    net = nn.Linear(size, size, bias=False)
    nn.init.eye_(net.weight)
    return net


def word_vectors(buckets: int, size: int) -> nn.Linear:
    """A vector for each word, at random at first; a sentence is the weighted sum of those of its words."""
    return nn.Linear(buckets, size, bias=False)


def _intents(
    name: str,
    title: str,
    features: str,
    *,
    paper: str = "snell2017prototypical",
    net: Callable[[], nn.Module] = nn.Identity,
    iterations: int = 0,
    published: str | None = None,
    **training: Any,
) -> Recipe:
    """From CLINC150 to BANKING77 with 2 and 10 sentences of each of five intents, as in Zhang et al. (2022)."""
    return Recipe(
        name=name,
        title=title,
        paper=paper,
        # In training 20 intents at a time; the rows below, and validation, ask as the paper does.
        tasks=partial(load, "intents", features=features, ways=20 if iterations else 5),
        net=net,
        learner=partial(ProtoNet, distance="cosine") if iterations else ProtoNet,
        training={"meta_batch": 4} | training,
        evaluations=tuple(
            Evaluation(
                f"{shots} sentences of each intent",
                published and f"zhang2022isotropization/{published}-banking77-{shots}s",
                "running",
                sizes={"ways": 5, "shots": shots},
            )
            for shots in (2, 10)
        ),
        profiles=profiles(iterations, val_every=100, episodes=500, quick=(100, 100)),
        validation={"ways": 5},
    )


def _relations(
    name: str, title: str, *, net: Callable[[], nn.Module] = nn.Identity, iterations: int = 0, **training: Any
) -> Recipe:
    """Relations of FewRel that training never saw, from where it was and from elsewhere."""
    sources = {"wiki": "Wikipedia", "pubmed": "medicine", "nyt": "news"}
    return Recipe(
        name=name,
        title=title,
        paper="han2018fewrel",
        tasks=partial(load, "relations", features="words", ways=8 if iterations else 5, shots=5),
        net=net,
        learner=partial(ProtoNet, distance="cosine") if iterations else ProtoNet,
        training={"meta_batch": 4} | training,
        evaluations=tuple(
            Evaluation(
                f"{words}, {shots} sentence{'s' * (shots > 1)} of each relation",
                "gao2019fewrel2/protonet-pubmed-5w1s" if iterations and (source, shots) == ("pubmed", 1) else None,
                "running",
                sizes={"ways": 5, "shots": shots},
                on=partial(load, "relations", features="words", on=source),
            )
            for source, words in sources.items()
            for shots in (1, 5)
        ),
        profiles=profiles(iterations, val_every=100, episodes=500, quick=(100, 100)),
    )


_SCRATCH = {"net": partial(word_vectors, 2048, 128), "outer_lr": 3e-3}

TEXT: tuple[Recipe, ...] = (
    _intents("intents-words", "Class means of word counts, CLINC150 to BANKING77", "words"),
    _intents("intents-letters", "Class means of letter counts, CLINC150 to BANKING77", "letters"),
    _intents("intents-static", "Class means of static vectors, CLINC150 to BANKING77", "static"),
    _intents(
        "intents-scratch",
        "A ProtoNet from scratch on words, CLINC150 to BANKING77",
        "words",
        iterations=400,
        **_SCRATCH,
    ),
    _intents(
        "intents-encoder",
        "Class means of a frozen sentence encoder, CLINC150 to BANKING77",
        "encoder",
        paper="zhang2022isotropization",
        published="intentbert",
    ),
    _intents(
        "intents-map",
        "A linear map meta-learned on a frozen sentence encoder, CLINC150 to BANKING77",
        "encoder",
        paper="zhang2022isotropization",
        published="intentbert",
        net=partial(from_identity, 384),
        iterations=600,
        outer_lr=3e-4,
    ),
    _relations("relations-words", "Class means of word counts on relations of FewRel"),
    _relations(
        "relations-scratch", "A ProtoNet from scratch on words, on relations of FewRel", iterations=300, **_SCRATCH
    ),
)
