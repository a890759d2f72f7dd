"""Records of runs, and the table that sets them beside the literature."""

import json
import math
import re
from dataclasses import replace

import pytest
import torch
import yaml

from mlcore import History, Metric, Score, classification, files, regression
from mlcore.experiments import advice, ledger, report
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
    path = record(OMNIGLOT, _run(diverged=1), profile="record", seed=3, folder=tmp_path / "new")
    assert path == tmp_path / "new" / "maml-omniglot-5w1s.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["recipe"] == "maml-omniglot-5w1s"
    (run,) = content["runs"]
    assert (run["profile"], run["seed"], run["iterations"], run["minutes"]) == ("record", 3, 7, 12.3)
    assert run["recipe_hash"] == OMNIGLOT.hash("record")
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
        "per_task": [pytest.approx(value) for value in score.of_task.tolist()],
        "batch_norm": "transductive",
    }


def test_a_record_holds_every_metric(tmp_path):
    metrics = {"IoU": Metric(accuracy, percent=False), "miss rate": Metric(accuracy, higher_is_better=False)}
    run = _run(metrics=metrics | classification.metrics, mean=0.7)
    (entry,) = read_runs(record(OMNIGLOT, run, profile="record", seed=0, folder=tmp_path))
    score = entry["scores"][0]
    assert (score["metric"], score["higher_is_better"], score["percent"]) == ("IoU", True, False)
    also = {"mean": pytest.approx(0.7), "ci95": pytest.approx(1.96 * 0.2 / 3**0.5 / 2)}
    assert score["also"] == {"miss rate": also, "accuracy": also}
    row = rows(tmp_path)[0]
    assert (row.metric, row.higher_is_better, row.percent, row.ours) == ("IoU", True, False, pytest.approx(0.7))


def test_a_list_of_scores_is_one_line_and_comes_back_whatever_it_holds(tmp_path):
    scores = [0.5, 1e-7, math.inf, -math.inf, math.nan]
    path = ledger.write("r", {"profile": "record", "seed": 0, "per_task": scores}, tmp_path)
    assert "[ 0.5, 1e-07, Infinity, -Infinity, NaN ]" in path.read_text(encoding="utf-8")
    assert ledger.read_runs(path)[0]["per_task"] == pytest.approx(scores, nan_ok=True)


def test_a_run_replaces_its_own_record_only(tmp_path):
    for profile, seed, mean in (("quick", 1, 0.1), ("record", 0, 0.2), ("quick", 0, 0.3), ("quick", 1, 0.4)):
        path = record(OMNIGLOT, _run(mean=mean), profile=profile, seed=seed, folder=tmp_path)
    found = [(run["profile"], run["seed"], round(run["scores"][0]["mean"], 3)) for run in read_runs(path)]
    assert found == [("quick", 0, 0.3), ("quick", 1, 0.4), ("record", 0, 0.2)]
    assert read_runs(tmp_path / "none.json") == []


