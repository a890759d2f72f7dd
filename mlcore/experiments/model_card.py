"""Model cards (Mitchell et al., 2019): what ships with a file of weights, so that nobody uses it for what it is not."""

from typing import Any

from mlcore import datasets
from mlcore.experiments.recipe import Recipe

_LIMITS = (
    "Scored on tasks that training never saw, of the same data; other data will score lower.",
    "The interval is over test tasks, for these weights; another seed of training gives other weights.",
    "Made to be studied and compared with. It was not examined for bias, nor for use in a product.",
)


def model_card(recipe: Recipe, entry: dict[str, Any]) -> str:
    """The card of a recorded run, in Markdown.

    Args:
        recipe: what was run.
        entry: its entry in the ledger, see :func:`mlcore.experiments.ledger.entry`.
    """
    found = {entry.name: entry for entry in datasets.describe()}
    data = found[recipe.dataset]
    training = ", ".join(f"{name} {_word(value)}" for name, value in recipe.training.items())
    lines = [
        f"# {recipe.name}",
        "",
        f"{recipe.title.rstrip(',')} ({recipe.paper}).",
        "",
        "```python",
        f'learner = mlcore.load("{recipe.name}")',
        "```",
        "",
        f"`mlcore score {recipe.name}` scores it on your machine and says whether the record holds.",
        "",
        "| | |",
        "|---|---|",
        f"| data | {recipe.dataset}: {data.about}; {data.licence} |",
        f"| training | {entry['iterations']:,} meta-updates, {training}; seed {entry['seed']} |",
        f"| made by | commit {entry['commit']}, torch {entry['torch']}, {entry['processor']}, "
        f"{entry['minutes']:.0f} minutes |",
    ]
    for score in entry["scores"]:
        scale, digits, unit = (100, 1, " %") if score["percent"] else (1, 3, "")
        value = f"{scale * score['mean']:.{digits}f} ± {scale * score['ci95']:.{digits}f}{unit}"
        lines.append(f"| {score['setting']} | {value} {score['metric']}, {score['tasks']} test tasks |")
    return "\n".join([*lines, "", *(f"- {limit}" for limit in _LIMITS), ""])


def _word(value: Any) -> str:
    return getattr(value, "__name__", None) or getattr(getattr(value, "func", None), "__name__", None) or f"{value}"
