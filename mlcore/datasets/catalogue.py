"""Every data set in one table: how it is loaded, what it is, where it is found, and on what terms."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mlcore.agents import Bandits, HiddenGoal, Navigation, RandomMDPs
from mlcore.datasets.blood_cells import blood_cells, find_blood_cells, made_up_cells
from mlcore.datasets.cifar import cifar, find_cifar
from mlcore.datasets.eurosat import eurosat, find_eurosat
from mlcore.datasets.gaussian_process import gaussian_process
from mlcore.datasets.glyphs import glyphs
from mlcore.datasets.intents import intents, relations
from mlcore.datasets.linear_regression import linear_regression
from mlcore.datasets.movielens import find_movielens, movielens
from mlcore.datasets.omniglot import find_omniglot, omniglot, omniglot_background, omniglot_challenge
from mlcore.datasets.parkinsons import find_parkinsons
from mlcore.datasets.pixels import PixelTasks
from mlcore.datasets.plants import pendulums
from mlcore.datasets.population import population
from mlcore.datasets.quadratics import quadratics
from mlcore.datasets.sentences import find_sentences
from mlcore.datasets.sinusoid import noisy_sinusoid, sinusoid
from mlcore.datasets.strokes import find_kanji, invented, kanji
from mlcore.datasets.tables import tables
from mlcore.datasets.tennessee import find_tennessee, tennessee
from mlcore.datasets.wave_streams import wave_streams
from mlcore.files import data_root
from mlcore.task import Tasks
from mlcore.tasks import Canvases, DrawingSets, Pairs
from mlcore.tasks.sizes import Size


class DataSet(NamedTuple):
    """A row of the table; the defaults are those of data that this package makes."""

    about: str
    load: Callable[..., tuple] | None  # (train, val, test) tasks; None for what is no tasks yet
    licence: str = "made by this package"
    images: bool = False  # classes of images, of which more can be made
    find: Callable[[Path], Path | None] | None = None  # where it is in the data root
    how_to_get: str = ""
    source: str = ""  # where it comes from


class Found(NamedTuple):
    """Where a data set is."""

    name: str
    about: str
    found: Path | str | None
    how_to_get: str
    licence: str
    source: str


def describe() -> list[Found]:
    """Each data set: what it is, where it was found, how to get it, on what terms, and where it comes from."""
    root = data_root()
    return [
        Found(name, row.about, row.find(root) if row.find else "built in", row.how_to_get, row.licence, row.source)
        for name, row in DATA_SETS.items()
    ]


def _thrice(distribution: Callable[..., Tasks], **settings: Any) -> tuple[Tasks, Tasks, Tasks]:
    tasks = distribution(**settings)
    return tasks, tasks, tasks


def _images(of: str) -> Callable[..., tuple]:
    """Loads the images of that name."""
    choices = [name for name, row in DATA_SETS.items() if row.images]
    if of not in choices or (load := DATA_SETS[of].load) is None:
        raise ValueError(f"of={of!r} is no data set of images; choose one of {', '.join(choices)}.")
    return load


def _challenge(*, size: int = 28, **settings: Any) -> tuple[Tasks, None, Tasks]:
    return omniglot_background(**settings), None, omniglot_challenge(size=size)


def pixels(*, of: str = "glyphs", shots: Size = (10, 200), queries: Size = 200) -> tuple[Tasks, Tasks, Tasks]:
    """Images as functions, as (train, val, test) tasks over disjoint classes; see :class:`PixelTasks`.

    Args:
        of: whose images, ``"glyphs"`` or ``"omniglot"``.
        shots, queries: known pixels and pixels asked for.
    """
    train, val, test = (PixelTasks(part.x[part.codes() // 4], shots=shots, queries=queries) for part in _images(of)())
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
    parts = (part.with_rotated_classes() if turned else part for part in _images(of)(**settings))
    train, val, test = (DrawingSets(part, shots=shots, queries=queries) for part in parts)
    return train, val, test


def pairs(*, of: str = "glyphs", pairs: int = 4, **settings: Any) -> tuple[Pairs, Pairs, Pairs]:
    """Pairs of images of one class, as (train, val, test) tasks over disjoint classes; see :class:`Pairs`.

    Args:
        of: whose images, ``"glyphs"``, ``"omniglot"`` or ``"cifar"``.
        pairs: of a task.
        settings: for the data set, such as ``split``.
    """
    train, val, test = (Pairs(part, pairs=pairs) for part in _images(of)(**settings))
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
    train, val, test = (Canvases(part, **options) for part in _images(of)(**settings))
    return train, val, train if seen else test


_OF_OTHERS = "made from the images named"

_OMNIGLOT = DataSet(
    "1,623 handwritten characters",
    omniglot,
    "MIT licence, Brenden Lake",
    images=True,
    find=find_omniglot,
    how_to_get="`mlcore data --download omniglot` fetches 15 MB",
    source="github.com/brendenlake/omniglot",
)

DATA_SETS: dict[str, DataSet] = {
    "sinusoid": DataSet("regression tasks, drawn as needed", partial(_thrice, sinusoid)),
    "noisy_sinusoid": DataSet("sinusoids seen with noise, drawn as needed", partial(_thrice, noisy_sinusoid)),
    "gaussian_process": DataSet("random functions of a line, drawn as needed", partial(_thrice, gaussian_process)),
    "linear_regression": DataSet("random linear functions, drawn as needed", partial(_thrice, linear_regression)),
    "quadratics": DataSet("problems for an optimiser, drawn as needed", partial(_thrice, quadratics)),
    "tables": DataSet("tables from random causal models, drawn as needed", partial(_thrice, tables)),
    "wave_streams": DataSet("waves one after another, drawn as needed", partial(_thrice, wave_streams)),
    "population": DataSet("people who rate things, drawn as needed", partial(_thrice, population)),
    "bandits": DataSet("arms that pay or not, drawn as needed", partial(_thrice, Bandits)),
    "hidden_goal": DataSet("a grid with a goal to find, drawn as needed", partial(_thrice, HiddenGoal)),
    "random_mdps": DataSet("states and actions, drawn as needed", partial(_thrice, RandomMDPs)),
    "navigation": DataSet("a point in the plane and its goal, drawn as needed", partial(_thrice, Navigation)),
    "pendulums": DataSet("pendulums to balance, drawn as needed", partial(_thrice, pendulums)),
    "pixels": DataSet("images as functions of the place", pixels, _OF_OTHERS),
    "drawings": DataSet("sets of drawings of a character", drawings, _OF_OTHERS),
    "pairs": DataSet("pairs of images of one class", pairs, _OF_OTHERS),
    "canvases": DataSet("a character among others, to be outlined", canvases, _OF_OTHERS),
    "made_up_cells": DataSet("discs that stand in for blood cells", partial(_thrice, made_up_cells)),
    "phrases": DataSet("sentences from templates, in 240 intents", None),
    "invented": DataSet("characters that nobody wrote, drawn as needed", invented, images=True),
    "glyphs": DataSet(
        "warped letters of matplotlib's fonts",
        glyphs,
        "made from the DejaVu fonts, whose licence allows it",
        images=True,
    ),
    "omniglot": _OMNIGLOT,
    "omniglot_challenge": _OMNIGLOT._replace(
        about="the 20 runs of the Omniglot challenge, and what they allow to train on", load=_challenge, images=False
    ),
    "cifar": DataSet(
        "CIFAR-100 split by class: CIFAR-FS and FC100",
        cifar,
        "CIFAR-100, for which its authors state no licence",
        images=True,
        find=find_cifar,
        how_to_get="put cifar_fs/ into the data root, in the layout that `mlcore.datasets.cifar` describes",
        source="cs.toronto.edu/~kriz/cifar.html",
    ),
    "eurosat": DataSet(
        "satellite images of ten kinds of land, to test on",
        eurosat,
        "MIT licence, Patrick Helber; the images are Copernicus Sentinel data",
        find=find_eurosat,
        how_to_get="put eurosat_rgb_300.zip into eurosat/ of the data root",
        source="github.com/phelber/EuroSAT",
    ),
    "kanji": DataSet(
        "the strokes of 11,335 kanji, drawn anew as needed",
        kanji,
        "CC BY-SA 3.0, Ulrich Apel (KanjiVG)",
        images=True,
        find=find_kanji,
        how_to_get="put kanji_strokes/ into the data root; invented characters need no files",
        source="github.com/hardmaru/sketch-rnn-datasets",
    ),
    "intents": DataSet(
        "CLINC150 and BANKING77, with vectors of a frozen encoder",
        intents,
        "CC BY 3.0, Larson et al. (2019), and CC BY 4.0, PolyAI; vectors of all-MiniLM-L6-v2, Apache 2.0",
        find=partial(find_sentences, "text"),
        how_to_get="put text/ into the data root; phrases need no files",
        source="github.com/clinc/oos-eval and github.com/PolyAI-LDN/task-specific-datasets",
    ),
    "relations": DataSet(
        "FewRel's validation sentences from Wikipedia, medicine and news",
        relations,
        "MIT licence, THUNLP",
        find=partial(find_sentences, "fewrel"),
        how_to_get="put fewrel/ into the data root",
        source="github.com/thunlp/FewRel",
    ),
    "movielens": DataSet(
        "100,836 ratings of films by 610 people",
        movielens,
        "GroupLens: research, no commercial use, redistribution under the same terms",
        find=find_movielens,
        how_to_get="put ratings.csv and movies.csv of ml-latest-small into movielens_small/ of the data root",
        source="grouplens.org/datasets/movielens",
    ),
    "parkinsons": DataSet(
        "5,875 voice recordings of 42 patients",
        None,
        "CC BY 4.0, as the UCI repository states it",
        find=find_parkinsons,
        how_to_get="put parkinsons_updrs.csv into parkinsons/ of the data root",
        source="archive.ics.uci.edu, data set 189",
    ),
    "tennessee": DataSet(
        "runs of a simulated chemical plant with 21 faults",
        tennessee,
        "University of Illinois, as NCSA: redistribution with its notice",
        find=find_tennessee,
        how_to_get="put tep.npz into tep/ of the data root",
        source="github.com/camaramm/tennessee-eastman-profBraatz",
    ),
    "blood_cells": DataSet(
        "364 blood smears with boxes around cells",
        partial(_thrice, blood_cells),
        "MIT licence, the BCCD repository",
        find=find_blood_cells,
        how_to_get="put bccd.zip into bccd/ of the data root; made_up_cells need no files",
        source="github.com/Shenggan/BCCD_Dataset",
    ),
}
