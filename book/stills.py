"""The still pictures of the live figures, for paper and for readers without JavaScript, from the figures themselves.

    python book/stills.py

Opens each figure in Chromium on a page of its own and writes book/_static/figures/<name>.png.
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from chromium import chromium
from PIL import Image

BOOK = Path(__file__).resolve().parent
FIGURES = BOOK / "_static" / "figures"
sys.path.insert(0, str(BOOK / "_ext"))

from live_figures import scripts  # noqa: E402

# What to press, and which part of the figure to keep; numbers would tie the picture to one build's weights.
STILLS = {
    "alphabet": ("Example", ".fields"),
    "metric": ("Reset", ".panels"),
    "sinusoid": ("One step", ".panels"),
    "episodes": ("Next query", ".classes"),
    "bandit": ("Arm 3", ".board"),
    "neural": ("Reset", ".panels"),
}
STYLE = ".live-figure :is(.numbers, .bar) { display: none !important; } :is(.fields, .panels) { padding: 6px; }"
PAGE = """<!doctype html>
<html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{name}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="../_static/figures/figures.css"></head>
<body><article><h1>A live figure</h1><figure id="{id}"><img src="../_static/figures/{name}.png" alt="a still"></figure>
<script src="../_static/figures/protonet-weights.js"></script>
<script src="../_static/figures/sinusoid-weights.js"></script>
<script src="../_static/figures/bandit-weights.js"></script>
<script src="../_static/figures/neural-weights.js"></script>
<script src="../_static/figures/episodes-data.js"></script>
<script src="../_static/figures/live.js"></script>
<script src="../_static/figures/protonet.js"></script>
<script src="../_static/figures/{name}.js"></script></article></body></html>
"""
IDS = {
    "alphabet": "fig-alphabet",
    "metric": "fig-metric-live",
    "sinusoid": "fig-maml-live",
    "episodes": "fig-episodes-live",
    "bandit": "fig-bandit-live",
    "neural": "fig-neural-live",
}


def bare_pages(folder: Path, weights: dict[str, str]) -> dict[str, Path]:
    """A page for each figure, laid out as the book is, with those scripts of weights."""
    shutil.copytree(FIGURES, folder / "_static" / "figures")
    for name, script in weights.items():
        (folder / "_static" / "figures" / name).write_text(script, encoding="utf-8")
    (folder / "book").mkdir()
    pages = {name: folder / "book" / f"{name}.html" for name in IDS}
    for name, path in pages.items():
        path.write_text(PAGE.format(name=name, id=IDS[name]), encoding="utf-8")
    return pages


def main() -> None:
    weights = scripts()
    for name, script in weights.items():
        if script.endswith("= null;\n"):
            raise SystemExit(f"{name} has no weights to draw with: `mlcore run` its recipes with --profile record")
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        for name, path in bare_pages(Path(folder), weights).items():
            page = browser.new_page(viewport={"width": 720, "height": 900}, device_scale_factor=1.5)
            page.goto(path.as_uri())
            page.add_style_tag(content=STYLE)
            button, part = STILLS[name]
            page.get_by_role("button", name=button).click()
            page.evaluate("document.activeElement.blur()")
            page.wait_for_function("document.querySelector('.said').textContent")
            page.wait_for_timeout(200)
            still = Image.open(io.BytesIO(page.locator(part).screenshot())).convert("RGB")
            # A palette makes the file a third as large.
            still.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                FIGURES / f"{name}.png", optimize=True
            )


if __name__ == "__main__":
    main()
