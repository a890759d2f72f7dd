"""Seconds against memory, one panel a shape: every way of ours to a meta-gradient, and every other library's.

    python benchmarks/front.py

Draws _build/benchmarks.png from data/benchmarks. Our other mappings and bfloat16 are placed by their ratios to mlcore's
own choice, which were measured within one run. Ends with an error where another library is both faster and leaner than
all of ours, beyond the spread of the rounds.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

from mlcore.files import write_atomically
from mlcore.plots import COLORS, use_book_style

ROOT = Path(__file__).parents[1]
MARKERS = {"higher": "v", "torchopt": "s", "parallel-metalearn": "D"}


def rows(name: str) -> list[dict]:
    """What was measured of meta-training steps."""
    path = ROOT / "data" / "benchmarks" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["meta-training step"]


def ours(row: dict, choices: dict[str, dict]) -> dict[str, tuple[float, float]]:
    """Seconds and MiB of mlcore as it chooses, and of its other choices."""
    own = row["libraries"]["mlcore"]
    points = {"as it chooses": (own["seconds"], own["peak_mib"])}
    if measured := choices.get(row["what"]):
        auto = measured["auto"]
        for name, entry in measured.items():
            if name != "auto":
                label = name if name == "bfloat16" else f"{name} at once"
                seconds, memory = (entry[key] / auto[key] for key in ("seconds", "peak_mib"))
                points[label] = (own["seconds"] * seconds, own["peak_mib"] * memory)
    return points


def dominating(row: dict, points: dict[str, tuple[float, float]]) -> list[str]:
    """Libraries whose slowest round beats every point of ours in seconds, with less memory."""
    return [
        name
        for name, entry in row["libraries"].items()
        if name != "mlcore"
        and all(entry["range"][1] < seconds and entry["peak_mib"] < memory for seconds, memory in points.values())
    ]


def main() -> None:
    use_book_style()
    peers, choices = rows("peers"), {row["what"]: row["choices"] for row in rows("choices")}
    figure, panels = plt.subplots(-(-len(peers) // 2), 2, figsize=(9, 1.6 * len(peers)))
    beaten = []
    for ax, row in zip(panels.flat, peers, strict=False):
        points = ours(row, choices)
        for label, (seconds, memory) in points.items():
            first = label == "as it chooses"
            ax.plot(1000 * seconds, memory, "o" if first else ".", color=COLORS[0], ms=8)
            ax.annotate(
                "mlcore" if first else label, (1000 * seconds, memory), xytext=(5, 3), textcoords="offset points"
            )
        for name, entry in row["libraries"].items():
            if name != "mlcore":
                ax.plot(1000 * entry["seconds"], entry["peak_mib"], MARKERS[name], color=COLORS[1])
                ax.annotate(
                    name, (1000 * entry["seconds"], entry["peak_mib"]), xytext=(5, -8), textcoords="offset points"
                )
        ax.set(title=row["what"], xlabel="milliseconds", ylabel="MiB", yscale="log")
        ax.margins(0.3)
        ax.set_xlim(left=0)
        beaten += [f"{name}, {row['what']}" for name in dominating(row, points)]
    path = ROOT / "_build" / "benchmarks.png"
    write_atomically(path, figure.savefig)
    print(f"seconds and memory of all are drawn in {path}")
    if beaten:
        raise SystemExit(f"faster and leaner than all of ours: {'; '.join(beaten)}.")


if __name__ == "__main__":
    main()
