"""Named experiments. ``mlcore run NAME`` trains, scores and records one; adding one is adding an entry to a tuple.

:mod:`mlcore.experiment` says what the fields mean.
"""

from mlcore.experiment import Recipe
from mlcore.recipes.curves import CURVES
from mlcore.recipes.metric import METRIC
from mlcore.recipes.optimization import OPTIMIZATION
from mlcore.recipes.transfer import TRANSFER

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (*OPTIMIZATION, *METRIC, *TRANSFER, *CURVES)}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name, or an error that lists the names."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    return RECIPES[name]
