"""MovieLens latest-small: 100,836 ratings of films by 610 people (Harper and Konstan, 2015). A person is a task."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mlcore.densities import either
from mlcore.files import folder_with, needed_folder
from mlcore.task import seeded
from mlcore.tasks import GroupedTasks
from mlcore.tasks.sizes import Size

_FOLDER, _FILES, _RATINGS, _USERS = "movielens_small", ("ratings.csv", "movies.csv"), 100_836, 610
GENRES = (
    "Action Adventure Animation Children Comedy Crime Documentary Drama Fantasy Film-Noir Horror IMAX Musical Mystery "
    "Romance Sci-Fi Thriller War Western"
).split()
COLUMNS = ["film's mean", "others who rated it", "year", *GENRES]
_SHRINK = 3.0  # ratings of a film that the mean of all stands for; chosen on validation users


class Ratings(NamedTuple):
    """The ratings as they are, a row each, and the films."""

    user: np.ndarray  # [ratings]
    film: np.ndarray  # [ratings], position in ``titles``
    stars: np.ndarray  # [ratings], 0.5 to 5
    seconds: np.ndarray  # [ratings], when
    titles: list[str]
    genres: np.ndarray  # [films, 19], of zeros and ones
    year: np.ndarray  # [films]


def find_movielens(root: Path) -> Path | None:
    """The folder under ``root`` that holds MovieLens latest-small; None when there is none."""
    return folder_with(root / _FOLDER, *_FILES)


def read_movielens(root: Path | str | None = None) -> Ratings:
    """The ratings and films as GroupLens gives them.

    Raises:
        FileNotFoundError: no data; the message says where it looked.
        ValueError: a file that is not that of September 2018.
    """
    folder = needed_folder(
        _FOLDER, *_FILES, root=root, what="MovieLens", instead="the dataset 'population' needs no files"
    )
    with open(folder / "movies.csv", encoding="utf-8", newline="") as file:
        films = list(csv.reader(file))[1:]
    try:
        table = np.loadtxt(folder / "ratings.csv", delimiter=",", skiprows=1, ndmin=2)
        number = {int(film[0]): i for i, film in enumerate(films)}
        film = np.array([number[int(i)] for i in table[:, 1]])
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(f"{folder} is truncated or damaged ({error}); get it again.") from error
    if len(table) != _RATINGS or len(np.unique(table[:, 0])) != _USERS:
        raise ValueError(f"{folder} has {len(table):,} ratings, not the {_RATINGS:,} of September 2018; get it again.")
    year = [re.search(r"\((\d{4})\)\s*$", title) for _, title, _ in films]
    return Ratings(
        user=table[:, 0].astype(int),
        film=film,
        stars=table[:, 2],
        seconds=table[:, 3],
        titles=[title for _, title, _ in films],
        genres=np.array([[genre in film[2].split("|") for genre in GENRES] for film in films], float),
        year=np.array([float(found[1]) if found else 1995.0 for found in year]),
    )


def parts_of_users(ratings: Ratings, seed: int = 0) -> list[np.ndarray]:
    """Users for training, validation and test, 64, 16 and 20 % of them: three arrays of names."""
    users = np.unique(ratings.user)
    order = users[torch.randperm(len(users), generator=seeded(seed)).numpy()]
    return np.split(order, [round(0.64 * len(order)), round(0.8 * len(order))])


def film_means(ratings: Ratings, training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every rating, the film's mean among training users *but its own*, and how many they are.

    The mean is shrunken towards that of all films. Were the rating at hand counted in, training would see it.
    """
    own = np.isin(ratings.user, training)
    total = np.bincount(ratings.film[own], ratings.stars[own], len(ratings.titles))
    count = np.bincount(ratings.film[own], minlength=len(ratings.titles)).astype(float)
    others = count[ratings.film] - own
    everywhere = ratings.stars[own].mean()
    stars = total[ratings.film] - own * ratings.stars
    return (stars + _SHRINK * everywhere) / (others + _SHRINK), others


def movielens(
    *, root: Path | str | None = None, shots: Size = 10, queries: Size = 10, by_date: bool = False, seed: int = 0
) -> tuple[GroupedTasks, GroupedTasks, GroupedTasks]:
    """MovieLens as (train, val, test) tasks over disjoint users, of whom test users are a task each, once.

    An input is a film, the columns :data:`COLUMNS` brought to about one in size; the target is how many stars a person
    gives it above the film's mean among training users, see :func:`film_means`.

    Args:
        root: where ``movielens_small/`` is; :func:`mlcore.files.data_root` by default.
        shots: ratings to learn from.
        queries: ratings asked about, of a test user at most so many.
        by_date: learn from a person's earlier ratings, and ask about later ones.
        seed: of the split of users.

    Raises:
        FileNotFoundError, ValueError: as from :func:`read_movielens`.
    """
    ratings = read_movielens(root)
    users = parts_of_users(ratings, seed)
    mean, others = film_means(ratings, users[0])
    year = (ratings.year[ratings.film] - 1995) / 15
    x = np.column_stack([mean - 3.5, np.log1p(others) / 3 - 1, year, ratings.genres[ratings.film]])
    parts = [np.isin(ratings.user, part) for part in users]
    train, val, test = (
        GroupedTasks(
            x[part],
            ratings.stars[part].astype(np.float32) - mean[part].astype(np.float32),
            ratings.user[part],
            when=ratings.seconds[part] if by_date else None,
            shots=shots,
            queries=queries,
            objective=either,
        )
        for part in parts
    )
    return train, val, test.once_each()
