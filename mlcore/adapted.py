"""A learner that has learned one task: an object that answers, and that a file can hold."""

import copy
from collections import namedtuple
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from mlcore.evaluation import check_learner, device_of
from mlcore.files import write_atomically
from mlcore.learner import Learner
from mlcore.mapping import first_tensor
from mlcore.nets.norms import BatchNormPolicy, batch_norms, check_policy, learning_source, statistics_from
from mlcore.objective import logits
from mlcore.task import Examples, Task, rows
from mlcore.tasks.labelled import class_labels, examples_of, scaled


class AdaptedModel:
    """What a learner made of one support set, from :meth:`mlcore.Learner.fit`. It is adapted once.

    It holds a copy of the learner in evaluation mode, so that training goes on without it. Queries are answered as
    ``policy`` says, see :func:`mlcore.nets.norms.answer`. Of the support set it keeps what that needs: all of it where
    the policy normalises queries with it, else one row, which shows the shape of an input.
    """

    def __init__(
        self, learner: Learner, policy: BatchNormPolicy, state: Any, support: Examples, classes: list[Any] | None
    ) -> None:
        self.learner, self.state, self.support = learner, state, support
        self.policy: BatchNormPolicy = policy
        self.classes = classes
        """Sorted names, integers or strings; None after regression."""

    def __repr__(self) -> str:
        what = "targets" if self.classes is None else f"{len(self.classes)} classes"
        return f"AdaptedModel({type(self.learner).__name__}, {what}, batch_norm={self.policy!r})"

    @torch.no_grad()
    def outputs(self, x: Any) -> Any:
        """What the learner predicts for inputs x [n, *input]: logits [n, ways], in the order of ``classes``."""
        x = _inputs(x, first_tensor(self.support.x).device)
        one, example = first_tensor(x), first_tensor(self.support.x)
        if one.dim() != example.dim():
            raise ValueError(
                f"x has shape {list(one.shape)}, but must be [n, ...] like the support set, [n, "
                f"{str(list(example.shape[1:]))[1:]}; a single input needs a leading dimension of 1: x[None]."
            )
        unknown = self.support.y.new_zeros(len(one), *self.support.y.shape[1:])
        task = _batch_of_one(self.support, Examples(x, unknown))
        with self.learner.explained(task):
            support, query = _only(self.learner.prepare(task, self.policy))
            outputs, _ = self.learner.answer(self.policy, self.state, support, query.x)
        return outputs if self.classes is None else logits(outputs, unknown)

    def probabilities(self, x: Any) -> Tensor:
        """The softmax of :meth:`outputs`: [n, ways]."""
        if self.classes is None:
            raise ValueError("a model of regression targets has no probabilities; use outputs(x).")
        return self.outputs(x).softmax(-1)

    def predict(self, x: Any) -> Any:
        """The name of each input's class, a list; after regression, the outputs."""
        outputs = self.outputs(x)
        return outputs if self.classes is None else [self.classes[i] for i in outputs.argmax(-1).tolist()]

    def to(self, device: torch.device | str) -> Self:
        """The same model on another device."""
        state, support = tree_map(
            lambda part: part.to(device) if isinstance(part, Tensor) else part, (self.state, self.support)
        )
        return type(self)(copy.deepcopy(self.learner).to(device), self.policy, state, support, self.classes)

    def save(self, path: Path | str) -> None:
        """Write everything but the architecture to a file, as tensors and plain values.

        Raises:
            TypeError: the learner's state holds something else.
        """
        content = {
            "learner": type(self.learner).__name__,
            "weights": dict(self.learner.state_dict()),
            "settings": _settings(self.learner),
            "policy": self.policy,
            "state": _plain(self.state),
            "support": _plain(self.support),
            "classes": self.classes,
        }
        write_atomically(Path(path), lambda temporary: torch.save(content, temporary))

    @classmethod
    def load(cls, path: Path | str, learner: Learner) -> Self:
        """The model in a file; ``learner`` gives the architecture and the device, and is left as it was.

        Raises:
            ValueError: a file that cannot be read, or of another learner.
        """
        check_learner(learner)
        try:
            content = torch.load(Path(path), map_location=device_of(learner), weights_only=True)
            made_by, weights, settings = (content[key] for key in ("learner", "weights", "settings"))
        except FileNotFoundError:
            raise
        except Exception as error:
            raise ValueError(f"{path} is not a saved model that can be read ({type(error).__name__}).") from error
        if made_by != type(learner).__name__:
            raise ValueError(f"{path} is a model of {made_by}, not of {type(learner).__name__}; give such a learner.")
        learner = copy.deepcopy(learner).eval()
        learner.__dict__.update({name: value for name, value in settings.items() if name in _settings(learner)})
        try:
            learner.load_state_dict(weights)
        except RuntimeError as error:
            raise ValueError(
                f"{path} is a model of another network: {str(error).splitlines()[-1].strip().rstrip('.')}."
            ) from error
        support = Examples(*_restored(content["support"]))
        return cls(learner, content["policy"], _restored(content["state"]), support, content["classes"])


