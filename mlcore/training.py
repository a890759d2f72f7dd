"""Meta-training: one loop for every learner, readable in one sitting."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mlcore.callbacks import Callback, Moment, ProgressBar
from mlcore.checkpoint import History, TrainingState
from mlcore.distributed import from_the_first, rank_and_world, share
from mlcore.evaluation import Score, check_learner, check_tasks, evaluate
from mlcore.learner import Learner
from mlcore.task import Tasks, seed_global_stream, seeded

# The share of the outer rate that is left when a share t of the iterations is done.
_DECAYS: dict[str | None, Callable[[float], float]] = {
    None: lambda t: 1.0,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "linear": lambda t: 1 - t,
}


def meta_train(
    learner: Learner,
    tasks: Tasks,
    *,
    iterations: int,
    meta_batch: int = 4,
    outer_lr: float = 1e-3,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    decay: Literal["cosine", "linear"] | Callable[[float], float] | None = None,
    scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
    clip: float | None = None,
    clip_norm: float | None = None,
    val: Tasks | None = None,
    val_every: int = 500,
    val_episodes: int = 200,
    patience: int | None = None,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 500,
    checkpoint_seconds: float = 120,
    recipe_hash: str = "",
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> History:
    """Meta-train in place on batches of ``meta_batch`` tasks.

    Iteration i trains on tasks that depend on (seed, i) alone, so a run that is resumed from its checkpoint ends with
    the same bits as one that was never interrupted. Under ``torchrun``, with a process group initialised, each rank
    takes its share of every meta-batch and all make the same update. The learner is left in training mode;
    :func:`evaluate` and :meth:`~mlcore.learner.Learner.fit` put it in evaluation mode for their own time.

    Args:
        learner: trained in place, on whatever device it is.
        tasks: where meta-batches come from; told the scores of each.
        iterations: meta-updates in all, those before a resume counted in.
        meta_batch: tasks in one meta-update.
        outer_lr: β, the step size of the optimiser.
        optimizer: makes the optimiser of parameters and ``lr``: a class of :mod:`torch.optim`, or a ``partial`` of one,
            such as ``partial(torch.optim.SGD, momentum=0.9)``.
        decay: let β fall to zero over the iterations, along half a cosine wave or a line; or the share of β that is
            left, a function of the share of iterations that is done. It stays by default.
        scheduler: makes a scheduler of the optimiser, such as ``partial(StepLR, step_size=100)``; in place of
            ``decay``.
        clip: clamp each entry of the meta-gradient to [-clip, clip], as the MAML code does for mini-ImageNet.
        clip_norm: shorten a meta-gradient that is longer than this.
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
        callbacks: told of each iteration, on the first process; see :mod:`mlcore.callbacks`.
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
    if not callable(optimizer):
        raise ValueError(f"optimizer must make an optimiser, as torch.optim.SGD does, not be {optimizer!r}.")
    if not callable(decay) and decay not in _DECAYS:
        raise ValueError(f"decay must be 'cosine', 'linear', a function or None, not {decay!r}.")
    if scheduler is not None and decay is not None:
        raise ValueError("decay and scheduler both set the outer rate; give one of them.")
    rank, world = rank_and_world()
    if meta_batch < world:
        raise ValueError(f"meta_batch={meta_batch} is less than the {world} processes; each needs a task.")
    if tasks.state_dict() and world > 1:
        raise ValueError(f"these tasks follow from one process's scores; train on one process, not {world}.")
    if not any(p.requires_grad for p in learner.parameters()):
        raise ValueError(f"{type(learner).__name__} has nothing to train; hand it to evaluate as it is.")
    device = next(learner.parameters()).device
    descent = optimizer(learner.parameters(), lr=outer_lr)
    left = decay if callable(decay) else _DECAYS[decay]
    schedule = scheduler and scheduler(descent)
    # A run without a recipe is known by its settings, so that its checkpoint does not answer for another one.
    falls = _named(schedule, schedule.state_dict()) if schedule else "by a function" if callable(decay) else decay
    settings = (
        f"meta_batch {meta_batch}, {_named(descent, descent.defaults)}, decay {falls}, clip {clip}, "
        f"clip_norm {clip_norm}"
    )
    run = TrainingState(learner, descent, schedule, f"{recipe_hash or settings}, seed {seed}", tasks)
    checkpoint = checkpoint if checkpoint is None else Path(checkpoint)
    if checkpoint is not None and checkpoint.exists() and rank == 0:
        run.load(checkpoint)
    if world > 1:  # all go on from the first one's weights and checkpoint
        run.restore(from_the_first(run.state()))
    history = run.history
    history.metric = tasks.objective.main
    learner.train()
    saved = time.perf_counter()
    start = saved - 60 * history.minutes
    told: list[Any] = [*callbacks] if rank == 0 else []
    if progress and rank == 0:
        told.append(ProgressBar(iterations, done=run.iteration))
    try:
        # The seed of each iteration is set below; the caller's own stream of random numbers is given back untouched.
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            while run.iteration < iterations and not run.out_of_patience(patience):
                generator = seeded(seed, 0, run.iteration)
                batch = tasks.sample(meta_batch, generator).shard(rank, world).to(device)
                seed_global_stream(generator.initial_seed() + rank)  # for dropout; no state to save
                if schedule is None:
                    descent.param_groups[0]["lr"] = outer_lr * left(run.iteration / iterations)
                descent.zero_grad()
                judged = learner.meta_backward(batch, tasks.objective)
                tasks.feedback(judged.scores)
                means = [judged.losses.mean(), *(score.double().nanmean() for score in judged.scores.values())]
                summary = torch.stack([mean.cpu().double() for mean in means])
                if world > 1:
                    summary = share(learner, summary, weight=batch.count / meta_batch)
                loss, *scores = summary.tolist()
                _check_finite(learner, loss, run.iteration)
                if clip is not None:
                    nn.utils.clip_grad_value_(learner.parameters(), clip)
                if clip_norm is not None:
                    nn.utils.clip_grad_norm_(learner.parameters(), clip_norm)
                descent.step()
                if schedule is not None:
                    schedule.step()
                run.iteration += 1
                history.loss.append(loss)
                history.score.append(scores[0])
                validation: Score | None = None
                if val is not None and (run.iteration % val_every == 0 or run.iteration == iterations):
                    # Another list of tasks than evaluate(seed=seed) gives, in case val and test are one distribution.
                    validation = evaluate(learner, val, episodes=val_episodes, seed=-1 - seed, progress=False)
                    run.validate(validation)
                now = time.perf_counter()
                history.minutes = (now - start) / 60
                last = run.iteration == iterations
                due = last or run.iteration % checkpoint_every == 0 or now - saved > checkpoint_seconds
                if checkpoint is not None and rank == 0 and due:
                    run.save(checkpoint)
                    saved = now
                named = dict(zip(judged.scores, scores, strict=True))
                for tell in told:
                    tell(Moment(run.iteration, iterations, loss, named, validation, learner))
    finally:
        for tell in told:
            getattr(tell, "close", lambda: None)()
    if run.best is not None:
        learner.load_state_dict(run.best)
    return history


def _named(thing: Any, options: dict[str, Any]) -> str:
    """An optimiser or a scheduler in words: its class, and its options as it begins."""
    plain = {name: value for name, value in options.items() if name[0] != "_" and value not in (None, False)}
    return f"{type(thing).__name__} {plain}"


def _check_finite(learner: Learner, loss: float, iteration: int) -> None:
    bad = None if math.isfinite(loss) else f"loss is {loss}"
    gradients = [p.grad for p in learner.parameters() if p.grad is not None]
    if bad is None and not nn.utils.get_total_norm(gradients).isfinite():  # one number, one look at the device
        bad = "meta-gradient is not finite"
    if bad is not None:
        raise FloatingPointError(f"the {bad} at iteration {iteration + 1}; lower inner_lr or outer_lr, or set clip.")
