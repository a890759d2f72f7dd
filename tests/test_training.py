"""Meta-training: what one iteration does, resuming to the same bits, stopping, and refusing."""

import copy
import csv
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import mlcore.training
from mlcore import (
    MAML,
    ClassificationTasks,
    History,
    Metric,
    NearestNeighbour,
    Objective,
    Score,
    Task,
    Tasks,
    classification,
    evaluate,
    meta_train,
    mlp,
    regression,
    seeded,
)
from mlcore.callbacks import CSVLog, TensorBoard
from mlcore.checkpoint import load_trained
from mlcore.datasets.sinusoid import sinusoid
from mlcore.objective import accuracy, cross_entropy, mse
from mlcore.task import seed_global_stream

SIZES = {"iterations": 12, "meta_batch": 3, "progress": False}
PATIENCE = 1800  # seconds; whatever takes longer hangs
METRICS = classification.metrics | regression.metrics
METRICS |= {"IoU": Metric(accuracy), "error": Metric(mse, higher_is_better=False)}


def _tasks(**sizes) -> ClassificationTasks:
    x = torch.randn(60, 1, 5, 5, generator=seeded(0))
    return ClassificationTasks(x, torch.arange(12).repeat(5), **({"ways": 3, "shots": 2, "queries": 2} | sizes))