@torch.no_grad()
def fitted(learner: Learner, support_x: Any, names: Any, batch_norm: BatchNormPolicy | None = None) -> AdaptedModel:
    """See :meth:`mlcore.Learner.fit`."""
    policy = batch_norm or ("support" if learner.batch_norm == "transductive" else learner.batch_norm)
    check_policy(policy)
    if not batch_norms(learner):
        policy = "running"  # without batch normalisation all policies are one, and this asks for nothing
    has_weights = next(learner.parameters(), None) is not None
    x = _inputs(support_x, device_of(learner) if has_weights else None)
    device = first_tensor(x).device
    classes, y = _targets(names)
    y = y.to(device)
    if len(y) != len(first_tensor(x)):
        raise ValueError(
            f"support_x has {len(first_tensor(x))} examples but there are {len(y)} names; they must be equally many."
        )
    learner = copy.deepcopy(learner).eval()
    learner.zero_grad()  # the copy's: nobody needs them
    # A support set is normalised by itself or by running averages, whatever normalises the queries. One of its rows
    # takes the place of queries: a learner prepares whole tasks.
    support = tree_map(Tensor.clone, Examples(x, y))  # whatever becomes of the caller's
    row = tree_map(lambda part: part[:1].clone(), support)
    task = _batch_of_one(support, row)
    with learner.explained(task):
        own, _ = _only(learner.prepare(task, "running" if policy == "running" else "transductive"))
        with statistics_from(learning_source(policy)):
            state = learner.adapt(own)
    state = tree_map(lambda part: part.detach().clone() if isinstance(part, Tensor) else part, state)
    needed = batch_norms(learner) and policy in ("support", "one_query", "episode")
    return AdaptedModel(learner, policy, state, support if needed else row, classes)


def _inputs(x: Any, device: torch.device | None) -> Any:
    """Inputs of the user as tensors on a device: one, or several in a tuple or dict; image bytes as in episodes."""
    examples = tree_map(examples_of, x, is_leaf=lambda part: isinstance(part, Tensor | np.ndarray | list))
    return tree_map(lambda part: scaled(part).to(device or part.device), examples)


def _targets(names: Any) -> tuple[list[Any] | None, Tensor]:
    """Class names, and one-hot rows; or no names, and regression targets [n, *output]."""
    floats = isinstance(names, Tensor) and names.is_floating_point()
    if floats or (isinstance(names, np.ndarray) and names.dtype.kind == "f"):
        targets = examples_of(names)
        if targets.dim() < 2:
            raise TypeError(
                f"names are {names.dtype} numbers {list(names.shape)}: name classes by integers or strings, and give "
                "regression targets as [n, *output], such as y[:, None]."
            )
        return None, targets
    classes, labels = class_labels(cast(Sequence, names))
    return classes, rows(labels, len(classes))


def _batch_of_one(support: Examples, query: Examples) -> Task:
    return Task(*tree_map(lambda part: part[None], (support, query)))


def _only(task: Task) -> tuple[Any, Any]:
    support, query = task.each(lambda part: part[0])
    return support, query


def _settings(learner: Learner) -> dict[str, Any]:
    """The plain values among a learner's settings that its answers may depend on."""
    technical = ("training", "mapping", "low_precision")
    return {
        name: value
        for name, value in vars(learner).items()
        if not name.startswith("_") and name not in technical and isinstance(value, str | int | float | None)
    }


def _plain(tree: Any) -> Any:
    """A tree of tensors and plain values in which every container says what it is: named tuples need no class."""
    if tree is None or isinstance(tree, Tensor | str | int | float | bool):
        return tree.clone() if isinstance(tree, Tensor) else tree  # a view would bring all of its storage
    if isinstance(tree, Mapping):
        return ["dict", {name: _plain(part) for name, part in tree.items()}]
    if hasattr(tree, "_fields"):
        return [type(tree).__name__, {name: _plain(part) for name, part in tree._asdict().items()}]
    if isinstance(tree, tuple | list):
        return ["tuple" if isinstance(tree, tuple) else "list", [_plain(part) for part in tree]]
    raise TypeError(
        f"a model holds a {type(tree).__name__}, which cannot be saved; make the learner's state of tensors, numbers, "
        "tuples, lists and dicts."
    )


def _restored(tree: Any) -> Any:
    """The way back from :func:`_plain`; a named tuple is one of the same fields."""
    if not isinstance(tree, list):
        return tree
    kind, parts = tree
    if kind in ("tuple", "list"):
        parts = [_restored(part) for part in parts]
        return parts if kind == "list" else tuple(parts)
    named = {name: _restored(part) for name, part in parts.items()}
    return named if kind == "dict" else namedtuple(kind, named)(**named)
