"""What the live figures need from the repository: trained networks as scripts, and numbers measured with them.

Pages are opened from disk, where a script may not fetch a file, but may load another script.
"""

import base64
import json
from pathlib import Path
from typing import Any, cast

import torch
from docutils import nodes
from docutils.parsers.rst import Directive
from torch import Tensor

import mlcore
from mlcore import Learner, seeded
from mlcore.datasets import glyphs
from mlcore.experiments import ledger
from mlcore.experiments.catalogue import get_recipe
from mlcore.experiments.weights import weights_path
from mlcore.files import repository_data

RECIPE = "protonet-omniglot-1s"
FUNCTIONS = {"pooled": "cnp-gp", "attentive": "attentive-cnp-small-gp"}
EXPLORER = "rl2-5-arms-20-pulls"
STARTS = {"maml": "maml-sinusoid", "pretrain": "pretrain-sinusoid"}


def shipped(recipe: str) -> Learner | None:
    """The trained learner of a recipe; None where its weights are not."""
    return mlcore.load(recipe) if weights_path(recipe).exists() else None


def together(recipes: dict[str, str]) -> dict[str, Learner] | None:
    """The trained learners of several recipes; None where the weights of one are not."""
    learners = {name: shipped(recipe) for name, recipe in recipes.items()}
    return None if None in learners.values() else cast(dict[str, Learner], learners)


def starts() -> dict[str, Learner] | None:
    """Three networks of one size before any update: two that ship and one with random weights; None without the two."""
    learners = together(STARTS)
    return learners and learners | {"random": get_recipe(STARTS["maml"]).build(0).eval()}


def protonet_script(learner: Learner | None) -> str:
    """The script that gives protonet.js its network: filters in half precision, and what follows them in single.

    After training, batch normalisation and the bias before it are one scale and one shift a filter.
    """
    if learner is None:
        return "globalThis.protonetWeights = null;\n"
    state = {name.removeprefix("net."): value.double() for name, value in learner.state_dict().items()}
    filters, affine = [], []
    for i in range(1, 5):
        norm = {name: state[f"block{i}.1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")}
        scale = norm["weight"] / (norm["running_var"] + 1e-5).sqrt()
        filters.append(state[f"block{i}.0.weight"].half())
        affine += [scale.float(), (norm["bias"] + scale * (state[f"block{i}.0.bias"] - norm["running_mean"])).float()]
    parts = {"filters": _base64(filters, "<f2"), "affine": _base64(affine, "<f4")}
    return f"globalThis.protonetWeights = {json.dumps(parts)};\n"


def sinusoid_script(learners: dict[str, Learner] | None) -> str:
    """The script that gives sinusoid.js its networks: weights and biases, layer by layer, in single precision."""
    if learners is None:
        return "globalThis.sinusoidWeights = null;\n"
    parts = {name: _base64(list(learner.net.state_dict().values()), "<f4") for name, learner in learners.items()}
    return f"globalThis.sinusoidWeights = {json.dumps(parts)};\n"


def bandit_script(learner: Learner | None) -> str:
    """The script that gives bandit.js its network: the GRU's two maps and the policy's, in single precision."""
    if learner is None:
        return "globalThis.banditWeights = null;\n"
    read = [value for name, value in learner.state_dict().items() if not name.startswith("value")]
    return f"globalThis.banditWeights = {json.dumps(_base64(read, '<f4'))};\n"


def neural_script(learners: dict[str, Learner] | None) -> str:
    """The script that gives neural.js its networks: for each the shapes by name, and all numbers in half precision."""
    if learners is None:
        return "globalThis.neuralWeights = null;\n"
    parts = {}
    for name, learner in learners.items():
        values = learner.state_dict()
        shapes = {key: list(value.shape) for key, value in values.items()}
        parts[name] = {"shapes": shapes, "weights": _base64([value.half() for value in values.values()], "<f2")}
    return f"globalThis.neuralWeights = {json.dumps(parts)};\n"


def episodes_script(classes: int = 40, drawings: int = 8) -> str:
    """The script that gives episodes.js its letters, of scripts that no training here has seen: two pixels a byte."""
    test = glyphs(ways=classes, shots=drawings, queries=1)[2].sample(1, seeded(0))
    order = test.support.y[0].argmax(-1).argsort(stable=True)  # each class in one piece
    shades = (15 * test.support.x[0, order].flatten(1)).round().byte().numpy()
    letters = base64.b64encode((shades[:, ::2] << 4 | shades[:, 1::2]).tobytes()).decode()
    return f"globalThis.episodesData = {json.dumps({'classes': classes, 'drawings': drawings, 'letters': letters})};\n"


def scripts() -> dict[str, str]:
    """Every script of weights, by the name of its file."""
    return {
        "protonet-weights.js": protonet_script(shipped(RECIPE)),
        "sinusoid-weights.js": sinusoid_script(starts()),
        "bandit-weights.js": bandit_script(shipped(EXPLORER)),
        "neural-weights.js": neural_script(together(FUNCTIONS)),
        "episodes-data.js": episodes_script(),
    }


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


def write_scripts(app, exception) -> None:
    """Beside the figures' own scripts, once these are copied."""
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir) / "_static" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for name, script in scripts().items():
            (folder / name).write_text(script, encoding="utf-8")


def setup(app):
    app.add_directive("invented-alphabets", InventedAlphabets)
    app.connect("build-finished", write_scripts)
    return {"parallel_read_safe": True}
