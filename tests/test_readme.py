"""The five lines of the README run as they stand, on data of one's own."""

import re
from pathlib import Path

import torch


def test_the_five_lines_learn(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    lines = lines.replace("iterations=1_000", "iterations=30, progress=False").replace("episodes=600", "episodes=50")
    assert "iterations=30" in lines and "episodes=50" in lines
    # Thirty classes, each with a pattern of blots of its own under noise, named by words.
    torch.manual_seed(0)
    coarse = torch.rand(30, 1, 4, 4).bernoulli().repeat_interleave(20, dim=0)
    places = coarse.repeat_interleave(7, -1).repeat_interleave(7, -2)
    x = (places + 0.3 * torch.randn(600, 1, 28, 28)).clamp(0, 1)
    y = [f"blot {i // 20}" for i in range(600)]
    names: dict = {"x": x, "y": y}
    exec(lines, names)
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\d+\.\d\d ± \d+\.\d\d % \(50 tasks\)\n", printed)
    assert float(printed.split()[0]) > 50  # chance is 20 %