def _learner(dropout: float = 0.3, **options) -> MAML:
    """Batch norm and dropout: everything that carries state or draws numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        norm, drop = nn.BatchNorm2d(3), nn.Dropout(dropout)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), norm, nn.ReLU(), nn.Flatten(), drop, nn.Linear(27, 3))
    return MAML(net, **({"inner_lr": 0.1} | options))


def _assert_same(a: dict, b: dict) -> None:
    """Equal to the last bit, however nested."""
    if isinstance(a, dict):
        assert list(a) == list(b)
        for name in a:
            _assert_same(a[name], b[name])
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def _contents(path: Path) -> dict:
    """What a checkpoint holds, but for the wall time."""
    state = torch.load(path, weights_only=True)
    del state["history"]["minutes"]
    return state


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_it_is_adam_on_the_meta_gradient(clip):
    tasks, learner = _tasks(), _learner(dropout=0.0)
    twin = copy.deepcopy(learner)
    history = meta_train(learner, tasks, **SIZES, outer_lr=0.01, clip=clip, seed=4)
    adam, losses, clipped = torch.optim.Adam(twin.parameters(), lr=0.01), [], 0
    for i in range(12):
        adam.zero_grad()
        loss = twin.meta_loss(tasks.sample(3, seeded(4, 0, i)), tasks.objective)
        loss.backward()
        if clip is not None:
            clipped += sum(int((p.grad.abs() > clip).sum()) for p in twin.parameters())
            for p in twin.parameters():
                p.grad.clamp_(-clip, clip)
        adam.step()
        losses.append(loss.item())
    assert clipped > 0 or clip is None
    assert history.loss == losses
    _assert_same(dict(learner.named_parameters()), dict(twin.named_parameters()))
    assert learner.net[1].running_mean.abs().min() > 0


@pytest.mark.parametrize(
    ("decay", "share"),
    [
        ("cosine", lambda t: (1 + math.cos(math.pi * t)) / 2),
        ("linear", lambda t: 1 - t),
        (None, lambda t: 1.0),
        (lambda t: 1 - t**2, lambda t: 1 - t**2),
        (partial(StepLR, step_size=3, gamma=0.5), lambda t: 0.5 ** (8 * t // 3)),
    ],
    ids=["cosine", "linear", "constant", "a function", "a scheduler"],
)
def test_the_rate_falls_as_asked_also_after_a_resume(decay, share, tmp_path, monkeypatch):
    rates = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(
        torch.optim.Adam, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))[1]
    )
    whole, resumed, path = _learner(), _learner(), tmp_path / "run.pt"
    options = SIZES | {"iterations": 8, "outer_lr": 0.02}
    options["scheduler" if isinstance(decay, partial) else "decay"] = decay
    meta_train(whole, _tasks(), **options)
    assert rates == pytest.approx([0.02 * share(i / 8) for i in range(8)])

    def killed(self):
        if len(rates) == 13:
            raise Killed
        return (rates.append(self.param_groups[0]["lr"]), step(self))[1]

    monkeypatch.setattr(torch.optim.Adam, "step", killed)
    with pytest.raises(Killed):
        meta_train(resumed, _tasks(), **options, checkpoint=path, checkpoint_every=1)
    monkeypatch.setattr(torch.optim.Adam, "step", step)
    meta_train(resumed, _tasks(), **options, checkpoint=path)
    _assert_same(whole.state_dict(), resumed.state_dict())


def test_a_scheduler_and_a_decay_are_not_both_taken():
    with pytest.raises(ValueError, match="decay and scheduler both set the outer rate; give one of them"):
        meta_train(_learner(), _tasks(), **SIZES, decay="linear", scheduler=partial(StepLR, step_size=3))


def test_the_optimizer_is_whatever_makes_one():
    tasks, learner = _tasks(), _learner(dropout=0.0)
    twin = copy.deepcopy(learner)
    factory = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
    meta_train(learner, tasks, **SIZES, optimizer=factory, outer_lr=0.1)
    descent = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for i in range(12):
        descent.zero_grad()
        twin.meta_loss(tasks.sample(3, seeded(0, 0, i)), tasks.objective).backward()
        descent.step()
    _assert_same(dict(learner.named_parameters()), dict(twin.named_parameters()))


def test_a_long_meta_gradient_is_shortened_to_its_norm():
    moved = []
    for clip_norm in (None, 0.1, 1e3):
        learner = _learner(dropout=0.0)
        before = nn.utils.parameters_to_vector(learner.parameters()).detach()
        options = {"iterations": 1, "optimizer": torch.optim.SGD, "outer_lr": 1.0, "clip_norm": clip_norm}
        meta_train(learner, _tasks(), **SIZES | options)
        moved.append(nn.utils.parameters_to_vector(learner.parameters()).detach() - before)
    freely, shortened, short_enough = moved
    assert freely.norm() > 0.2 and torch.equal(freely, short_enough)
    assert shortened.norm().item() == pytest.approx(0.1, rel=1e-4)
    torch.testing.assert_close(shortened / shortened.norm(), freely / freely.norm(), rtol=1e-3, atol=1e-5)


def test_plain_gradient_descent_moves_by_the_rate_times_the_gradient():
    learner, tasks = _learner(dropout=0.0), _tasks()
    before = copy.deepcopy(learner)
    before.meta_backward(tasks.sample(4, seeded(0, 0, 0)), tasks.objective)
    meta_train(learner, tasks, iterations=1, meta_batch=4, optimizer=torch.optim.SGD, outer_lr=0.5, progress=False)
    for old, new in zip(before.parameters(), learner.parameters(), strict=True):
        torch.testing.assert_close(new, old - 0.5 * old.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "sgd"}, "optimizer must make an optimiser, as torch.optim.SGD does, not be 'sgd'"),
        ({"decay": "step"}, "decay must be 'cosine', 'linear', a function or None, not 'step'"),
    ],
    ids=["optimizer", "decay"],
)
def test_unknown_optimizers_and_decays_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        meta_train(_learner(), _tasks(), **SIZES, **options)


def test_trained_weights_go_where_they_are_asked_to(tmp_path):
    path, learner = tmp_path / "some-recipe-quick-seed3.pt", _learner()
    with pytest.raises(
        FileNotFoundError, match=r"there is no checkpoint .*some-recipe-quick-seed3\.pt; train its recipe first"
    ):
        load_trained(learner.net, path)
    meta_train(learner, _tasks(), **SIZES, val=_tasks(), val_every=1, val_episodes=4, checkpoint=path)
    other = _learner()
    assert not torch.equal(other.net[0].weight, learner.net[0].weight)
    load_trained(other.net, path)
    _assert_same(other.net.state_dict(), learner.net.state_dict())
    with pytest.raises(ValueError, match="holds another network"):
        load_trained(mlp(3, 2), path)
    path.write_bytes(b"rubbish")
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        load_trained(other.net, path)


def test_history_of_scores():
    tasks, learner = _tasks(), _learner(dropout=0.0)
    twin = copy.deepcopy(learner)
    history = meta_train(learner, tasks, **SIZES | {"iterations": 1})
    batch = tasks.sample(3, seeded(0, 0, 0))
    of_task = [accuracy(outputs, y) for outputs, y in zip(twin(batch), batch.query.y, strict=True)]
    assert history.score == [torch.stack(of_task).double().mean().item()]
    assert history.metric == "accuracy"
    regressor = MAML(mlp(1, 4, 1), inner_lr=0.01, loss_fn=mse)
    history = meta_train(regressor, sinusoid(), **SIZES)
    assert history.metric == "mse"
    assert history.score == pytest.approx(history.loss, rel=1e-6)


def test_the_same_seed_gives_the_same_bits():
    states, histories = [], []
    for seed in (1, 1, 2):
        torch.rand(7)  # whatever the caller draws in between
        learner = _learner()
        histories.append(meta_train(learner, _tasks(), **SIZES, seed=seed))
        states.append(learner.state_dict())
    _assert_same(states[0], states[1])
    assert histories[0] == histories[1] != histories[2]
    assert not torch.equal(states[0]["net.0.weight"], states[2]["net.0.weight"])


def test_the_callers_random_numbers_are_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    meta_train(_learner(), _tasks(), **SIZES, val=_tasks(), val_every=5, val_episodes=3)
    assert torch.equal(torch.random.get_rng_state(), before)


class Killed(Exception):
    """Stands for whatever ends a run early."""


class Slow(Tasks):
    """Tasks that take a while to come, so that there is time to be killed; the one numbered ``last`` never comes."""

    def __init__(self, tasks, delay: float, last: int | None):
        self.tasks, self.delay, self.last, self.draws, self.objective = tasks, delay, last, 0, tasks.objective

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        time.sleep(PATIENCE if self.draws == self.last else self.delay)
        self.draws += 1
        return self.tasks.sample(n_tasks, generator)


def _long_run(checkpoint: Path, delay: float = 0.0, last: int | None = None) -> tuple[dict, History]:
    """Thirty iterations with validation, batch norm and dropout: the weights and the history at the end."""
    learner = _learner(inner_steps=2)
    history = meta_train(
        learner,
        Slow(_tasks(), delay, last),
        iterations=30,
        meta_batch=3,
        seed=7,
        val=_tasks(),
        val_every=7,
        val_episodes=5,
        checkpoint=checkpoint,
        checkpoint_every=4,
        progress=False,
    )
    return learner.state_dict(), history


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this platform has no SIGKILL")
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    path = tmp_path / "killed.pt"
    process = subprocess.Popen([sys.executable, __file__, str(path)], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.01)
    time.sleep(0.15)  # into an iteration after the checkpoint, however late this process comes
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert 0 < _contents(path)["iteration"] < 30

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as many as the process that was killed had
    try:
        weights, history = _long_run(path)
        expected_weights, expected_history = _long_run(tmp_path / "alone.pt")
    finally:
        torch.set_num_threads(threads)
    assert history == expected_history and len(history.loss) == 30
    _assert_same(weights, expected_weights)
    state = _contents(path)
    assert state["optimizer"]["state"][0]["step"] == 30
    _assert_same(state, _contents(tmp_path / "alone.pt"))


class Nan(Tasks):
    """Tasks whose queries turn to NaN in the meta-batch of one iteration."""

    def __init__(self, tasks, iteration: int):
        self.tasks, self.seed, self.objective = tasks, seeded(0, 0, iteration - 1).initial_seed(), tasks.objective

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        spoilt = generator.initial_seed() == self.seed
        batch = self.tasks.sample(n_tasks, generator)
        query = batch.query._replace(x=batch.query.x * float("nan"))
        return batch._replace(query=query) if spoilt else batch


def test_a_nan_loss_stops_and_leaves_the_last_checkpoint(tmp_path):
    path = tmp_path / "run.pt"
    with pytest.raises(FloatingPointError, match=r"the loss is nan at iteration 8; lower inner_lr or outer_lr"):
        meta_train(_learner(), Nan(_tasks(), 8), **SIZES, checkpoint=path, checkpoint_every=3)
    assert _contents(path)["iteration"] == 6
    resumed, alone = _learner(), _learner()
    history = meta_train(resumed, _tasks(), **SIZES, checkpoint=path)
    assert history == meta_train(alone, _tasks(), **SIZES)
    _assert_same(resumed.state_dict(), alone.state_dict())


class RootOfZero(nn.Module):
    """A finite loss whose gradient is not: the slope of √|wx| at w = 0."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return (self.w * x).square().sum(-1, keepdim=True).sqrt()


