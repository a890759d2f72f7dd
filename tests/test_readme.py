"""The five lines of the README run as they stand, on data of one's own."""

import re
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_iris

from mlcore import AdaptedModel, Examples, MetricLearner, ProtoNet, conv4, rows

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8"), re.DOTALL
)


def _blots(channels: int) -> tuple[torch.Tensor, list[str]]:
    """Thirty classes, each with a pattern of blots of its own under noise, named by words."""
    torch.manual_seed(0)
    coarse = torch.rand(30, channels, 4, 4).bernoulli().repeat_interleave(20, dim=0)
    places = coarse.repeat_interleave(7, -1).repeat_interleave(7, -2)
    return (places + 0.3 * torch.randn(600, channels, 28, 28)).clamp(0, 1), [f"blot {i // 20}" for i in range(600)]


def _run(lines: str, names: dict, iterations: int) -> None:
    lines = lines.replace("iterations=1_000", f"iterations={iterations}, progress=False")
    lines = lines.replace("episodes=600", "episodes=50").replace('weights="DEFAULT"', "")  # tests download nothing
    assert f"iterations={iterations}" in lines and "episodes=50" in lines
    exec(lines, names)


def _accuracy(printed: str) -> float:
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d % \(50 tasks\)\n", printed)
    return float(printed.split()[0])


@pytest.mark.slow
def test_the_five_lines_learn(capsys):
    x, y = _blots(channels=1)
    _run(BLOCKS[0], {"x": x, "y": y}, iterations=30)
    assert _accuracy(capsys.readouterr().out) > 50  # chance is 20 %


def test_one_support_set_makes_a_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = _blots(channels=1)
    learner = ProtoNet(conv4(1, filters=4))
    names = {"learner": learner, "support_x": x[::10], "names": y[::10], "query_x": x[:3]}
    exec(BLOCKS[1].replace("model.predict", "answers = model.predict"), names)
    assert len(names["answers"]) == 3 and set(names["answers"]) <= set(y)
    assert list(AdaptedModel.load("mine.pt", learner).predict(x[:3])) == list(names["answers"])


def test_a_table_is_read_in_one_pass():
    x, y = load_iris(return_X_y=True)
    names: dict = {"table": x[::2], "classes": y[::2], "new_rows": x[1::2]}
    exec(BLOCKS[3], names)
    assert (names["chances"].argmax(1) == y[1::2]).mean() > 0.9


def test_a_method_is_two_functions():
    names: dict = {"torch": torch, "MetricLearner": MetricLearner}
    exec(BLOCKS[4], names)
    x, _ = _blots(channels=1)
    support, queries = Examples(x[:60].flatten(1), rows(torch.arange(60) // 20)), x[:60].flatten(1)
    mine, ours = names["ProtoNet"](torch.nn.Identity()), ProtoNet(torch.nn.Identity())
    outputs = mine.predict(mine.update((), support), queries)
    torch.testing.assert_close(outputs, ours.predict(ours.update((), support), queries), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_a_torchvision_network_is_transferred(capsys):
    x, y = _blots(channels=3)
    names: dict = {"x": x, "y": y}
    exec("\n".join(line for line in BLOCKS[0].splitlines() if line.startswith(("from", "tasks", "train"))), names)
    _run(BLOCKS[2], names, iterations=5)
    assert _accuracy(capsys.readouterr().out) > 50
    assert not any("parametrizations" in key for key in names["features"].state_dict())
