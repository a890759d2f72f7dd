"""Data sets, ready as tasks. Glyphs, sinusoids and phrases need no download; the others are read from the data root."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlcore.agents import Bandits, HiddenGoal, Navigation, RandomMDPs
from mlcore.datasets.blood_cells import KINDS as KINDS_OF_CELLS
from mlcore.datasets.blood_cells import MarkedCells, blood_cells, find_blood_cells, made_up_cells
from mlcore.datasets.cifar import cifar, find_cifar
from mlcore.datasets.colour import in_colour
from mlcore.datasets.eurosat import eurosat, find_eurosat
from mlcore.datasets.families import FamilySets
from mlcore.datasets.features import features_of, in_features
from mlcore.datasets.gaussian_process import GaussianProcessTasks, gaussian_process
from mlcore.datasets.glyphs import glyphs
from mlcore.datasets.intents import intents, relations
from mlcore.datasets.linear_regression import LinearRegressionTasks, linear_regression
from mlcore.datasets.movielens import find_movielens, movielens
from mlcore.datasets.omniglot import (
    download_omniglot,
    find_omniglot,
    omniglot,
    omniglot_background,
    omniglot_challenge,
)
from mlcore.datasets.parkinsons import find_parkinsons, parkinsons
from mlcore.datasets.phrases import phrases
from mlcore.datasets.pixels import PixelTasks
from mlcore.datasets.plants import Pendulums, pendulums
from mlcore.datasets.population import PopulationTasks, population
from mlcore.datasets.quadratics import QuadraticTasks, quadratics
from mlcore.datasets.sentences import Sentences, TextFeatures, find_sentences
from mlcore.datasets.sinusoid import NoisySinusoids, noisy_sinusoid, sinusoid
from mlcore.datasets.strokes import find_kanji, invented, kanji
from mlcore.datasets.subsets import fewer_classes, of_groups
from mlcore.datasets.tables import TableTasks, tables
from mlcore.datasets.tennessee import TwoRuns, find_tennessee, tennessee
from mlcore.datasets.wave_streams import WaveStreams, wave_streams
from mlcore.datasets.words import Names, encoded_names, find_encoded_names, with_names
from mlcore.files import data_root
from mlcore.task import Tasks
from mlcore.tasks import Canvases, ClassByClass, ClassificationTasks, DrawingSets, Pairs, StreamTasks
from mlcore.tasks.sizes import Size

__all__ = [
    "KINDS_OF_CELLS",
    "FamilySets",
    "Found",
    "GaussianProcessTasks",
    "LinearRegressionTasks",
    "MarkedCells",
    "NoisySinusoids",
    "Pendulums",
    "PixelTasks",
    "PopulationTasks",
    "QuadraticTasks",
    "Sentences",
    "TableTasks",
    "TextFeatures",
    "TwoRuns",
    "WaveStreams",
    "bandits",
    "blood_cells",
    "canvases",
    "cifar",
    "describe",
    "download_omniglot",
    "drawings",
    "encoded_names",
    "eurosat",
    "features_of",
    "fewer_classes",
    "find_blood_cells",
    "find_cifar",
    "find_encoded_names",
    "find_eurosat",
    "find_kanji",
    "find_movielens",
    "find_omniglot",
    "find_parkinsons",
    "find_sentences",
    "find_tennessee",
    "gaussian_process",
    "glyphs",
    "hidden_goal",
    "in_colour",
    "in_features",
    "intents",
    "invented",
    "kanji",
    "linear_regression",
    "load",
    "made_up_cells",
    "movielens",
    "navigation",
    "noisy_sinusoid",
    "of_groups",
    "omniglot",
    "omniglot_background",
    "omniglot_challenge",
    "pairs",
    "parkinsons",
    "pendulums",
    "phrases",
    "pixels",
    "population",
    "quadratics",
    "random_mdps",
    "relations",
    "sinusoid",
    "tables",
    "tennessee",
    "wave_streams",
    "with_names",
]

_IMAGES: dict[str, Callable[..., tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]]] = {
    "glyphs": glyphs,
    "omniglot": omniglot,
    "cifar": cifar,
    "invented": invented,
    "kanji": kanji,
}


def _thrice(distribution: Callable[..., Tasks], **settings: Any) -> tuple[Tasks, Tasks, Tasks]:
    tasks = distribution(**settings)
    return tasks, tasks, tasks


def _challenge(*, size: int = 28, **settings: Any) -> tuple[Tasks, None, Tasks]:
    return omniglot_background(**settings), None, omniglot_challenge(size=size)


def pixels(*, of: str = "glyphs", shots: Size = (10, 200), queries: Size = 200) -> tuple[Tasks, Tasks, Tasks]:
    """Images as functions, as (train, val, test) tasks over disjoint classes; see :class:`PixelTasks`.

    Args:
        of: whose images, ``"glyphs"`` or ``"omniglot"``.
        shots, queries: known pixels and pixels asked for.
    """
    train, val, test = (PixelTasks(part.x[part.codes() // 4], shots=shots, queries=queries) for part in _IMAGES[of]())
    return train, val, test


def drawings(
    *, of: str = "glyphs", shots: Size = (0, 5), queries: Size = 5, turned: bool = False, **settings: Any
) -> tuple[DrawingSets, DrawingSets, DrawingSets]:
    """Sets of drawings of one character, as (train, val, test) tasks over disjoint classes; see :class:`DrawingSets`.

    Args:
        of: whose images, ``"glyphs"`` or ``"omniglot"``.
        shots, queries: drawings to learn from, and to be asked about.
        turned: let turned characters be classes of their own, as ``rotated_classes`` of :func:`load`.
        settings: for the data set, such as ``split``.
    """
    parts = (part.with_rotated_classes() if turned else part for part in _IMAGES[of](**settings))
    train, val, test = (DrawingSets(part, shots=shots, queries=queries) for part in parts)
    return train, val, test


def pairs(*, of: str = "glyphs", pairs: int = 4, **settings: Any) -> tuple[Pairs, Pairs, Pairs]:
    """Pairs of images of one class, as (train, val, test) tasks over disjoint classes; see :class:`Pairs`.

    Args:
        of: whose images, ``"glyphs"``, ``"omniglot"`` or ``"cifar"``.
        pairs: of a task.
        settings: for the data set, such as ``split``.
    """
    train, val, test = (Pairs(part, pairs=pairs) for part in _IMAGES[of](**settings))
    return train, val, test


def canvases(
    *,
    of: str = "glyphs",
    characters: Size = 4,
    shots: Size = 1,
    queries: Size = 1,
    side: int = 64,
    noise: float = 0.0,
    seen: bool = False,
    **settings: Any,
) -> tuple[Canvases, Canvases, Canvases]:
    """Cluttered canvases, as (train, val, test) tasks over disjoint classes; see :class:`Canvases`.

    Args:
        of: whose drawings, ``"glyphs"`` or ``"omniglot"``.
        characters, shots, queries, side, noise: as for :class:`~mlcore.tasks.Canvases`.
        seen: test on new canvases of the training classes.
        settings: for the data set, such as ``split``.
    """
    options = {"characters": characters, "shots": shots, "queries": queries, "side": side, "noise": noise}
    train, val, test = (Canvases(part, **options) for part in _IMAGES[of](**settings))
    return train, val, train if seen else test


bandits, hidden_goal, navigation, random_mdps = Bandits, HiddenGoal, Navigation, RandomMDPs

_OTHERS: dict[str, Callable[..., tuple]] = {
    "sinusoid": partial(_thrice, sinusoid),
    "noisy_sinusoid": partial(_thrice, noisy_sinusoid),
    "gaussian_process": partial(_thrice, gaussian_process),
    "linear_regression": partial(_thrice, linear_regression),
    "quadratics": partial(_thrice, quadratics),
    "tables": partial(_thrice, tables),
    "wave_streams": partial(_thrice, wave_streams),
    "bandits": partial(_thrice, bandits),
    "hidden_goal": partial(_thrice, hidden_goal),
    "navigation": partial(_thrice, navigation),
    "random_mdps": partial(_thrice, random_mdps),
    "pendulums": partial(_thrice, pendulums),
    "pixels": pixels,
    "drawings": drawings,
    "pairs": pairs,
    "canvases": canvases,
    "blood_cells": partial(_thrice, blood_cells),
    "made_up_cells": partial(_thrice, made_up_cells),
    "population": partial(_thrice, population),
    "movielens": movielens,
    "tennessee": tennessee,
    "omniglot_challenge": _challenge,
    "intents": intents,
    "relations": relations,
    "eurosat": eurosat,
}


def load(
    name: str,
    *,
    rotated_classes: bool = False,
    within_groups: bool = False,
    train_groups: Sequence[str] = (),
    test_groups: Sequence[str] = (),
    train_classes: int | None = None,
    whole_groups: bool = False,
    colour: bool = False,
    instances: int | None = None,
    class_by_class: bool = False,
    names: Names | None = None,
    **settings: Any,
) -> tuple[Any, Any, Any]:
    """The data set of that name as (train, val, test) tasks, of images over disjoint classes.

    Args:
        name: ``"glyphs"``, ``"omniglot"``, ``"cifar"``, ``"invented"`` or ``"kanji"``;
            ``"sinusoid"``, ``"noisy_sinusoid"``,
            ``"gaussian_process"``, ``"linear_regression"``, ``"quadratics"``, ``"tables"`` or ``"wave_streams"``, three
            times the same, since a test task of a continuum was never trained on, and so ``"population"``, people who
            rate things; ``"bandits"``, ``"hidden_goal"``, ``"random_mdps"`` or ``"navigation"``, worlds to act in, and
            ``"pendulums"``, plants to control, three times as well; ``"pixels"``, images as functions of the place;
            ``"drawings"``, sets of drawings of a character; ``"pairs"``, pairs of one class; ``"canvases"``, a
            character to find among others; ``"blood_cells"`` and ``"made_up_cells"``, cells to find;
            ``"movielens"``, users apart; ``"tennessee"``, faults apart;
            ``"omniglot_challenge"``, training within the background alphabets, no validation, and the challenge's 20
            runs; ``"intents"`` and ``"relations"``, sentences; ``"eurosat"``, satellite images to test on alone.
        rotated_classes: see :meth:`~mlcore.tasks.ClassificationTasks.with_rotated_classes`.
        within_groups: draw each episode from one alphabet, script or coarse label.
        train_groups, test_groups: keep only these groups of the training or the test classes; all by default.
        train_classes, whole_groups: train on that many classes alone, see :func:`fewer_classes`.
        colour: give all images one shape, see :func:`~mlcore.datasets.colour.in_colour`.
        instances: make streams of that many examples of each class, see :class:`~mlcore.tasks.StreamTasks`.
        class_by_class: let each support set come class after class, see :class:`~mlcore.tasks.ClassByClass`.
        names: let each support set come with vectors of its classes' names, see
            :func:`~mlcore.datasets.words.with_names`: those of an encoder for ``"cifar"``, else their letters.
        settings: for :func:`glyphs`, :func:`omniglot`, :func:`cifar`, :func:`invented`, :func:`kanji`,
            one of the distributions of functions, :func:`pixels`, :func:`drawings`, :func:`pairs`, :func:`canvases`,
            :func:`blood_cells`, :func:`made_up_cells`, :func:`intents`, :func:`~mlcore.datasets.intents.relations`,
            :func:`movielens`, :func:`tennessee`, :func:`~mlcore.datasets.eurosat.eurosat`, or
            :func:`omniglot_background`.
    """
    if name in _OTHERS:
        return _OTHERS[name](**settings)
    if name not in _IMAGES:
        raise ValueError(f"there is no data set {name!r}; choose one of {', '.join((*_IMAGES, *_OTHERS))}.")
    train, val, test = _IMAGES[name](**settings)
    if train_groups:
        train = of_groups(train, train_groups)
    if test_groups:
        test = of_groups(test, test_groups)
    if train_classes is not None:
        train = fewer_classes(train, train_classes, whole_groups=whole_groups)
    parts = (train, val, test)
    if colour:
        parts = tuple(map(in_colour, parts))
    if rotated_classes:
        parts = tuple(part.with_rotated_classes() for part in parts)
    train, val, test = (part.replace(within_groups=within_groups) for part in parts)
    if names is not None:
        if instances is not None or class_by_class:
            raise ValueError("names come with episodes; leave out instances and class_by_class.")
        train, val, test = with_names((train, val, test), names, "encoder" if name == "cifar" else "letters")
        return train, val, test
    if instances is not None:
        train, val, test = (StreamTasks(part, instances=instances) for part in (train, val, test))
    if class_by_class:
        train, val, test = (ClassByClass(part) for part in (train, val, test))
    return train, val, test


class Found(NamedTuple):
    """Where a data set is."""

    name: str
    about: str
    found: Path | str | None
    how_to_get: str
    licence: str


def describe() -> list[Found]:
    """Each data set: what it is, where it was found, how to get it, and on what terms."""
    return [
        Found("sinusoid", "regression tasks, drawn as needed", "built in", "", "made by this package"),
        Found("noisy_sinusoid", "sinusoids seen with noise, drawn as needed", "built in", "", "made by this package"),
        Found(
            "gaussian_process", "random functions of a line, drawn as needed", "built in", "", "made by this package"
        ),
        Found("linear_regression", "random linear functions, drawn as needed", "built in", "", "made by this package"),
        Found("quadratics", "problems for an optimiser, drawn as needed", "built in", "", "made by this package"),
        Found("tables", "tables from random causal models, drawn as needed", "built in", "", "made by this package"),
        Found("wave_streams", "waves one after another, drawn as needed", "built in", "", "made by this package"),
        Found("population", "people who rate things, drawn as needed", "built in", "", "made by this package"),
        Found("bandits", "arms that pay or not, drawn as needed", "built in", "", "made by this package"),
        Found("hidden_goal", "a grid with a goal to find, drawn as needed", "built in", "", "made by this package"),
        Found("random_mdps", "states and actions, drawn as needed", "built in", "", "made by this package"),
        Found(
            "navigation", "a point in the plane and its goal, drawn as needed", "built in", "", "made by this package"
        ),
        Found("pendulums", "pendulums to balance, drawn as needed", "built in", "", "made by this package"),
        Found("pixels", "images as functions of the place", "built in", "", "made from the images named"),
        Found("drawings", "sets of drawings of a character", "built in", "", "made from the images named"),
        Found("pairs", "pairs of images of one class", "built in", "", "made from the images named"),
        Found("canvases", "a character among others, to be outlined", "built in", "", "made from the images named"),
        Found("made_up_cells", "discs that stand in for blood cells", "built in", "", "made by this package"),
        Found(
            "glyphs",
            "warped letters of matplotlib's fonts",
            "built in",
            "",
            "made from the DejaVu fonts, whose licence allows it",
        ),
        Found(
            "omniglot",
            "1,623 handwritten characters",
            find_omniglot(data_root()),
            "`mlcore data --download omniglot` fetches 15 MB",
            "MIT licence, Brenden Lake",
        ),
        Found(
            "cifar",
            "CIFAR-100 split by class: CIFAR-FS and FC100",
            find_cifar(data_root()),
            "put cifar_fs/ into the data root",
            "CIFAR-100, for which its authors state no licence",
        ),
        Found(
            "eurosat",
            "satellite images of ten kinds of land, to test on",
            find_eurosat(data_root()),
            "put eurosat_rgb_300.zip into eurosat/ of the data root",
            "MIT licence, Patrick Helber; the images are Copernicus Sentinel data",
        ),
        Found("invented", "characters that nobody wrote, drawn as needed", "built in", "", "made by this package"),
        Found(
            "kanji",
            "the strokes of 11,335 kanji, drawn anew as needed",
            find_kanji(data_root()),
            "put kanji_strokes/ into the data root; invented characters need no files",
            "CC BY-SA 3.0, Ulrich Apel (KanjiVG)",
        ),
        Found("phrases", "sentences from templates, in 240 intents", "built in", "", "made by this package"),
        Found(
            "intents",
            "CLINC150 and BANKING77, with vectors of a frozen encoder",
            find_sentences("text", data_root()),
            "put text/ into the data root; phrases need no files",
            "CC BY 3.0, Larson et al. (2019), and CC BY 4.0, PolyAI; vectors of all-MiniLM-L6-v2, Apache 2.0",
        ),
        Found(
            "relations",
            "FewRel's validation sentences from Wikipedia, medicine and news",
            find_sentences("fewrel", data_root()),
            "put fewrel/ into the data root",
            "MIT licence, THUNLP",
        ),
        Found(
            "movielens",
            "100,836 ratings of films by 610 people",
            find_movielens(data_root()),
            "put ratings.csv and movies.csv of ml-latest-small into movielens_small/ of the data root",
            "GroupLens: research, no commercial use, redistribution under the same terms",
        ),
        Found(
            "parkinsons",
            "5,875 voice recordings of 42 patients",
            find_parkinsons(data_root()),
            "put parkinsons_updrs.csv into parkinsons/ of the data root",
            "CC BY 4.0, as the UCI repository states it",
        ),
        Found(
            "tennessee",
            "runs of a simulated chemical plant with 21 faults",
            find_tennessee(data_root()),
            "put tep.npz into tep/ of the data root",
            "University of Illinois, as NCSA: redistribution with its notice",
        ),
        Found(
            "blood_cells",
            "364 blood smears with boxes around cells",
            find_blood_cells(data_root()),
            "put bccd.zip into bccd/ of the data root; made_up_cells need no files",
            "MIT licence, the BCCD repository",
        ),
    ]
