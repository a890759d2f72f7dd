"""Records of runs, and the table that sets them beside the literature."""

import json
import re
from dataclasses import replace

import pytest
import torch
import yaml

from mlcore import History, Metric, Score, classification, files, regression
from mlcore.experiments import ledger
from mlcore.experiments.catalogue import RECIPES
from mlcore.experiments.ledger import Row, as_json, as_markdown, published, read_runs, record, recorded, rows
from mlcore.experiments.run import Run
from mlcore.objective import accuracy

SINUSOID, OMNIGLOT = RECIPES["maml-sinusoid"], RECIPES["maml-omniglot-5w1s"]
ROWS = [row.setting for row in OMNIGLOT.evaluations]


def _run(recipe=OMNIGLOT, mean: float = 0.9, iterations: int = 7, diverged: int = 0, metrics=None) -> Run:
    """A run as ``run_recipe`` returns it, its scores made up: mean ± 0.1 by four tasks, for all metrics alike."""
    metrics = metrics or (regression if recipe is SINUSOID else classification).metrics
    values = torch.tensor([mean - 0.1, mean + 0.1, mean - 0.1, mean + 0.1], dtype=torch.float64)
    main = next(iter(metrics))
    history = History([1.0] * iterations, [0.5] * iterations, [2, 4], [0.3, 0.4], [0.1, 0.2], 4, main, minutes=12.34)
    score = Score(dict.fromkeys(metrics, values), metrics, diverged)
    train = SINUSOID.splits()[0]  # of which a record says nothing
    return Run(recipe.build(0), history, {row.setting: score for row in recipe.evaluations}, train)


