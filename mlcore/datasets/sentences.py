"""Sentences: what they are read from, and how they become vectors of one length."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mlcore.files import folder_with, needed_folder

Counted = Literal["words", "letters"]

CLINC150 = ("train", "val", "test", "oos_train", "oos_val", "oos_test")
"""The parts of CLINC150; those of ``oos`` are of no intent."""
BANKING77 = ("train", "test")
FEWREL = ("wiki", "pubmed", "nyt")
"""Where FewRel's sentences come from: Wikipedia, medical abstracts, news."""


_FILES = {
    "text": ("clinc150/data_full.json", "banking77/train.csv", "minilm/clinc150_minilm.npz"),
    "fewrel": ("val_wiki.json", "val_pubmed.json", "val_nyt.json"),
}


class Sentences(NamedTuple):
    """Sentences with the names of their classes, "domain/class"."""

    texts: list[str]
    names: list[str]
    vectors: Tensor | None = None  # [n, 384], of a frozen encoder, where they come with the data


class TextFeatures:
    """Sentences as vectors [n, features]: hashed counts, weighed by how rare they are (tf-idf), of length one.

    A hash needs no vocabulary, so that new words have a place too. With ``static``, the vectors of a truncated singular
    value decomposition of them (latent semantic analysis, Deerwester et al., 1990).

    Args:
        texts: sentences that say what is rare, and what occurs together: no labels. They must not be the test's.
        of: count ``"words"``, or ``"letters"``: all runs of two to four within a word.
        buckets: numbers that a sentence becomes.
        static: how many directions to keep; all buckets by default.

    Raises:
        TypeError, ValueError: what is no sentence, or none that holds a word.
        LookupError: scikit-learn is not installed.

    Derived in: Sentences, a few of each, :eq:`eq-bilinear-text` and :eq:`eq-lsa`.
    """

    def __init__(
        self, texts: Sequence[str], *, of: Counted = "words", buckets: int = 2048, static: int | None = None
    ) -> None:
        try:
            from sklearn.decomposition import TruncatedSVD
            from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
        except ModuleNotFoundError as error:
            raise LookupError(
                "scikit-learn counts words, and is not installed; pip install 'mlcore[sklearn]'."
            ) from error
        if of not in ("words", "letters"):
            raise ValueError(f"there is nothing to count called {of!r}; choose 'words' or 'letters'.")
        kind: dict[str, Any] = (
            {"token_pattern": r"(?u)\b\w+\b"} if of == "words" else {"analyzer": "char_wb", "ngram_range": (2, 4)}
        )
        kind |= {"n_features": buckets, "norm": None, "alternate_sign": False}
        self._count = HashingVectorizer(**kind)
        self._weigh = TfidfTransformer(sublinear_tf=True)
        counts = self._weigh.fit_transform(self._count.transform(check_sentences(texts)))
        self._reduce: Any = None
        if static is not None:
            self._reduce = TruncatedSVD(static, random_state=0).fit(counts)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Vectors [n, features] of length one; zero for a sentence without a letter or digit."""
        counts: Any = self._weigh.transform(self._count.transform(check_sentences(texts)))
        dense = counts.toarray() if self._reduce is None else self._reduce.transform(counts)
        return F.normalize(torch.from_numpy(dense).float(), dim=-1)


def check_sentences(texts: Sequence[str]) -> list[str]:
    """The sentences as a list.

    Raises:
        TypeError: one string, or something among them that is none.
        ValueError: no sentences, or an empty one.
    """
    if isinstance(texts, str):
        raise TypeError(f"texts is one string, {texts[:30]!r}; give a list of sentences.")
    texts = list(texts)
    if not texts:
        raise ValueError("there are no sentences; give one at least.")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"sentence {i} is {text!r:.40}, not a string; convert it or leave it out.")
        if not text.strip():
            raise ValueError(f"sentence {i} is empty; leave it out, with its label.")
    return texts


def clinc150(part: str = "train", *, root: Path | str | None = None) -> Sentences:
    """A part of CLINC150 (Larson et al., 2019): 150 intents of 10 domains, and questions of none.

    Args:
        part: one of :data:`CLINC150`.
        root: the data root; by default ``$MLCORE_DATA``.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
    """
    folder = _folder("text", root)
    _check(part, CLINC150, "part of CLINC150")
    rows = json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))[part]
    domains = json.loads((folder / "clinc150" / "domains.json").read_text(encoding="utf-8"))
    domain = {intent: name for name, intents in domains.items() for intent in intents} | {"oos": "none"}
    names = [f"{domain[intent]}/{intent}" for _, intent in rows]
    return _with_vectors([text for text, _ in rows], names, folder / "minilm" / "clinc150_minilm.npz", part)


def banking77(part: str = "train", *, root: Path | str | None = None) -> Sentences:
    """A part of BANKING77 (Casanueva et al., 2020), 77 things that customers ask their bank; as :func:`clinc150`."""
    folder = _folder("text", root)
    _check(part, BANKING77, "part of BANKING77")
    rows = _rows(folder / "banking77" / f"{part}.csv")
    names = [f"banking77/{row['category']}" for row in rows]
    return _with_vectors([row["text"] for row in rows], names, folder / "minilm" / "banking77_minilm.npz", part)


def few_of_each(name: str, shots: int, *, root: Path | str | None = None) -> Sentences:
    """The usual 5 or 10 training sentences for each intent of ``"clinc150"`` or ``"banking77"``, and their vectors.

    Those files have no capitals and no punctuation, so a sentence is known by its letters and digits.
    """
    read = {"clinc150": clinc150, "banking77": banking77}
    _check(name, tuple(read), "set of intents")
    known = read[name]("train", root=root)
    place = {_letters(text): i for i, text in reversed(list(enumerate(known.texts)))}
    path = _folder("text", root) / name / "few_shot_5_10" / f"train_{shots}.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; there are files of 5 and of 10 shots.")
    chosen = [place[_letters(row["text"])] for row in _rows(path)]
    assert known.vectors is not None
    return Sentences([known.texts[i] for i in chosen], [known.names[i] for i in chosen], known.vectors[chosen])


def fewrel(source: str = "wiki", *, root: Path | str | None = None) -> Sentences:
    """FewRel's validation sentences with two marked entities (Han et al., 2018; Gao et al., 2019).

    The classes are the relations of the two. The entities are replaced by the words ``headentity`` and ``tailentity``,
    so that what is between them is what can be learned from.

    Args:
        source: one of :data:`FEWREL`.
        root: the data root; by default ``$MLCORE_DATA``.
    """
    folder = _folder("fewrel", root)
    _check(source, FEWREL, "source of FewRel")
    texts, names = [], []
    for relation, rows in json.loads((folder / f"val_{source}.json").read_text(encoding="utf-8")).items():
        for row in rows:
            words = [word.lower() for word in row["tokens"]]
            for entity in ("tail", "head"):
                first, *others = row[entity[0]][2][0]
                words[first] = f"{entity}entity"
                for place in others:
                    words[place] = ""
            texts.append(" ".join(filter(None, words)))
            names.append(f"{source}/{relation}")
    return Sentences(texts, names)


def find_sentences(name: str, root: Path) -> Path | None:
    """The folder ``"text"`` or ``"fewrel"`` under ``root``; None when there is none."""
    return folder_with(root / name, *_FILES[name])


def _folder(name: str, root: Path | str | None) -> Path:
    instead = "the generated sentences of mlcore.datasets.phrases need no files"
    return needed_folder(name, *_FILES[name], root=root, what="sentences", instead=instead)


def _check(name: str, known: Sequence[str], what: str) -> None:
    if name not in known:
        raise ValueError(f"there is no {what} called {name!r}; choose one of {', '.join(known)}.")


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        if None in row or None in row.values():
            raise ValueError(
                f"{path}, row {i + 1}, has not as many fields as the header; quote commas, or get it again."
            )
    return rows


def _with_vectors(texts: list[str], names: list[str], path: Path, part: str) -> Sentences:
    """The sentences, and what the frozen encoder made of them."""
    with np.load(path, allow_pickle=False) as arrays:
        vectors = torch.from_numpy(arrays[part]).float()
    if len(vectors) != len(texts):
        raise ValueError(f"{path} holds {len(vectors)} vectors for {len(texts)} sentences of {part!r}; get both again.")
    return Sentences(check_sentences(texts), names, vectors)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))
