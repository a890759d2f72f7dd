"""What tests may need and a machine may lack: a browser, the rendered book, real data.

A test that lacks something is skipped with the reason. ``MLCORE_REQUIRE=browser,book,omniglot``, and so for every
``needs_`` below, turns these skips into failures: continuous integration cannot pass by leaving them out.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlcore import Learner, Objective, Task, classification
from mlcore.datasets import (
    find_blood_cells,
    find_cifar,
    find_encoded_names,
    find_eurosat,
    find_kanji,
    find_movielens,
    find_omniglot,
    find_parkinsons,
    find_sentences,
    find_tennessee,
)
from mlcore.files import data_root

ROOT = Path(__file__).parents[1]


def _absent(what: str, reason: str) -> None:
    if what in os.environ.get("MLCORE_REQUIRE", "").split(","):
        pytest.fail(f"{what} is required here, but {reason}")
    pytest.skip(reason)


def _needs(what: str, *found: Callable[[Path], Path | None]) -> Any:
    """A fixture for tests that read real data."""

    @pytest.fixture(scope="session", name=f"needs_{what}")
    def fixture():
        if any(find(data_root()) is None for find in found):
            _absent(what, f"there is no data for {what} in the data root {data_root()}")

    return fixture


needs_omniglot = _needs("omniglot", find_omniglot)
needs_cifar = _needs("cifar", find_cifar)
needs_eurosat = _needs("eurosat", find_eurosat)
needs_kanji = _needs("kanji", find_kanji)
needs_cells = _needs("cells", find_blood_cells)
needs_intents = _needs("intents", partial(find_sentences, "text"))
needs_relations = _needs("relations", partial(find_sentences, "fewrel"))
needs_names = _needs("names", find_encoded_names)
needs_tables = _needs("tables", find_movielens, find_parkinsons, find_tennessee)


@pytest.fixture(scope="session")
def html() -> Path:
    """The folder of the rendered book."""
    folder = ROOT / "_build" / "html"
    if not (folder / "index.html").exists():
        _absent("book", "the book is not rendered: run `make book`")
    return folder


@pytest.fixture(scope="session")
def run() -> Path:
    """The folder of the chapters as `make book` runs them, on embedded data."""
    folder = ROOT / "_build" / "run" / "embedded"
    if not folder.exists():
        _absent("book", "the chapters have not been run: `make book`")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        _absent("browser", "there is no Chromium on this machine")
    return path


@pytest.fixture(scope="session")
def slopes():
    """What a gradient is checked against: a function that takes central differences of a learner's loss."""
    return _slopes


@pytest.fixture(scope="session")
def differences_agree():
    """Asserts that each parameter's ``.grad`` is the central difference of a loss, along a random direction."""
    return _differences_agree


def _differences_agree(learner: Learner, loss: Callable[[], Tensor], atol: float = 1e-8) -> None:
    for p in learner.parameters():
        assert p.grad is not None
        direction, losses = torch.randn_like(p), []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                p.add_(step * direction)
                losses.append(loss())
                p.sub_(step * direction)
        torch.testing.assert_close((p.grad * direction).sum(), (losses[0] - losses[1]) / 2e-6, rtol=1e-4, atol=atol)


def _slopes(
    learner: Learner, batch: Task, directions: Tensor, objective: Objective = classification, step: float = 1e-5
) -> Tensor:
    """The loss's slope along some directions in the space of all learned parameters, by central differences."""
    theta = nn.utils.parameters_to_vector(learner.parameters()).detach()
    slopes = []
    for direction in directions:
        ends = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(theta + sign * step * direction, learner.parameters())
            ends.append(learner.meta_loss(batch, objective).item())
        slopes.append((ends[0] - ends[1]) / (2 * step))
    nn.utils.vector_to_parameters(theta, learner.parameters())
    return torch.tensor(slopes, dtype=torch.float64)
