"""Meta-training: one loop for every learner, readable in one sitting."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from mlcore.evaluation import check_learner, check_tasks, evaluate, score_tasks
from mlcore.files import write_atomically
from mlcore.hard_tasks import HardTasks
from mlcore.learners.base import Learner
from mlcore.tasks import TaskDistribution, seeded

_OPTIMIZERS = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
# The share of the outer rate that is left when a share t of the iterations is done.
_DECAYS: dict[str | None, Callable[[float], float]] = {
    None: lambda t: 1.0,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "linear": lambda t: 1 - t,
}


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


def meta_train(
    learner: Learner,
    tasks: TaskDistribution,
    *,
    iterations: int,
    meta_batch: int = 4,
    outer_lr: float = 1e-3,
    optimizer: Literal["adam", "sgd"] = "adam",
    decay: Literal["cosine", "linear"] | None = None,
    clip: float | None = None,
    val: TaskDistribution | None = None,
    val_every: int = 500,
    val_episodes: int = 200,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 500,
    checkpoint_seconds: float = 120,
    recipe_hash: str = "",
    progress: bool = True,
) -> History:
    """Meta-train in place on batches of ``meta_batch`` tasks.

    Iteration i trains on tasks that depend on (seed, i) alone, so a run that is resumed from its checkpoint ends with
    the same bits as one that was never interrupted. Under ``torchrun``, with a process group initialised, each rank
    takes its share of every meta-batch and all make the same update. The learner is left in training mode;
    :func:`evaluate` and :meth:`~mlcore.learners.base.Learner.label` put it in evaluation mode for their own time.

    Args:
        learner: trained in place, on whatever device it is.
        tasks: where meta-batches come from. Hard tasks are told the outputs of each meta-batch.
        iterations: meta-updates in all, those before a resume counted in.
        meta_batch: tasks in one meta-update.
        outer_lr: β, the step size of the optimiser.
        optimizer: Adam, or plain gradient descent, as Reptile wants it.
        decay: let β fall to zero over the iterations, along half a cosine wave or a line; it stays by default.
        clip: clamp each entry of the meta-gradient to [-clip, clip], as the MAML code does for mini-ImageNet.
        val: validation tasks, of classes apart from training and test. The weights that score best on them are the ones
            the learner holds at the end.
        val_every: iterations between validations.
        val_episodes: tasks in each validation, always the same ones.
        patience: stop after this many validations without a new best.
        seed: names the sequence of tasks.
        checkpoint: file to save to and, if it exists, to resume from.
        checkpoint_every: iterations between saves, at most.
        checkpoint_seconds: time between saves, at most; when a run is saved changes no bit of it.
        recipe_hash: identifies the experiment, which is known by the settings above without it; a checkpoint with
            another one, or another seed, is refused.
        progress: show a bar with loss, score and time left.

    Returns:
        The history, whole, also after a resume.

    Raises:
        FloatingPointError: the loss or its gradient is NaN or infinite; the message says at which iteration. The last
            checkpoint stays.
        ValueError: sizes below 1, or a checkpoint of another experiment.
    """
    check_learner(learner)
    check_tasks(tasks)
    if val is not None:
        check_tasks(val)
    sizes = {"iterations": iterations, "meta_batch": meta_batch}
    for name, value in (sizes | {"val_every": val_every, "checkpoint_every": checkpoint_every}).items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
    if optimizer not in _OPTIMIZERS:
        raise ValueError(f"optimizer must be 'adam' or 'sgd', not {optimizer!r}.")
    if decay not in _DECAYS:
        raise ValueError(f"decay must be 'cosine', 'linear' or None, not {decay!r}.")
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if meta_batch < world:
        raise ValueError(f"meta_batch={meta_batch} is less than the {world} processes; each needs a task.")
    if isinstance(tasks, HardTasks) and world > 1:
        raise ValueError(f"hard tasks follow from one process's failures; train on one process, not {world}.")
    if not list(learner.parameters()):
        raise ValueError(f"{type(learner).__name__} has nothing to train; hand it to evaluate as it is.")
    device = next(learner.parameters()).device
    descent = _OPTIMIZERS[optimizer](learner.parameters(), lr=outer_lr)
    # A run without a recipe is known by its settings, so that its checkpoint does not answer for another one.
    settings = f"outer_lr {outer_lr:g}, meta_batch {meta_batch}, {optimizer}, decay {decay}, clip {clip}"
    run = _Run(learner, descent, f"{recipe_hash or settings}, seed {seed}", tasks)
    checkpoint = checkpoint if checkpoint is None else Path(checkpoint)
    if checkpoint is not None and checkpoint.exists() and rank == 0:
        run.load(checkpoint)
    if world > 1:  # all go on from the first one's weights and checkpoint
        states = [run.state()]
        dist.broadcast_object_list(states, src=0)
        run.restore(states[0])
    history = run.history
    learner.train()
    saved = time.perf_counter()
    start = saved - 60 * history.minutes

    bar = tqdm(total=iterations, initial=run.iteration, desc="meta-train", disable=not progress or rank > 0)
    # The seed of each iteration is set below; the caller's own stream of random numbers is given back untouched.
    with bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        while run.iteration < iterations and not run.out_of_patience(patience):
            generator = seeded(seed, 0, run.iteration)
            batch = tasks.sample(meta_batch, generator).shard(rank, world).to(device)
            torch.manual_seed(generator.initial_seed() + rank)  # for dropout; no state to save
            descent.param_groups[0]["lr"] = outer_lr * _DECAYS[decay](run.iteration / iterations)
            descent.zero_grad()
            loss, outputs = learner.meta_backward(batch)
            if isinstance(tasks, HardTasks):
                tasks.observe(outputs, batch.query_y)
            scores, history.metric = score_tasks(outputs, batch.query_y)
            summary = torch.stack([loss.cpu().double(), scores.mean().cpu().double()])  # MPS has no doubles
            if world > 1:
                summary = _share(learner, summary, weight=len(batch.support_x) / meta_batch)
            loss_value, score = summary.tolist()
            bad = None if math.isfinite(loss_value) else f"loss is {loss_value}"
            if bad is None and not all(p.grad.isfinite().all() for p in learner.parameters() if p.grad is not None):
                bad = "meta-gradient is not finite"
            if bad is not None:
                raise FloatingPointError(
                    f"the {bad} at iteration {run.iteration + 1}; lower inner_lr or outer_lr, or set clip."
                )
            if clip is not None:
                nn.utils.clip_grad_value_(learner.parameters(), clip)
            descent.step()
            run.iteration += 1
            history.loss.append(loss_value)
            history.score.append(score)
            if run.iteration % 10 == 0 or run.iteration == iterations:
                bar.set_postfix(loss=f"{loss_value:.4f}", **{history.metric: f"{score:.3f}"}, refresh=False)
            bar.update()
            if val is not None and (run.iteration % val_every == 0 or run.iteration == iterations):
                # Another list of tasks than evaluate(seed=seed) gives, in case val and test are one distribution.
                run.validate(evaluate(learner, val, episodes=val_episodes, seed=-1 - seed))
            history.minutes = (time.perf_counter() - start) / 60
            if (
                checkpoint is not None
                and rank == 0
                and (
                    run.iteration % checkpoint_every == 0
                    or run.iteration == iterations
                    or time.perf_counter() - saved > checkpoint_seconds
                )
            ):
                run.save(checkpoint)
                saved = time.perf_counter()
    if run.best is not None:
        learner.load_state_dict(run.best)
    return history


class _Run:
    """The whole state of a training run: what a checkpoint holds."""

    def __init__(
        self, learner: Learner, optimizer: torch.optim.Optimizer, experiment: str, tasks: TaskDistribution
    ) -> None:
        self.learner, self.optimizer, self.experiment = learner, optimizer, experiment
        self.memory = tasks if isinstance(tasks, HardTasks) else None
        self.iteration = 0
        self.history = History()
        self.best: dict[str, torch.Tensor] | None = None  # the weights that scored best in validation

    def validate(self, score) -> None:
        history = self.history
        better = (lambda a, b: a > b) if score.metric == "accuracy" else (lambda a, b: a < b)
        best = math.nan if self.best is None else history.val_mean[history.val_iteration.index(history.best_iteration)]
        if math.isnan(best) or better(score.mean, best):
            self.best = {name: value.clone() for name, value in self.learner.state_dict().items()}
            history.best_iteration = self.iteration
        history.val_iteration.append(self.iteration)
        history.val_mean.append(score.mean)
        history.val_ci95.append(score.ci95)

    def out_of_patience(self, patience: int | None) -> bool:
        since_best = sum(i > self.history.best_iteration for i in self.history.val_iteration)
        return patience is not None and since_best >= patience

    def state(self) -> dict[str, Any]:
        return {
            "experiment": self.experiment,
            "iteration": self.iteration,
            "history": asdict(self.history),
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "tasks": self.memory and self.memory.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.learner.load_state_dict(state["learner"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration, self.best, self.history = state["iteration"], state["best"], History(**state["history"])
        if self.memory is not None:
            self.memory.load_state_dict(state["tasks"])

    def save(self, path: Path) -> None:
        write_atomically(path, lambda temporary: torch.save(self.state(), temporary))

    def load(self, path: Path) -> None:
        state = _read(path, next(self.learner.parameters()).device)
        if state["experiment"] != self.experiment:
            raise ValueError(
                f"{path} belongs to another experiment (recipe {state['experiment']}; this one is {self.experiment}); "
                "delete it or choose another checkpoint file."
            )
        if (state.get("tasks") is None) != (self.memory is None):
            raise ValueError(
                f"{path} was trained {'with' if self.memory is None else 'without'} hard tasks; go on as it began, or "
                "choose another checkpoint file."
            )
        self.restore(state)


def load_trained(net: nn.Module, checkpoint: Path | str) -> None:
    """Give ``net`` the weights that a finished run's checkpoint holds for its learner's network.

    The weights are those that scored best in validation, if there was one.

    Raises:
        FileNotFoundError: no checkpoint.
        ValueError: a checkpoint that cannot be read, or of another network.
    """
    checkpoint = Path(checkpoint)
    if not checkpoint.exists():
        run = checkpoint.stem.rpartition("-seed")
        name, profile = run[0].rsplit("-", 1)
        raise FileNotFoundError(
            f"no {checkpoint}; make it first: mlcore run {name} --profile {profile} --seed {run[2]}."
        )
    state = _read(checkpoint, next(net.parameters()).device)
    weights = state["best"] or state["learner"]
    try:
        net.load_state_dict({n.removeprefix("net."): w for n, w in weights.items() if n.startswith("net.")})
    except RuntimeError as error:
        raise ValueError(f"{checkpoint} holds another network: {str(error).splitlines()[-1].strip()}") from error


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        # weights_only: tensors and plain values are read, code is not run.
        state = torch.load(path, map_location=device, weights_only=True)
        state["experiment"]
    except Exception as error:
        raise ValueError(
            f"{path} is not a checkpoint that can be read ({type(error).__name__}); delete it to start again."
        ) from error
    return state


def _share(learner: Learner, summary: torch.Tensor, *, weight: float) -> torch.Tensor:
    """Average gradients, running statistics and the summary over ranks, each weighted by its share of the tasks."""
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    shared = [*gradients, *(b for b in learner.buffers() if b.is_floating_point()), summary]
    # In double precision and one message: 2 ranks then round as one process does.
    flat = torch.cat([tensor.cpu().double().flatten() for tensor in shared]) * weight
    dist.all_reduce(flat)
    for tensor, part in zip(shared, flat.split([tensor.numel() for tensor in shared]), strict=True):
        tensor.copy_(part.view_as(tensor))
    return summary
