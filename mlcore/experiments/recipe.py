"""What a recipe is: data, network, learner, training, and what the paper reports, as Python values.

The recipes themselves are in :mod:`mlcore.experiments.catalogue`.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlcore.checkpoint import load_trained
from mlcore.learner import Learner
from mlcore.nets.norms import BatchNormPolicy
from mlcore.task import Tasks

Splits = tuple[Any, Any, Any]
"""Training, validation and test tasks; validation is ``None`` where nothing is chosen."""


@dataclass(frozen=True)
class Evaluation:
    """One row of a results table: how the trained weights are scored, and the published number it answers to."""

    setting: str
    published: str | None = None  # id in data/published.yaml
    batch_norm: BatchNormPolicy = "transductive"
    test_steps: int | None = None
    sizes: Mapping[str, float] = field(default_factory=dict)  # such as {"shots": 5}, where test differs from training
    episodes: int | None = None  # fewer than the profile's, where a task is dear
    on: Callable[[], Splits] | None = None  # whose test tasks to ask about, where they are of other data
    learner: Callable[[Learner], Learner] | None = None  # makes another one of the trained, such as a frozen one


@dataclass(frozen=True)
class Profile:
    """How much work: ``quick`` shows the method in about a minute, ``record`` is the run that is recorded."""

    iterations: int
    episodes: int
    val_every: int
    val_episodes: int = 200


def profiles(
    iterations: int,
    *,
    val_every: int,
    episodes: int = 600,
    val_episodes: int = 200,
    quick: tuple[int, int] = (200, 200),
    quick_val_episodes: int = 200,
) -> dict[str, Profile]:
    """Both profiles of a recipe; the quick one has at most ``quick`` (iterations, test tasks), and two validations."""
    short = min(iterations, quick[0])
    return {
        "quick": Profile(short, quick[1], max(1, short // 2), quick_val_episodes),
        "record": Profile(iterations, episodes, val_every, val_episodes),
    }


@dataclass(frozen=True)
class Recipe:
    """An experiment. Callables are classes, functions or partials of them, so that they can be hashed and compared."""

    name: str
    title: str
    paper: str  # key in book/references.bib
    tasks: Callable[[], Splits]
    net: Callable[[], nn.Module] | None  # None for a learner without one
    learner: Callable[..., Learner]  # of the network
    evaluations: tuple[Evaluation, ...]
    profiles: dict[str, Profile]
    training: dict[str, Any] = field(default_factory=dict)  # for meta_train
    train_on: Callable[[Any], Tasks] | None = None  # what becomes of the training tasks, such as minibatches
    validation: dict[str, int] = field(default_factory=dict)  # sizes of validation tasks that differ from training's
    start_from: str | None = None  # the recipe whose network, trained with seed 0, this one begins with
    # Settings of the learner that are measured with the network on the training tasks.
    measured: dict[str, Callable[[nn.Module, Any], Any]] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """The name of its data."""
        return self.tasks.args[0] if isinstance(self.tasks, partial) else self.tasks.__name__

    def hash(self, profile: str) -> str:
        """Twelve hexadecimal digits that change when anything that can change a result does."""
        return _digest(self.values(profile))

    def training_hash(self, profile: str) -> str:
        """The same for what can change the trained weights: a checkpoint serves whatever is evaluated later."""
        values = self.values(profile)
        del values["evaluations"], values["profiles"]["episodes"]
        return _digest(values)

    def values(self, profile: str) -> dict[str, Any]:
        """All that can change a result, as plain values."""
        values = {name: described(value) for name, value in vars(self).items() if value not in (None, {})}
        values["profiles"] = asdict(self.profiles[profile])
        # Words and references may be mended without a new run.
        del values["title"], values["paper"]
        for row in values["evaluations"]:
            row.pop("published", None)
        return values

    def splits(self) -> Splits:
        """Training, validation and test tasks."""
        train, val, test = self.tasks()
        return train, val if val is None else val.replace(**self.validation), test

    def build(self, seed: int, weights: Path | None = None, train: Tasks | None = None) -> Learner:
        """A learner whose initial weights depend on ``seed`` alone, or are for its network those of a checkpoint."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.net is None:
                return self.learner()
            net = self.net()
            if weights is not None:
                load_trained(net, weights)
            return self.learner(net, **{name: measure(net, train) for name, measure in self.measured.items()})


def described(value: Any) -> Any:
    """Anything in a recipe as plain values; functions and classes by their names."""
    if isinstance(value, partial):
        return {"call": described(value.func), "args": described(value.args), "with": described(value.keywords)}
    # A lambda, or a function within one, has a name that others share.
    if (inspect.isroutine(value) or inspect.isclass(value)) and "<" not in value.__qualname__:
        return value.__qualname__
    if is_dataclass(value):
        return {name: described(part) for name, part in vars(value).items() if part not in (None, {})}
    if isinstance(value, dict):
        return {name: described(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [described(part) for part in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a recipe holds {value!r}, which has no description; use a partial of a function or a class.")


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
