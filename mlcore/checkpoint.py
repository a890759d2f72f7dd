"""The whole state of a training run, and files that hold it."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlcore.evaluation import Score
from mlcore.files import write_atomically
from mlcore.learner import Learner
from mlcore.task import Tasks


@dataclass
class History:
    """What meta-training saw: one number an iteration, and validation scores at the iterations listed."""

    loss: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    val_iteration: list[int] = field(default_factory=list)
    val_mean: list[float] = field(default_factory=list)
    val_ci95: list[float] = field(default_factory=list)
    best_iteration: int = 0
    metric: str = ""
    minutes: float = field(default=0.0, compare=False)  # of training and validation, before and after a resume


class TrainingState:
    """Everything that a training run goes on from: what a checkpoint holds."""

    def __init__(
        self, learner: Learner, optimizer: torch.optim.Optimizer, scheduler: Any, experiment: str, tasks: Tasks
    ) -> None:
        self.learner, self.optimizer, self.scheduler = learner, optimizer, scheduler
        self.experiment, self.tasks = experiment, tasks
        self.iteration = 0
        self.history = History()
        self.best: dict[str, torch.Tensor] | None = None  # the weights that scored best in validation

    def validate(self, score: Score) -> None:
        """Note a validation score, and the weights if it is the best."""
        history = self.history
        best = float("nan")
        if self.best is not None:
            best = history.val_mean[history.val_iteration.index(history.best_iteration)]
        if score.metrics[score.metric].better(score.mean, best):
            self.best = {name: value.clone() for name, value in self.learner.state_dict().items()}
            history.best_iteration = self.iteration
        history.val_iteration.append(self.iteration)
        history.val_mean.append(score.mean)
        history.val_ci95.append(score.ci95)

    def out_of_patience(self, patience: int | None) -> bool:
        """Whether that many validations have passed without a new best."""
        since_best = sum(i > self.history.best_iteration for i in self.history.val_iteration)
        return patience is not None and since_best >= patience

    def state(self) -> dict[str, Any]:
        """Tensors and plain values."""
        return {
            "experiment": self.experiment,
            "iteration": self.iteration,
            "history": asdict(self.history),
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler and self.scheduler.state_dict(),
            "best": self.best,
            "tasks": self.tasks.state_dict() or None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state`."""
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        self.iteration, self.best, self.history = state["iteration"], state["best"], History(**state["history"])
        if state["tasks"]:
            self.tasks.load_state_dict(state["tasks"])

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        write_atomically(path, lambda temporary: torch.save(self.state(), temporary))

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ValueError: a checkpoint that cannot be read, or of another experiment.
        """
        state = read(path, next(self.learner.parameters()).device)
        if state["experiment"] != self.experiment:
            raise ValueError(
                f"{path} belongs to another experiment (recipe {state['experiment']}; this one is {self.experiment}); "
                "delete it or choose another checkpoint file."
            )
        mine = self.tasks.state_dict()
        if bool(state.get("tasks")) != bool(mine):
            raise ValueError(
                f"{path} was trained {'without' if mine else 'with'} hard tasks; go on as it began, or choose another "
                "checkpoint file."
            )
        self.restore(state)


def load_trained(net: nn.Module, path: Path | str) -> None:
    """Give ``net`` the weights that a file holds for its learner's network.

    Args:
        net: of the same architecture.
        path: a checkpoint, whose best weights in validation are taken, if there was one; or weights that ship.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that cannot be read, or of another network.
    """
    path = Path(path)
    weights = trained_weights(path, next(net.parameters()).device)
    try:
        net.load_state_dict({n.removeprefix("net."): w for n, w in weights.items() if n.startswith("net.")})
    except RuntimeError as error:
        raise ValueError(f"{path} holds another network: {str(error).splitlines()[-1].strip()}") from error


def trained_weights(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """A trained learner's state, from a checkpoint or from a file of weights (``.safetensors``)."""
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}; train its recipe first, or name another file.")
    if path.suffix != ".safetensors":
        state = read(path, torch.device(device))
        return state["best"] or state["learner"]
    weights, _ = read_weights(path)
    return {name: value.to(device) for name, value in weights.items()}


def save_weights(path: Path, weights: dict[str, torch.Tensor], known: dict[str, str]) -> None:
    """Write tensors, and what is known of them, to a ``.safetensors`` file with a checksum."""
    from safetensors.torch import save  # of the extra "data"

    content = save(weights, known | {"sha256": _checksum(weights)})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What :func:`save_weights` wrote.

    Raises:
        ValueError: a file that cannot be read, or whose content has changed.
    """
    from safetensors import safe_open

    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            known, weights = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:
        raise ValueError(f"{path} holds no weights that can be read ({type(error).__name__}).") from error
    if known.get("sha256") != _checksum(weights):
        raise ValueError(f"{path} was changed after it was written: its checksum is another; restore it from git.")
    return weights, known


def _checksum(weights: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def read(path: Path, device: torch.device) -> dict[str, Any]:
    """A checkpoint's state.

    Raises:
        ValueError: a file that cannot be read.
    """
    try:
        # weights_only: tensors and plain values are read, code is not run.
        state = torch.load(path, map_location=device, weights_only=True)
        state["experiment"]
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint that can be read ({type(error).__name__}); delete it to start again."
        ) from error
    return state