def test_a_gradient_that_is_not_finite_stops_before_it_is_saved(tmp_path):
    path = tmp_path / "run.pt"
    learner = MAML(RootOfZero(), inner_lr=0.1, inner_steps=0, loss_fn=mse)
    assert learner.meta_loss(sinusoid().sample(2, seeded(0)), regression).isfinite()
    with pytest.raises(FloatingPointError, match="meta-gradient is not finite at iteration 1;"):
        meta_train(learner, sinusoid(), **SIZES, checkpoint=path, checkpoint_every=1)
    assert not path.exists()
    assert learner.net.w.item() == 0.0


def _checkpoint(path: Path, **options) -> None:
    meta_train(_learner(), _tasks(), **SIZES, checkpoint=path, **options)


@pytest.mark.parametrize(
    ("saved", "asked", "message"),
    [
        (
            {"recipe_hash": "abc"},
            {"recipe_hash": "def"},
            "another experiment .recipe abc, seed 0; this one is def, seed 0",
        ),
        ({"recipe_hash": "abc"}, {}, "another experiment .recipe abc, seed 0; this one is meta_batch 3, .*, seed 0"),
        ({}, {"outer_lr": 0.5}, "another experiment .recipe .*'lr': 0.001.*; this one is .*'lr': 0.5"),
        (
            {},
            {"optimizer": partial(torch.optim.Adam, eps=1e-3)},
            r"recipe .*'eps': 1e-08.*; this one is .*'eps': 0\.001",
        ),
        ({"clip_norm": 1.0}, {}, "another experiment .*, clip_norm 1.0, seed 0; this one is .*, clip_norm None"),
        # A function has no name that lasts from one process to the next.
        ({"decay": lambda t: 1 - t}, {}, "another experiment .recipe .*, decay by a function, .*; .*, decay None"),
        ({"scheduler": partial(StepLR, step_size=3)}, {}, "another experiment .recipe .*, decay StepLR .*decay None"),
        (
            {"scheduler": partial(StepLR, step_size=3)},
            {"scheduler": partial(StepLR, step_size=4)},
            "decay StepLR .'step_size': 3.*; this one is .*decay StepLR .'step_size': 4",
        ),
        (
            {"seed": 1},
            {"seed": 2},
            "another experiment .recipe meta_batch 3, .*, seed 1; this one is meta_batch 3, .*, seed 2",
        ),
    ],
)
def test_a_checkpoint_of_another_experiment_is_refused(saved, asked, message, tmp_path):
    path = tmp_path / "run.pt"
    _checkpoint(path, **saved)
    _checkpoint(path, **saved)  # its own is accepted
    content, learner = path.read_bytes(), _learner()
    before = copy.deepcopy(learner.state_dict())
    with pytest.raises(ValueError, match=message):
        meta_train(learner, _tasks(), **SIZES, checkpoint=path, **asked)
    assert path.read_bytes() == content
    _assert_same(learner.state_dict(), before)


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_that_holds_code_is_refused_and_not_run(tmp_path):
    path, trace = tmp_path / "run.pt", tmp_path / "trace"
    _checkpoint(path)
    torch.save(torch.load(path) | {"experiment": Bomb(trace)}, path)
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        _checkpoint(path)
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists()  # the bomb was live


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a checkpoint"),
        lambda path: path.write_bytes(pickle.dumps([1, 2])),
        lambda path: torch.save({"weights": torch.zeros(2)}, path),
    ],
    ids=["truncated", "empty", "text", "pickle", "other contents"],
)
def test_a_damaged_checkpoint_is_refused(spoil, tmp_path):
    path = tmp_path / "run.pt"
    _checkpoint(path)
    spoil(path)
    with pytest.raises(ValueError, match=r"run\.pt is not a checkpoint that can be read .*; delete it to start again"):
        _checkpoint(path)