def test_a_crash_while_writing_keeps_the_old_record(tmp_path, monkeypatch):
    path = record(OMNIGLOT, _run(), profile="record", seed=0, folder=tmp_path)
    before = path.read_bytes()

    def crash(*_):
        raise OSError("power cut")

    monkeypatch.setattr(files.os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        record(OMNIGLOT, _run(mean=0.5), profile="record", seed=0, folder=tmp_path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damaged", ["", "[1, 2]", "{}", '{"runs": [', "\x00"])
def test_a_damaged_record_is_named_and_not_overwritten(damaged, tmp_path):
    path = tmp_path / f"{OMNIGLOT.name}.json"
    path.write_text(damaged)
    with pytest.raises(ValueError, match=r"maml-omniglot-5w1s\.json is not a record that can be read .*; restore it"):
        read_runs(path)
    with pytest.raises(ValueError, match="is not a record that can be read"):
        record(OMNIGLOT, _run(), profile="record", seed=0, folder=tmp_path)
    assert path.read_text() == damaged


def test_rows_stand_beside_the_published_numbers(tmp_path):
    record(OMNIGLOT, _run(), profile="record", seed=0, folder=tmp_path)
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
        share=pytest.approx(9 * 25 / 1_750_000),
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
    path = record(OMNIGLOT, _run(), profile="record", seed=0)
    assert path.parent == tmp_path / "results"
    assert {row.published for row in rows()} == {None}


def test_json_is_a_list_of_objects(tmp_path):
    record(OMNIGLOT, _run(), profile="record", seed=0, folder=tmp_path)
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
    record(OMNIGLOT, _run(iterations=1_234), profile="record", seed=0, folder=tmp_path)
    record(SINUSOID, _run(SINUSOID, mean=0.7, diverged=3), profile="quick", seed=2, folder=tmp_path)
    lines = as_markdown(rows(tmp_path)).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].startswith("| recipe | setting | ours | published |") and set(lines[1]) == {"|", "-"}
    assert lines[0].endswith("| tasks | iterations (of the published length) | profile | seed |")
    assert lines[2] == "| maml-sinusoid | 5-shot, 1 step | 0.70 ± 0.11 | 0.67 | 4, 3 diverged | 7 (0.0 %) | quick | 2 |"
    short = "90.0 ± 11.3 % | 98.7 ± 0.4 % | 4 | 1,234 (2.1 %)"
    assert lines[5] == f"| maml-omniglot-5w1s | transductive | {short} | record | 0 |"
    assert lines[6] == "| maml-omniglot-5w1s | support statistics | 90.0 ± 11.3 % | - | 4 | 1,234 | record | 0 |"
    usual = as_markdown(rows(tmp_path)[3:]).splitlines()
    assert usual[0].endswith("| tasks | iterations (of the published length) |")
    assert usual[2].endswith("| 98.7 ± 0.4 % | 4 | 1,234 (2.1 %) |")
    assert "of the published length" not in as_markdown(rows(tmp_path)[4:5])


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
    record(OMNIGLOT, _run(), profile="record", seed=0, folder=tmp_path)
    row = rows(tmp_path)[0]
    assert replace(row, ours=ours, ours_ci95=interval, published_ci95=theirs).agrees is agrees
    assert replace(row, published=None, published_ci95=None).agrees is None


@pytest.mark.parametrize(
    ("higher_is_better", "ours", "short"),
    [(True, 98.0, True), (True, 99.9, False), (False, 99.9, True), (False, 98.0, False)],
)
def test_what_falls_short_lies_on_the_worse_side(higher_is_better, ours, short, tmp_path):
    record(OMNIGLOT, _run(), profile="record", seed=0, folder=tmp_path)
    row = replace(rows(tmp_path)[0], higher_is_better=higher_is_better, ours_ci95=0.1)
    assert replace(row, ours=ours).falls_short is short
    assert not replace(row, ours=98.7).falls_short and not replace(row, published=None).falls_short


@pytest.mark.parametrize(
    ("ours", "interval", "higher_is_better", "lead", "verdict"),
    [
        (98.5, 0.1, True, -0.2, "agrees"),  # apart, but within a point
        (97.0, 0.1, True, -1.7, "short"),
        (97.0, 1.8, True, -1.7, "agrees"),  # intervals overlap
        (99.9, 0.1, True, 1.2, "better"),
        (99.9, 0.1, False, -1.2, "short"),
    ],
)
def test_a_verdict_is_overlap_or_one_point(ours, interval, higher_is_better, lead, verdict, tmp_path):
    record(OMNIGLOT, _run(), profile="record", seed=0, folder=tmp_path)
    row = replace(rows(tmp_path)[0], ours=ours, ours_ci95=interval, published_ci95=None)
    row = replace(row, higher_is_better=higher_is_better)
    assert row.lead == pytest.approx(lead) and row.verdict == verdict
    assert (row.verdict == "short") <= row.falls_short
    assert replace(row, published=None).verdict is None and replace(row, published=None).lead is None
    # A point is a matter of percentages: squared errors agree by their intervals alone.
    assert replace(row, percent=False, ours=98.5, ours_ci95=0.1).verdict in ("short", "better")


needs_records = pytest.mark.skipif(files.repository_data() is None, reason="no clone, no records")


@needs_records
def test_only_what_falls_short_has_a_cause():
    table = report.lines(rows())
    short = {line.row.recipe for line in table if line.row.falls_short}
    for name, gap in ledger.gaps().items():
        assert name in short, f"{name} does not fall short; take its cause out of gaps.yaml"
        assert gap.cause.strip() and gap.changes >= 1 and isinstance(gap.by, list)
        assert set(gap.by) <= set(RECIPES) - {name}, f"{name}: {gap.by} names what is no other recipe"
        settings = {line.row.setting for line in table if line.row.recipe == name}
        assert gap.setting is None or gap.setting in settings


@needs_records
def test_a_cause_is_tested_by_two_records_or_called_untested():
    table = report.lines(rows())
    states = []
    for line in table:
        state, gap = report.status(line, table), line.gap
        assert (state == "") == (not line.row.falls_short)
        assert "{" not in report.cause(line, table)
        comparable = [
            other
            for other in table
            if gap and other.row.recipe in gap.by and line.row.published_id == other.row.published_id
        ]
        if state and comparable:
            assert state.startswith("tested"), line.row.recipe
        if state.startswith("tested"):
            assert gap and any((ledger.results_folder() / f"{name}.json").exists() for name in gap.by)
        states.append(state.partition(":")[0])
    assert {"tested", "untested", "computed"} <= set(states)


@needs_records
def test_a_test_sets_one_published_number_or_one_setting_beside_itself():
    table = report.lines(rows())
    for line in table:
        trial = report.tested(line, table)
        if trial:
            one, other = line.row, trial.line.row
            assert one.published_id == other.published_id or one.setting == other.setting
            gain = (other.ours - one.ours) * (1 if one.higher_is_better else -1)
            assert trial.share == pytest.approx(gain / abs(one.ours - one.published))
            assert trial.clear == (trial.share >= 0.5)


@needs_records
def test_diverged_tasks_counted_as_the_first_class_give_the_published_number():
    table = report.lines(rows())
    (line,) = (line for line in table if (line.row.recipe, line.row.setting) == (OMNIGLOT.name, "running statistics"))
    would_be = line.row.ours + 0.2 * line.row.diverged / line.row.tasks * 100
    assert f"{would_be:.1f} %" in report.cause(line, table) and abs(would_be - line.row.published) < 0.5


def test_the_report_counts_what_was_checked_and_nothing_else(tmp_path):
    for name, mean in (("maml-omniglot-5w1s", 0.985), ("fomaml-omniglot-5w1s", 0.5), ("ridge-omniglot-1s", 0.99)):
        record(RECIPES[name], _run(RECIPES[name], mean=mean), profile="record", seed=0, folder=tmp_path)
    record(OMNIGLOT, _run(mean=0.975), profile="record", seed=1, folder=tmp_path)
    record(OMNIGLOT, _run(mean=0.1), profile="quick", seed=0, folder=tmp_path)
    table = report.lines(rows(tmp_path))
    parts = report.sections(table)
    (mean,) = parts["checked"]
    assert (mean.row.recipe, mean.row.setting, mean.seeds) == (OMNIGLOT.name, "transductive", (0, 1))
    assert mean.row.ours == pytest.approx(98.0) and (mean.lowest, mean.highest) == pytest.approx((97.5, 98.5))
    assert report.number(mean).endswith("(97.5 to 98.5, 2 seeds)") and report.difference(mean.row) == "-0.7"
    assert {line.row.recipe for line in parts["unverified"]} == {"ridge-omniglot-1s"}
    assert {line.row.recipe for line in parts["ablations"]} == {"fomaml-omniglot-5w1s", OMNIGLOT.name}
    assert sum(map(len, parts.values())) == len(table)
    text = report.summary(rows(tmp_path))
    assert text.startswith("1 results are held") and "1 agree with it" in text and "0 fall short" in text
    titles = [report.TITLES[name] for name in ("checked", "unverified", "ablations", "others")]
    assert sorted(titles, key=text.index) == titles and "Quick runs, which count nowhere" in text


@needs_records
def test_the_worst_shortfall_comes_first():
    parts = report.sections(report.lines(rows()))
    leads = [line.row.lead for line in parts["checked"] if line.row.percent]
    assert leads == sorted(leads) and len(leads) > 20
    page = report.for_page(parts["checked"], report.lines(rows())).splitlines()
    assert len({line.count("|") for line in page}) == 1 and len(page) == len(parts["checked"]) + 2


@needs_records
def test_advice_rests_on_records_and_names_no_unchecked_number():
    known = {(row.recipe, row.setting) for row in rows() if row.profile == "record"}
    for key, one in advice.ADVICE.items():
        assert {(name, setting) for _, name, setting in one.measured} <= known, key
        assert (files.repository_data().parent / "book" / f"{one.chapter}.ipynb").is_file()
    table = advice.table()
    assert "unverified" not in table and "not run yet" not in table
    assert len(table.splitlines()) == len(advice.ADVICE) + 2
    assert advice.table(["ways"], folder="book").splitlines()[2] in advice.table(folder="book")


@needs_records
def test_lengths_stated_as_reasons_are_those_of_the_records():
    pattern = re.compile(r"([\d,]+) (training tasks|episodes|tasks of meta-training|meta-updates)")
    stated = [(name, *match.groups()) for name, gap in ledger.gaps().items() for match in pattern.finditer(gap.cause)]
    assert len(stated) > 10
    for name, number, unit in stated:
        tasks = 1 if unit == "meta-updates" else RECIPES[name].training["meta_batch"]
        assert int(number.replace(",", "")) == tasks * recorded(name)["iterations"], f"{name}: {number} {unit}"


def test_one_record_is_found_by_name_profile_and_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "results_folder", lambda: tmp_path)
    for profile, seed, mean in (("quick", 0, 0.3), ("record", 0, 0.6), ("record", 5, 0.8)):
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
