"""Sentences as few-shot tasks: what somebody wants, and how two things in a sentence are related."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mlcore.datasets.phrases import SPLITS, phrases
from mlcore.datasets.sentences import Sentences, TextFeatures, banking77, clinc150, fewrel
from mlcore.tasks import ClassificationTasks, group_of

Features = Literal["words", "letters", "static", "encoder"]
Parts = tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]

DOMAINS = {
    "train": ("utility", "auto_and_commute", "work", "home", "meta", "small_talk"),
    "val": ("travel", "kitchen_and_dining"),
}
"""The domains of CLINC150 to train on and to choose by; its two about money are left out (Zhang et al., 2022)."""


def intents(
    features: Features = "words",
    *,
    of: Literal["banking77", "phrases"] = "banking77",
    root: Path | str | None = None,
    ways: int = 5,
    shots: int = 2,
    queries: int = 5,
) -> Parts:
    """From CLINC150 to BANKING77, as (train, val, test) episodes over disjoint domains (Zhang et al., 2022).

    Args:
        features: what becomes of a sentence. ``"words"`` or ``"letters"``, 2,048 hashed counts; ``"static"``, 128
            directions in which words occur together; or ``"encoder"``, 384 numbers that come with the data.
        of: the real sentences, or the generated ones of :func:`~mlcore.datasets.phrases.phrases`, without an encoder.
        root: the data root; by default ``$MLCORE_DATA``.
        ways, shots, queries: see :class:`~mlcore.tasks.ClassificationTasks`.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
        ValueError: unknown features, or an encoder's of generated sentences.
    """
    if of == "phrases":
        parts = _parted(phrases(), SPLITS)
    elif of == "banking77":
        clinc = _joined(*(clinc150(part, root=root) for part in ("train", "val", "test")))
        parts = [*_parted(clinc, DOMAINS), _joined(*(banking77(part, root=root) for part in ("train", "test")))]
    else:
        raise ValueError(f"there are no intents of {of!r}; choose 'banking77' or 'phrases'.")
    train, val, test = _tasks(parts, features, ways=ways, shots=shots, queries=queries)
    return train, val, test


def relations(
    features: Features = "words",
    *,
    on: Literal["wiki", "pubmed", "nyt"] = "wiki",
    root: Path | str | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 5,
) -> tuple[ClassificationTasks, None, ClassificationTasks]:
    """FewRel's relations, as (train, None, test) episodes: eight of Wikipedia to train on, and eight to test.

    Args:
        features: as for :func:`intents`; there are no vectors of an encoder.
        on: where the test comes from. ``"pubmed"``, medical abstracts, or ``"nyt"``, news, have relations of their own.
        root, ways, shots, queries: as for :func:`intents`.
    """
    wiki = fewrel("wiki", root=root)
    known = sorted(set(wiki.names))
    train = _only(wiki, known[::2].__contains__)
    test = _only(wiki, known[1::2].__contains__) if on == "wiki" else fewrel(on, root=root)
    train, test = _tasks([train, test], features, ways=ways, shots=shots, queries=queries)
    return train, None, test


def _tasks(parts: list[Sentences], features: Features, **sizes: Any) -> list[ClassificationTasks]:
    """Tasks of each part, in the features that the first of them says."""
    vectors = _vectors(parts, features)
    return [ClassificationTasks(x, part.names, **sizes) for x, part in zip(vectors, parts, strict=True)]


def _vectors(parts: list[Sentences], features: Features) -> list[Tensor]:
    if features == "encoder":
        given = [part.vectors for part in parts if part.vectors is not None]
        if len(given) < len(parts):
            raise ValueError(
                "these sentences come without an encoder's vectors; choose 'words', 'letters' or 'static'."
            )
        return given
    if features not in ("words", "letters", "static"):
        raise ValueError(f"there are no features {features!r}; choose 'words', 'letters', 'static' or 'encoder'.")
    vectors = (
        TextFeatures(parts[0].texts, buckets=2**13, static=128)
        if features == "static"
        else TextFeatures(parts[0].texts, of=features)
    )
    return [vectors(part.texts) for part in parts]


def _parted(sentences: Sentences, domains: dict[str, tuple[str, ...]]) -> list[Sentences]:
    return [_only(sentences, lambda name, part=part: group_of(name) in part) for part in domains.values()]


def _only(sentences: Sentences, wanted: Callable[[str], bool]) -> Sentences:
    """The sentences whose class is wanted."""
    rows = [i for i, name in enumerate(sentences.names) if wanted(name)]
    texts, names, vectors = sentences
    return Sentences([texts[i] for i in rows], [names[i] for i in rows], None if vectors is None else vectors[rows])


def _joined(*parts: Sentences) -> Sentences:
    """All sentences of several parts."""
    vectors = [part.vectors for part in parts if part.vectors is not None]
    texts = [text for part in parts for text in part.texts]
    names = [name for part in parts for name in part.names]
    return Sentences(texts, names, torch.cat(vectors) if len(vectors) == len(parts) else None)