def _scripted(monkeypatch, means: list[float], metric: str = "accuracy") -> list[dict]:
    """Validation scores that follow a script; gives the weights that each was asked for."""
    seen = []

    def evaluate(learner, tasks, **options):
        seen.append(copy.deepcopy(learner.state_dict()))
        values = torch.tensor([means[len(seen) - 1]] * 2, dtype=torch.float64)
        return Score({metric: values}, {metric: METRICS[metric]})

    monkeypatch.setattr(mlcore.training, "evaluate", evaluate)
    return seen


def test_an_error_that_is_not_a_number_is_never_the_best(monkeypatch):
    seen = _scripted(monkeypatch, [float("nan"), 0.5, float("nan"), 0.4, 0.6], "mse")
    learner = _learner()
    history = meta_train(learner, _tasks(), **SIZES | {"iterations": 10}, val=_tasks(), val_every=2)
    assert history.best_iteration == 8
    _assert_same(learner.state_dict(), seen[3])


@pytest.mark.parametrize(("metric", "best"), [("accuracy", 1), ("mse", 2), ("IoU", 1), ("error", 2)])
def test_validation_keeps_the_best_weights(metric, best, monkeypatch):
    seen = _scripted(monkeypatch, [0.4, 0.7, 0.3, 0.7, 0.5], metric)
    learner = _learner()
    history = meta_train(learner, _tasks(), **SIZES | {"iterations": 14}, val=_tasks(), val_every=3)
    assert history.val_iteration == [3, 6, 9, 12, 14]
    assert history.val_mean == [0.4, 0.7, 0.3, 0.7, 0.5]
    assert history.best_iteration == [3, 6, 9, 12, 14][best]
    _assert_same(learner.state_dict(), seen[best])
    assert not torch.equal(seen[best]["net.0.weight"], seen[4]["net.0.weight"])


