"""What the live figures need from the repository: a trained network as a script, and numbers measured with it.

Pages are opened from disk, where a script may not fetch a file, but may load another script.
"""

import base64
import json
from pathlib import Path
from typing import Any

import torch
from docutils import nodes
from docutils.parsers.rst import Directive
from torch import Tensor

import mlcore
from mlcore import Learner
from mlcore.experiments import ledger
from mlcore.experiments.weights import weights_path
from mlcore.files import repository_data

RECIPE = "protonet-omniglot-1s"


def network() -> Learner | None:
    """The network that reads invented alphabets; None where its weights are not."""
    return mlcore.load(RECIPE) if weights_path(RECIPE).exists() else None


def weights_script(learner: Learner | None) -> str:
    """The script that gives alphabet.js its network: filters in half precision, and what follows them in single.

    After training, batch normalisation and the bias before it are one scale and one shift a filter.
    """
    if learner is None:
        return "globalThis.alphabetWeights = null;\n"
    state = {name.removeprefix("net."): value.double() for name, value in learner.state_dict().items()}
    filters, affine = [], []
    for i in range(1, 5):
        norm = {name: state[f"block{i}.1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
        scale = norm["weight"] / (norm["running_var"] + 1e-5).sqrt()
        filters.append(state[f"block{i}.0.weight"].half())
        affine += [scale.float(), (norm["bias"] + scale * (state[f"block{i}.0.bias"] - norm["running_mean"])).float()]
    parts = {"filters": _base64(filters, "<f2"), "affine": _base64(affine, "<f4")}
    return f"globalThis.alphabetWeights = {json.dumps(parts)};\n"


def _base64(tensors: list[Tensor], dtype: str) -> str:
    return base64.b64encode(torch.cat([part.flatten() for part in tensors]).numpy().astype(dtype).tobytes()).decode()


def measured(folder: Path | None) -> dict[str, Any] | None:
    """What benchmarks/invented.py wrote; None before it has run."""
    path = folder / "benchmarks" / "invented.json" if folder else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.exists() else None


def sentences(rates: dict[str, Any] | None) -> str:
    """How well the network reads: Omniglot's writers, by the records, and invented alphabets, as measured."""
    if rates is None:
        return "How well the network reads invented alphabets has not been measured yet."
    records = {name: ledger.recorded(name)["scores"][0] for name in (RECIPE, "pixels-omniglot")}
    network, pixels = (_percent(records[name]) for name in (RECIPE, "pixels-omniglot"))
    steady, unsteady = (rates["hands"][name] for name in ("steady", "unsteady"))
    ways, alphabets = rates["symbols"], rates["alphabets"]
    return (
        f"How often is it right, where guessing is right once in {ways} times? Between Omniglot's own writers, in "
        f"{network} of the cases; the nearest neighbour in raw pixels, in {pixels}. No person drew the other test: a "
        f"program invented {alphabets} alphabets of {ways} symbols from lines, arcs and loops, and drew each symbol "
        f"anew. With a steady hand, the network is right in {_percent(steady['protonet'])} and pixels in "
        f"{_percent(steady['pixels'])}. With a hand so unsteady that pixels have {_percent(unsteady['pixels'])}, the "
        f"network has {_percent(unsteady['protonet'])}."
    )


def _percent(score: dict[str, float]) -> str:
    return f"{100 * score['mean']:.1f} ± {100 * score['ci95']:.1f} %"


class InventedAlphabets(Directive):
    """The measured rates, as a paragraph."""

    def run(self) -> list[nodes.Node]:
        return [nodes.paragraph("", sentences(measured(repository_data())))]


def write_script(app, exception) -> None:
    """Beside the figures' own scripts, once these are copied."""
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "_static" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "alphabet-weights.js").write_text(weights_script(network()), encoding="utf-8")


def setup(app):
    app.add_directive("invented-alphabets", InventedAlphabets)
    app.connect("build-finished", write_script)
    return {"parallel_read_safe": True}
