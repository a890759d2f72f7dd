"""The ablation in Making MAML train: its baselines have learned, and its verdicts follow from paired differences."""

from pathlib import Path

import nbformat
import pytest
import torch
from paired import of_a_fixed_answer, verdict

from mlcore.datasets import sinusoid
from mlcore.experiments import ledger

CHAPTER = Path(__file__).parents[2] / "book" / "optimization" / "making_maml_train.ipynb"
LINES = {  # a line of the ablation, and the one that it is compared with
    "careful": None,
    "maml": "careful",
    "clipped": "maml",
    "metasgd": "maml",
    "rates": "maml",
    "multistep": "rates",
    "cosine": "multistep",
    "mamlpp": "cosine",
}
VERDICTS = (
    ("With one rate for all, $0.03$ is worse than $0.01$, under each of the five seeds", "maml", "careful", "higher"),
    ("Both kinds lower the loss of MAML under every seed", "metasgd", "maml", "lower"),
    ("Both kinds lower the loss of MAML under every seed", "rates", "maml", "lower"),
    ("Meta-SGD also beats MAML with the smaller rate, under every seed", "metasgd", "careful", "lower"),
    ("Rates by layer and step are not shown to", "rates", "careful", "unclear"),
    ("Clamping the meta-gradient helps too, under every seed", "clipped", "maml", "lower"),
    ("Meta-SGD is below it under every seed", "metasgd", "clipped", "lower"),
    ("by an amount that the seeds do not tell from zero", "multistep", "rates", "unclear"),
    ("The cosine after it costs a little, under every seed", "cosine", "multistep", "higher"),
    ("makes matters worse under every seed", "mamlpp", "cosine", "higher"),
    ("So all parts together cannot be told from plain MAML", "mamlpp", "maml", "unclear"),
    ("and the interval of the difference just reaches zero", "careful", "clipped", "unclear"),
)


def per_task(key: str) -> torch.Tensor:
    """Test loss of every recorded seed: [seeds, tasks]."""
    runs = ledger.read_runs(ledger.results_folder() / f"ablation-{key}-sinusoid.json")
    return torch.tensor([run["scores"][0]["per_task"] for run in runs if run["profile"] == "record"]).double()


def typical(key: str) -> torch.Tensor:
    """Loss of the median task, of every seed."""
    return per_task(key).quantile(0.5, dim=1)


def test_all_lines_have_the_same_seeds_and_tasks():
    for key in LINES:
        runs = ledger.read_runs(ledger.results_folder() / f"ablation-{key}-sinusoid.json")
        assert [run["seed"] for run in runs] == list(range(5)) and per_task(key).shape == (5, 600)


@pytest.mark.parametrize("baseline", sorted({other for other in LINES.values() if other}))
def test_a_line_is_compared_with_one_that_beats_the_best_constant_answer(baseline):
    constant = of_a_fixed_answer(sinusoid(shots=5, queries=100).numbered(range(600), 0))  # the records' tasks
    assert (typical(baseline) < constant.quantile(0.5)).all()
    assert per_task(baseline).mean(1).quantile(0.5) < constant.mean()


@pytest.mark.parametrize(("sentence", "key", "other", "expected"), VERDICTS)
def test_a_verdict_follows_from_paired_differences(sentence, key, other, expected):
    prose = "\n".join(cell.source for cell in nbformat.read(CHAPTER, as_version=4).cells)
    change = typical(key) - typical(other)
    assert sentence in " ".join(prose.split())
    assert verdict(change) == expected
    if "just reaches zero" in sentence:
        assert "is lower in four of five seeds" in " ".join(prose.split()) and (change < 0).sum() == 4
    if "every seed" in sentence or "each of the five seeds" in sentence:
        assert len(set(change.sign().tolist())) == 1


def test_the_teeth_and_the_first_steps_are_as_told():
    curves = {}
    for key in ("careful", "maml"):
        runs = ledger.read_runs(ledger.results_folder() / f"ablation-{key}-sinusoid.json")
        means = torch.tensor([run["validation"]["mean"] for run in runs]).double()
        curves[key] = means.nan_to_num(1e9, 1e9).clamp(max=1e9)
    jumps = {key: curve.log().diff(dim=1).abs() for key, curve in curves.items()}
    early, late = (
        jumps["maml"][:, part].quantile(0.5, 1) - jumps["careful"][:, part].quantile(0.5, 1)
        for part in (slice(14), slice(60, None))
    )
    assert verdict(early) == verdict(late) == "unclear" and (late < 0).all()
    gone = curves["maml"][:, 61:].quantile(0.5, 1) > 10
    assert gone.sum() == 1, "the page says that one of the five seeds blew up, and reads the teeth of the others"
    assert verdict(late[~gone]) == "unclear"
    validation = sinusoid(shots=5, queries=25)  # of seed s, the list that meta_train names -1 - s
    lists = [of_a_fixed_answer(validation.numbered(range(200), -1 - seed)) for seed in range(5)]
    fixed = torch.cat(lists).mean()
    below = torch.cat([10 * (1 + (curve < fixed).double().argmax(1)) for curve in curves.values()])
    prose = CHAPTER.read_text(encoding="utf-8")
    assert f"between {below.min()} and {below.max()} updates" in prose