def test_a_metric_says_what_is_better():
    nan = float("nan")
    for metric, better, worse in ((METRICS["IoU"], 0.7, 0.6), (METRICS["error"], 0.6, 0.7)):
        assert metric.better(better, worse) and not metric.better(worse, better) and not metric.better(better, better)
        assert metric.better(better, nan) and metric.better(nan, nan) and not metric.better(nan, better)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_first_metric_of_the_tasks_chooses_the_weights(higher_is_better):
    """Confidence, which rises here while the accuracy moves as it likes, taken for good and for bad."""
    confidence = Metric(lambda outputs, y: outputs.softmax(-1).amax(-1).mean(), higher_is_better)
    tasks, learner = _tasks(), _learner()
    tasks.objective = Objective(cross_entropy, {"confidence": confidence, "accuracy": Metric(accuracy)})
    options = {"val": tasks, "val_every": 2, "val_episodes": 6, "outer_lr": 0.05}
    history = meta_train(learner, tasks, **SIZES, **options)
    assert history.metric == "confidence" and len(set(history.val_mean)) == 6
    best = (max if higher_is_better else min)(history.val_mean)
    assert history.val_iteration[history.val_mean.index(best)] == history.best_iteration
    assert evaluate(learner, tasks, episodes=6, seed=-1).mean == best, "the weights are the best ones"


