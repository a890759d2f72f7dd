"""What the chapters on feature reuse and on implicit gradients say of their records follows from paired differences."""

import math
from pathlib import Path

import nbformat
import pytest
import torch
from paired import of_a_fixed_answer, verdict

from mlcore.datasets import sinusoid
from mlcore.experiments import ledger

BOOK = Path(__file__).parents[2] / "book" / "optimization"


def per_task(recipe: str, setting: str, seed: int = 0) -> torch.Tensor:
    """Score of every test task of one recorded run."""
    (score,) = (s for s in ledger.recorded(recipe, seed=seed)["scores"] if s["setting"] == setting)
    return torch.tensor(score["per_task"]).double()


def reused(network: str, reading: str) -> torch.Tensor:
    """Accuracy of a network of the reuse chapter under one reading."""
    return per_task(f"reuse-{network}-omniglot-5w1s", reading)


READINGS = (
    ("Its first three blocks are *reused*", ("maml", "block 4, head"), ("maml", "everything"), "higher"),
    ("the head alone cannot make up for it", ("maml", "head"), ("maml", "everything"), "lower"),
    ("cannot be told from full adaptation", ("maml", "nothing"), ("maml", "everything"), "unclear"),
    ("loses more than it does with the body alone", ("maml", "head"), ("maml", "body"), "lower"),
    ("ANIL's features, read by NIL, are the best of the table", ("anil", "nothing"), ("anil", "head"), "higher"),
    ("On negatives even NIL is better", ("maml", "nothing, negatives"), ("maml", "everything, negatives"), "higher"),
    *(
        ("a moving body hurts everywhere", ("anil", f"everything{shift}"), ("anil", f"head{shift}"), "lower")
        for shift in ("", ", negatives", ", shuffled", ", glyphs")
    ),
)


def prose(chapter: str) -> str:
    cells = nbformat.read(BOOK / f"{chapter}.ipynb", as_version=4).cells
    return " ".join("\n".join(cell.source for cell in cells).split())


@pytest.mark.parametrize(("sentence", "ours", "other", "expected"), READINGS)
def test_a_reading_of_the_features_is_told_as_the_paired_scores_have_it(sentence, ours, other, expected):
    assert sentence in prose("feature_reuse")
    assert verdict(reused(*ours) - reused(*other)) == expected


def test_anil_with_a_linear_layer_beats_maml_on_the_same_network():
    assert "is lower than MAML's by a little" in prose("feature_reuse")
    seeds = seeds_of("anil-linear-sinusoid")
    assert seeds and seeds == seeds_of("maml-linear-sinusoid")
    for seed in seeds:
        one, five, ten = (
            [per_task(f"{key}-linear-sinusoid", f"5-shot, {steps}", seed) for key in ("anil", "maml")]
            for steps in ("1 step", "5 steps", "10 steps")
        )
        assert verdict(one[0] - one[1]) == "lower"
        for ours, other in (five, ten):
            assert (ours < other.nan_to_num(math.inf)).double().mean() > 0.5


def seeds_of(recipe: str) -> set[int]:
    return {run["seed"] for run in ledger.read_runs(ledger.results_folder() / f"{recipe}.json")}


def test_the_inverse_matters_where_the_inner_problem_is_solved():
    exact, plain = "imaml-solved-sinusoid", "imaml-without-inverse-solved-sinusoid"
    tasks = sinusoid(shots=5, queries=100).numbered(range(600), 0)  # the records' tasks
    constant = of_a_fixed_answer(tasks)
    assert "The inverse matters here" in prose("implicit_gradients")
    assert seeds_of(exact) == seeds_of(plain) == {0, 1, 2}
    for seed in (0, 1, 2):
        ours, other = (per_task(name, "5-shot, solved", seed) for name in (exact, plain))
        assert verdict(ours - other) == "lower"
        assert verdict(ours - constant) == verdict(other - constant) == "lower"