def test_a_record_holds_what_a_reader_must_know(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCORE_COMMIT", "abc123")
    path = record(OMNIGLOT, _run(diverged=1), profile="paper", seed=3, folder=tmp_path / "new")
    assert path == tmp_path / "new" / "maml-omniglot-5w1s.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["recipe"] == "maml-omniglot-5w1s"
    (run,) = content["runs"]
    assert (run["profile"], run["seed"], run["iterations"], run["minutes"]) == ("paper", 3, 7, 12.3)
    assert run["recipe_hash"] == OMNIGLOT.hash("paper")
    assert (run["commit"], run["device"], run["torch"]) == ("abc123", "cpu", torch.__version__)
    assert all(run[name] for name in ("processor", "threads", "python", "date"))
    assert run["validation"] == {"iteration": [2, 4], "mean": [0.3, 0.4], "ci95": [0.1, 0.2], "best_iteration": 4}
    assert [score["setting"] for score in run["scores"]] == ROWS
    assert [score["batch_norm"] for score in run["scores"]] == ["transductive", "support", "one_query", "running"]
    score = _run().scores[ROWS[0]]
    assert run["scores"][0] == {
        "setting": "transductive",
        "metric": "accuracy",
        "higher_is_better": True,
        "percent": True,
        "mean": score.mean,
        "ci95": score.ci95,
        "tasks": 4,
        "diverged": 1,
        "batch_norm": "transductive",
    }


def test_a_record_holds_every_metric(tmp_path):
    metrics = {"IoU": Metric(accuracy, percent=False), "miss rate": Metric(accuracy, higher_is_better=False)}
    run = _run(metrics=metrics | classification.metrics, mean=0.7)
    (entry,) = read_runs(record(OMNIGLOT, run, profile="paper", seed=0, folder=tmp_path))
    score = entry["scores"][0]
    assert (score["metric"], score["higher_is_better"], score["percent"]) == ("IoU", True, False)
    also = {"mean": pytest.approx(0.7), "ci95": pytest.approx(1.96 * 0.2 / 3**0.5 / 2)}
    assert score["also"] == {"miss rate": also, "accuracy": also}
    row = rows(tmp_path)[0]
    assert (row.metric, row.higher_is_better, row.percent, row.ours) == ("IoU", True, False, pytest.approx(0.7))


def test_a_run_replaces_its_own_record_only(tmp_path):
    for profile, seed, mean in (("quick", 1, 0.1), ("paper", 0, 0.2), ("quick", 0, 0.3), ("quick", 1, 0.4)):
        path = record(OMNIGLOT, _run(mean=mean), profile=profile, seed=seed, folder=tmp_path)
    found = [(run["profile"], run["seed"], round(run["scores"][0]["mean"], 3)) for run in read_runs(path)]
    assert found == [("paper", 0, 0.2), ("quick", 0, 0.3), ("quick", 1, 0.4)]
    assert read_runs(tmp_path / "none.json") == []


def test_a_crash_while_writing_keeps_the_old_record(tmp_path, monkeypatch):
    path = record(OMNIGLOT, _run(), profile="paper", seed=0, folder=tmp_path)
    before = path.read_bytes()

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr(files.os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        record(OMNIGLOT, _run(mean=0.5), profile="paper", seed=0, folder=tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damaged", ["", "[1, 2]", "{}", '{"runs": [', "\x00"])
def test_a_damaged_record_is_named_and_not_overwritten(damaged, tmp_path):
    path = tmp_path / f"{OMNIGLOT.name}.json"
    path.write_text(damaged)
    with pytest.raises(ValueError, match=r"maml-omniglot-5w1s\.json is not a record that can be read .*; restore it"):
        read_runs(path)
    with pytest.raises(ValueError, match="is not a record that can be read"):
        record(OMNIGLOT, _run(), profile="paper", seed=0, folder=tmp_path)
    assert path.read_text() == damaged


def test_rows_stand_beside_the_published_numbers(tmp_path):
    record(OMNIGLOT, _run(), profile="paper", seed=0, folder=tmp_path)
    record(SINUSOID, _run(SINUSOID, mean=0.7, iterations=9), profile="quick", seed=2, folder=tmp_path)
    table = rows(tmp_path)
    assert [row.recipe for row in table] == ["maml-sinusoid"] * 3 + ["maml-omniglot-5w1s"] * 4
    assert [row.setting for row in table[3:]] == ROWS
    literature = published()
    error, accuracy = table[0], table[3]
    assert error == Row(
        recipe="maml-sinusoid",
        setting="5-shot, 1 step",
        metric="mse",
        higher_is_better=False,
        percent=False,
        ours=pytest.approx(0.7),
        ours_ci95=pytest.approx(1.96 * 0.2 / 3**0.5 / 2),
        tasks=4,
        diverged=0,
        published=0.67,
        published_ci95=None,
        iterations=9,
        profile="quick",
        seed=2,
        published_id="finn2017maml/sinusoid-step1",
        verified="text",
    )
    theirs = literature["finn2017maml/omniglot-5w1s"]
    assert (accuracy.published, accuracy.published_ci95) == (theirs.value, theirs.ci95) == (98.7, 0.4)
    assert accuracy.ours == pytest.approx(90.0) and accuracy.ours_ci95 == pytest.approx(196 * 0.2 / 3**0.5 / 2)
    assert [row.published_id is None for row in table[3:]] == [False, True, True, False]
    assert (table[4].published, table[4].published_ci95) == (None, None)


def test_rows_without_a_clone_have_nothing_beside_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "repository_data", lambda: None)
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path))
    assert published() == {}
    path = record(OMNIGLOT, _run(), profile="paper", seed=0)
    assert path.parent == tmp_path / "results"
    assert {row.published for row in rows()} == {None}


def test_json_is_a_list_of_objects(tmp_path):
    record(OMNIGLOT, _run(), profile="paper", seed=0, folder=tmp_path)
    content = json.loads(as_json(rows(tmp_path)))
    assert [entry["setting"] for entry in content] == ROWS
    public = "recipe setting ours ours_ci95 tasks published published_ci95 iterations profile".split()
    assert all(set(public) <= set(entry) for entry in content)
    assert content[0]["ours"] == pytest.approx(90.0)
    assert content[1]["published"] is None
    assert json.loads(as_json([])) == []


def test_a_mean_that_is_no_number_is_called_diverged(tmp_path):
    record(SINUSOID, _run(SINUSOID, mean=float("nan"), diverged=4), profile="quick", seed=0, folder=tmp_path)
    table = rows(tmp_path)
    assert "| diverged | 0.67 | 4, 4 diverged |" in as_markdown(table)
    assert json.loads(as_json(table))[0]["ours"] is None and "NaN" not in as_json(table)


