"""Named experiments. ``mlcore run NAME`` trains, scores and records one; adding one is adding an entry to a tuple.

:mod:`mlcore.experiments.recipe` says what the fields mean.
"""

from difflib import get_close_matches

from mlcore.experiments.catalogue.adversaries import ADVERSARIES
from mlcore.experiments.catalogue.agents import AGENTS
from mlcore.experiments.catalogue.amortised import AMORTISED
from mlcore.experiments.catalogue.curves import CURVES
from mlcore.experiments.catalogue.far import FAR
from mlcore.experiments.catalogue.finding import FINDING
from mlcore.experiments.catalogue.generation import GENERATION
from mlcore.experiments.catalogue.helping import HELPING
from mlcore.experiments.catalogue.metric import METRIC
from mlcore.experiments.catalogue.optimization import OPTIMIZATION
from mlcore.experiments.catalogue.people import PEOPLE
from mlcore.experiments.catalogue.scale import SCALE
from mlcore.experiments.catalogue.streams import STREAMS
from mlcore.experiments.catalogue.text import TEXT
from mlcore.experiments.catalogue.transfer import TRANSFER
from mlcore.experiments.catalogue.walks import WALKS
from mlcore.experiments.catalogue.words import WORDS
from mlcore.experiments.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        *OPTIMIZATION,
        *METRIC,
        *TRANSFER,
        *AMORTISED,
        *TEXT,
        *AGENTS,
        *WALKS,
        *STREAMS,
        *PEOPLE,
        *GENERATION,
        *HELPING,
        *ADVERSARIES,
        *FINDING,
        *CURVES,
        *FAR,
        *SCALE,
        *WORDS,
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, or an error that names the nearest ones."""
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"there is no recipe {name!r}; {hint}`mlcore list` shows all.")
    return RECIPES[name]
