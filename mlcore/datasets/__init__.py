"""Data sets, ready as tasks. Glyphs, sinusoids and phrases need no download; the others are read from the data root."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from mlcore.agents import Bandits, HiddenGoal, Navigation, RandomMDPs
from mlcore.datasets.blood_cells import KINDS as KINDS_OF_CELLS
from mlcore.datasets.blood_cells import MarkedCells, blood_cells, find_blood_cells, made_up_cells
from mlcore.datasets.catalogue import DATA_SETS, Found, canvases, describe, drawings, pairs, pixels
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
from mlcore.tasks import ClassByClass, StreamTasks

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

bandits, hidden_goal, navigation, random_mdps = Bandits, HiddenGoal, Navigation, RandomMDPs


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
    loadable = {name: row.load for name, row in DATA_SETS.items() if row.load}
    if name not in loadable:
        near = get_close_matches(name, loadable, n=2, cutoff=0.75)
        hint = f"did you mean {' or '.join(near)}" if near else f"choose one of {', '.join(loadable)}"
        raise ValueError(f"there is no data set {name!r}; {hint}.")
    if not DATA_SETS[name].images:
        return loadable[name](**settings)
    train, val, test = loadable[name](**settings)
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