def test_markdown_is_a_table(tmp_path):
    record(OMNIGLOT, _run(iterations=1_234), profile="paper", seed=0, folder=tmp_path)
    record(SINUSOID, _run(SINUSOID, mean=0.7, diverged=3), profile="quick", seed=2, folder=tmp_path)
    lines = as_markdown(rows(tmp_path)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| recipe | setting | ours | published |") and set(lines[1]) == {"|", "-"}
    assert lines[2] == "| maml-sinusoid | 5-shot, 1 step | 0.70 ± 0.11 | 0.67 | 4, 3 diverged | 7 | quick | 2 |"
    assert lines[5] == "| maml-omniglot-5w1s | transductive | 90.0 ± 11.3 % | 98.7 ± 0.4 % | 4 | 1,234 | paper | 0 |"
    assert lines[6] == "| maml-omniglot-5w1s | support statistics | 90.0 ± 11.3 % | - | 4 | 1,234 | paper | 0 |"


@pytest.mark.parametrize(
    ("ours", "interval", "theirs", "agrees"),
    [
        (98.0, 0.4, 0.4, True),
        (98.0, 0.2, 0.4, False),
        (99.3, 0.2, 0.4, True),
        (98.6, 0.2, None, True),
        (98.4, 0.2, None, False),
    ],
)
def test_agreement_is_overlap_of_intervals(ours, interval, theirs, agrees, tmp_path):
    record(OMNIGLOT, _run(), profile="paper", seed=0, folder=tmp_path)
    row = rows(tmp_path)[0]
    assert replace(row, ours=ours, ours_ci95=interval, published_ci95=theirs).agrees is agrees
    assert replace(row, published=None, published_ci95=None).agrees is None


@pytest.mark.parametrize(
    ("higher_is_better", "ours", "short"),
    [(True, 98.0, True), (True, 99.9, False), (False, 99.9, True), (False, 98.0, False)],
)
def test_what_falls_short_lies_on_the_worse_side(higher_is_better, ours, short, tmp_path):
    record(OMNIGLOT, _run(), profile="paper", seed=0, folder=tmp_path)
    row = replace(rows(tmp_path)[0], higher_is_better=higher_is_better, ours_ci95=0.1)
    assert replace(row, ours=ours).falls_short is short
    assert not replace(row, ours=98.7).falls_short and not replace(row, published=None).falls_short


@pytest.mark.skipif(files.repository_data() is None, reason="no clone, no records")
def test_whatever_falls_short_says_why():
    assert {row.recipe for row in rows() if row.profile == "paper" and row.falls_short} == set(ledger.gaps())


@pytest.mark.skipif(files.repository_data() is None, reason="no clone, no records")
def test_lengths_stated_as_reasons_are_those_of_the_records():
    pattern = re.compile(r"([\d,]+) (training tasks|episodes|tasks of meta-training|meta-updates)")
    stated = [(name, *match.groups()) for name, why in ledger.gaps().items() for match in pattern.finditer(why)]
    assert len(stated) > 20
    for name, number, unit in stated:
        tasks = 1 if unit == "meta-updates" else RECIPES[name].training["meta_batch"]
        assert int(number.replace(",", "")) == tasks * recorded(name)["iterations"], f"{name}: {number} {unit}"


def test_one_record_is_found_by_name_profile_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "results_folder", lambda: tmp_path)
    for profile, seed, mean in (("quick", 0, 0.3), ("paper", 0, 0.6), ("paper", 5, 0.8)):
        record(OMNIGLOT, _run(mean=mean), profile=profile, seed=seed)
    name = "maml-omniglot-5w1s"
    found = [recorded(name), recorded(name, seed=5), recorded(name, profile="quick")]
    assert [run["scores"][0]["mean"] for run in found] == pytest.approx([0.6, 0.8, 0.3])
    with pytest.raises(LookupError, match=r"no record of maml-omniglot-5w1s \(quick, seed 9\); make one: mlcore run "):
        recorded(name, profile="quick", seed=9)


@pytest.mark.skipif(files.repository_data() is None, reason="no clone, no published.yaml")
def test_published_numbers_say_where_they_come_from():
    data = files.repository_data()
    entries = yaml.safe_load((data / "published.yaml").read_text(encoding="utf-8"))
    assert len(published()) == len(entries), "an id is given twice"
    bibliography = (data.parent / "book" / "references.bib").read_text(encoding="utf-8")
    for number in published().values():
        assert f"{{{number.cite}," in bibliography, f"{number.cite} is not in references.bib"
        assert number.id.startswith(f"{number.cite}/")
        assert number.verified in ("text", "code", "secondary", "memory")
        assert number.where and number.protocol
    for recipe in RECIPES.values():
        assert f"{{{recipe.paper}," in bibliography