def test_without_validation_the_last_weights_stay():
    learner = _learner()
    history = meta_train(learner, _tasks(), **SIZES)
    assert (history.val_iteration, history.best_iteration) == ([], 0)
    assert learner.training


@pytest.mark.parametrize(("patience", "last", "best"), [(1, 4, 2), (2, 10, 6), (5, 16, 6), (None, 20, 6)])
def test_patience(patience, last, best, monkeypatch, tmp_path):
    seen = _scripted(monkeypatch, [0.5, 0.4, 0.6, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    options = SIZES | {"iterations": 20, "val": _tasks(), "val_every": 2, "patience": patience}
    learner, path = _learner(), tmp_path / "run.pt"
    history = meta_train(learner, _tasks(), **options, checkpoint=path, checkpoint_every=2)
    assert (len(history.loss), history.best_iteration) == (last, best)
    _assert_same(learner.state_dict(), seen[best // 2 - 1])
    # A run that has stopped does not go on when it is resumed.
    assert meta_train(_learner(), _tasks(), **options, checkpoint=path) == history


def test_validation_has_tasks_of_its_own():
    """Where validation and test share a distribution, choosing the best weights must not see the test's tasks."""

    class Recorded(Tasks):
        objective = classification

        def __init__(self):
            self.seeds = set()

        def sample(self, n_tasks, generator):
            self.seeds.add(generator.initial_seed())
            return _tasks().sample(n_tasks, generator)

    train, val, test, learner = Recorded(), Recorded(), Recorded(), _learner()
    meta_train(learner, train, **SIZES, seed=3, val=val, val_every=4, val_episodes=10)
    evaluate(learner, test, episodes=20, seed=3)
    assert [len(part.seeds) for part in (train, val, test)] == [12, 10, 20]
    assert len(train.seeds | val.seeds | test.seeds) == 42


def test_a_finished_run_is_read_back(tmp_path):
    path, learner = tmp_path / "run.pt", _learner()
    options = SIZES | {"val": _tasks(), "val_every": 5, "val_episodes": 4, "checkpoint": path}
    history, again = meta_train(learner, _tasks(), **options), _learner()
    content = path.read_bytes()
    read = meta_train(again, _tasks(), **options)
    assert read == history and read.minutes == history.minutes > 0
    _assert_same(again.state_dict(), learner.state_dict())
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["iterations", "meta_batch", "val_every", "checkpoint_every"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        meta_train(_learner(), _tasks(), **SIZES | {name: 0})


def test_what_has_no_weights_is_not_trained():
    with pytest.raises(ValueError, match="NearestNeighbour has nothing to train; hand it to evaluate as it is"):
        meta_train(NearestNeighbour(), sinusoid(), iterations=1)


def test_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="metabatch"):
        meta_train(_learner(), _tasks(), iterations=1, metabatch=4)


def test_the_bar_shows_loss_and_score(capsys):
    history = meta_train(_learner(), _tasks(), **SIZES | {"progress": True, "iterations": 10})
    errors = capsys.readouterr().err
    assert f"loss={history.loss[-1]:.4f}, accuracy={history.score[-1]:.3f}" in errors
    assert "10/10" in errors
    meta_train(_learner(), _tasks(), **SIZES)
    assert capsys.readouterr().err == ""


def test_callbacks_are_told_of_every_iteration():
    class Listener:
        def __init__(self):
            self.moments, self.closed = [], 0

        def __call__(self, moment):
            assert not self.closed
            self.moments.append(moment)

        def close(self):
            self.closed += 1

    listener, iterations, learner = Listener(), [], _learner()
    told = [listener, lambda moment: iterations.append(moment.iteration)]
    options = {"val": _tasks(), "val_every": 5, "val_episodes": 4}
    history = meta_train(learner, _tasks(), **SIZES, **options, callbacks=told)
    assert iterations == list(range(1, 13)) and listener.closed == 1
    for moment, loss, score in zip(listener.moments, history.loss, history.score, strict=True):
        assert (moment.iterations, moment.loss, moment.scores) == (12, loss, {"accuracy": score})
        assert moment.learner is learner
    validated = {m.iteration: m.validation.mean for m in listener.moments if m.validation is not None}
    assert validated == dict(zip([5, 10, 12], history.val_mean, strict=True))
    with pytest.raises(FloatingPointError):
        meta_train(_learner(), Nan(_tasks(), 3), **SIZES, callbacks=[again := Listener()])
    assert len(again.moments) == 2 and again.closed == 1


def test_a_log_has_a_line_for_each_iteration_also_after_a_resume(tmp_path):
    log, checkpoint = tmp_path / "logs" / "run.csv", tmp_path / "run.pt"
    options = SIZES | {"val": _tasks(), "val_every": 5, "val_episodes": 4, "checkpoint_every": 3}

    def stop(moment):
        if moment.iteration == 8:
            raise Killed

    with pytest.raises(Killed):
        meta_train(_learner(), _tasks(), **options, checkpoint=checkpoint, callbacks=[CSVLog(log), stop])
    assert len(log.read_text().splitlines()) == 9
    with open(log, "a") as file:
        file.write("9,1.0")  # a line that a crash cut short
    # It goes on from iteration 6 and meets 7 and 8 again.
    history = meta_train(_learner(), _tasks(), **options, checkpoint=checkpoint, callbacks=[CSVLog(log)])
    with open(log, newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["iteration", "loss", "accuracy", "validation", "validation_ci95"]
    assert [int(line["iteration"]) for line in lines] == list(range(1, 13))
    assert [float(line["loss"]) for line in lines] == history.loss
    assert [float(line["accuracy"]) for line in lines] == history.score
    validated = [line for line in lines if line["validation"]]
    assert [int(line["iteration"]) for line in validated] == history.val_iteration
    assert [float(line["validation"]) for line in validated] == history.val_mean
    assert [float(line["validation_ci95"]) for line in validated] == history.val_ci95
    meta_train(_learner(), _tasks(), **SIZES | {"iterations": 2}, callbacks=[CSVLog(log)])
    assert len(log.read_text().splitlines()) == 3  # another run, another log


def test_tensorboard_is_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(LookupError, match=r"pip install 'mlcore\[tensorboard\]'"):
        TensorBoard(tmp_path)


def test_a_run_is_saved_by_the_clock_too(tmp_path, monkeypatch):
    """Of a clock that goes on by ten seconds an iteration."""
    clock, path, alone, saved = iter(range(0, 1000, 10)), tmp_path / "run.pt", _learner(), []
    monkeypatch.setattr(mlcore.training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))

    def look(moment):
        saved.append(_contents(path)["iteration"] if path.exists() else 0)

    learner = _learner()
    often = {"checkpoint": path, "checkpoint_every": 1000, "checkpoint_seconds": 25}
    history = meta_train(learner, _tasks(), **SIZES | {"iterations": 11}, **often, callbacks=[look])
    assert saved == [0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 11]
    assert history.minutes == pytest.approx(11 * 10 / 60)
    meta_train(alone, _tasks(), **SIZES | {"iterations": 11})
    _assert_same(learner.state_dict(), alone.state_dict())


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_the_global_stream_is_that_of_torch_manual_seed(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        theirs = torch.rand(3), torch.randn(3)
        torch.rand(5)
        seed_global_stream(seed)
        assert all(map(torch.equal, (torch.rand(3), torch.randn(3)), theirs))


if __name__ == "__main__":  # the process that test_a_killed_run_resumes_to_the_same_bits kills
    torch.set_num_threads(1)
    _long_run(Path(sys.argv[1]), delay=0.1, last=25)
