"""Figures that several chapters share, in one look."""

import base64
import html
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from mlcore.task import Task

if TYPE_CHECKING:  # a figure of an episode needs no ledger
    from mlcore.experiments.ledger import Row

# Okabe and Ito's colours, told apart by people with any colour vision and dark enough for a white page.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def use_book_style() -> None:
    """Set matplotlib's defaults to the look of the book."""
    plt.rcParams.update(
        {
            "figure.figsize": (7.0, 3.4),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "figure.facecolor": "white",
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e6e6e6",
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "font.size": 10,
        }
    )


def show_episode(batch: Task, task: int = 0) -> Figure:
    """One image episode: a row for each class, its support images left of its query images.

    Args:
        batch: tasks over images [tasks, n, channels, height, width].
        task: which task of the batch.
    """
    ways = batch.support.y.shape[-1]
    halves = [(half.x[task], half.y[task].argmax(-1)) for half in batch]
    strips = [[_strip(x[y == way]) for x, y in halves] for way in range(ways)]
    widths = [strip.shape[1] for strip in strips[0]]
    figure, axes = plt.subplots(
        ways, 2, figsize=(sum(widths) / 40 + 1, 0.72 * ways + 0.4), width_ratios=widths, squeeze=False
    )
    for way, row in enumerate(strips):
        for ax, strip in zip(axes[way], row, strict=True):
            ax.imshow(strip, cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
            ax.spines[:].set_visible(False)
        axes[way, 0].set_ylabel(f"class {way}", rotation=0, ha="right", va="center")
    axes[0, 0].set_title("support set")
    axes[0, 1].set_title("query set")
    return figure


def _strip(images: Tensor) -> np.ndarray:
    """Images [n, channels, height, width] side by side, as matplotlib wants them."""
    strip = images.permute(2, 0, 3, 1).flatten(1, 2).cpu().numpy()
    return strip.squeeze(-1)


def plot_with_band(ax: Axes, x: np.ndarray | list[float], mean: np.ndarray, half_width: np.ndarray, label: str) -> None:
    """A line with its 95 % band."""
    mean, half_width = np.asarray(mean), np.asarray(half_width)
    (line,) = ax.plot(x, mean, marker="o", markersize=3.5, label=label)
    ax.fill_between(x, mean - half_width, mean + half_width, color=line.get_color(), alpha=0.2, linewidth=0)


def plot_against_published(ax: Axes, table: "list[Row]") -> None:
    """Each row's number with its interval, ours above the published one."""
    for position, row in enumerate(table):
        ax.errorbar(row.ours, position - 0.12, xerr=row.ours_ci95, fmt="o", color=COLORS[0], capsize=3)
        if row.published is not None:
            xerr = row.published_ci95 or None
            ax.errorbar(row.published, position + 0.12, xerr=xerr, fmt="s", color=COLORS[1], capsize=3)
    ax.plot([], [], "o", color=COLORS[0], label="ours")
    ax.plot([], [], "s", color=COLORS[1], label="published")
    ax.set_yticks(range(len(table)), [row.setting for row in table])
    ax.invert_yaxis()
    ax.legend()


# What stands on the buttons of matplotlib's player in place of icons from a font that it would fetch.
_SIGNS = {
    "minus": "−",
    "fast-backward": "«",
    "step-backward": "‹",
    "play fa-flip-horizontal": "◀",
    "pause": "‖",
    "play": "▶",
    "step-forward": "›",
    "fast-forward": "»",
    "plus": "+",
}


def player(figure: Figure, draw: Callable[[Any], Any], frames: Sequence[Any], *, alt: str, fps: int = 4) -> str:
    """A figure that moves, with a slider and buttons, as HTML that needs no server and asks the network for nothing.

    Before it is played, and on paper, the last frame stands still.

    Args:
        figure: what ``draw`` draws on; it is closed afterwards.
        draw: called with each of ``frames``.
        frames: in order.
        alt: what is to be seen, for those who cannot.
        fps: frames a second.
    """
    page = FuncAnimation(figure, draw, frames=frames).to_jshtml(fps=fps, default_mode="loop")
    plt.close(figure)
    page = re.sub(r"<link[^>]*>", "", page)
    page = re.sub(r"(?<=data:image/png;base64,)[^\"]*", _fewer_colors, page)
    page = re.sub(r'<i class="fa fa-([a-z -]+)"></i>', lambda icon: _SIGNS[icon[1]], page)
    last = re.findall(r'frames\[\d+\] = "([^"]*)"', page)[-1]
    page = page.replace("<img id=", f'<img alt="{html.escape(alt)}" src="{last}" id=')
    page = page.replace('type="range"', 'type="range" aria-label="Frame"')
    return page.replace("this.set_frame(this.current_frame);", "this.set_frame(frames.length - 1);", 1)


def _fewer_colors(png: re.Match[str]) -> str:
    """A frame in 64 colours, a third of its size or less."""
    frame = Image.open(io.BytesIO(base64.b64decode(png[0].replace("\\\n", ""))))
    small = io.BytesIO()
    frame.convert("RGB").quantize(64).save(small, "png", optimize=True)
    return base64.b64encode(small.getvalue()).decode()
