"""Named experiments. ``mlcore run NAME`` trains, scores and records one; adding one is adding an entry to a tuple.

:mod:`mlcore.experiment` says what the fields mean.
"""

from difflib import get_close_matches

from mlcore.experiment import Recipe
from mlcore.recipes.curves import CURVES
from mlcore.recipes.metric import METRIC
from mlcore.recipes.optimization import OPTIMIZATION
from mlcore.recipes.transfer import TRANSFER

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*OPTIMIZATION, *METRIC, *TRANSFER, *CURVES)}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, or an error that names the nearest ones."""
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"there is no recipe {name!r}; {hint}`mlcore list` shows all.")
    return RECIPES[name]
