"""What every learner promises: tasks apart, the batch normalisation policies, running statistics, clear refusals."""

import copy
import io
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev
from torch.utils._pytree import tree_leaves

import mlcore.learners
from mlcore import (
    AM3,
    ANIL,
    ANML,
    BOIL,
    CAVIA,
    CNP,
    IMAML,
    MAML,
    MANN,
    OML,
    SNAIL,
    Alpaca,
    AttentiveCNP,
    Baseline,
    ByLikelihood,
    ByStatistic,
    ColourBlobs,
    CutByColour,
    DeltaEncoder,
    EnsembleMAML,
    Examples,
    FiLM,
    FineTune,
    GaussianProcess,
    InContext,
    LearnedOptimizer,
    Learner,
    LinearAttention,
    LSTMLearner,
    MAMLPlusPlus,
    MatchedFilter,
    MatchingNet,
    MetaCurvature,
    MetaSGD,
    MetaTransfer,
    ModifiedHausdorff,
    MovedCopies,
    NearestNeighbour,
    NeuralProcess,
    NeuralStatistician,
    NoisyRidge,
    PixelCounts,
    PixelPrototypes,
    PriorFitted,
    ProtoMAML,
    ProtoNet,
    RelationNet,
    Reptile,
    Ridge,
    SetDiffusion,
    Siamese,
    SiameseUNet,
    SimpleShot,
    SoftKMeans,
    Tadam,
    Task,
    TransformerNP,
    Versa,
    WordPrior,
    classification,
    mlp,
    regression,
    rows,
    seeded,
)
from mlcore.densities import density
from mlcore.learners.metric import MetricLearner
from mlcore.mapping import map_tasks
from mlcore.nets import BatchNorm
from mlcore.objective import accuracy, accuracy_by_class, cross_entropy, mse
from mlcore.profiling import peak_memory

MAPPINGS = ["loop", "vmap", 2, 3, "auto"]
POLICIES = ["transductive", "episode", "support", "running", "one_query"]
WAYS, INNER_LR = 3, 0.3


@cache
def _net() -> nn.Module:
    """A small float64 network with two batch norms, one over images and one over rows, none at its defaults."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 3, 3), BatchNorm(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4), BatchNorm(4), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(4, WAYS)).double()
    for norm in (net[1], net[5]):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.3)
        nn.init.normal_(norm.running_mean, std=0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return net


def _batch(tasks: int = 5) -> Task:
    x = torch.randn(tasks, 13, 1, 5, 5, dtype=torch.float64, generator=seeded(1))
    # The mean differs between tasks and between support and query, so that whose statistics are used matters.
    x = x + torch.arange(tasks).view(-1, 1, 1, 1, 1) + (torch.arange(13) >= 6).view(1, -1, 1, 1, 1)
    y = rows(torch.arange(13).remainder(WAYS)).expand(tasks, -1, -1)
    return Task(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


def _singly(batch: Task) -> Iterator[Task]:
    """The tasks of a batch, each without the tasks dimension."""
    for i in range(batch.count):
        yield batch.each(lambda tensor, i=i: tensor[i])


def _with_query_x(batch: Task, x: Tensor) -> Task:
    return batch._replace(query=batch.query._replace(x=x))


def _learner(mapping="vmap", **options) -> MAML:
    return MAML(_net(), inner_lr=INNER_LR, mapping=mapping, **options)


def _by_hand(params: dict[str, Tensor], x: Tensor, statistics) -> Tensor:
    """The network of ``_net`` in plain formulas; ``statistics(layer, h)`` gives each norm's mean and variance."""

    def norm(h: Tensor, i: int) -> Tensor:
        mean, var = statistics(i, h)
        shape = (1, -1, 1, 1)[: h.dim()]
        h = (h - mean.view(shape)) / (var + 1e-5).sqrt().view(shape)
        return h * params[f"{i}.weight"].view(shape) + params[f"{i}.bias"].view(shape)

    h = norm(F.conv2d(x, params["0.weight"], params["0.bias"]), 1).relu().flatten(1)
    h = norm(F.linear(h, params["4.weight"], params["4.bias"]), 5).relu()
    return F.linear(h, params["7.weight"], params["7.bias"])


def _of_rows(rows: int | None = None):
    """Statistics of the first rows (of all, by default) of whatever reaches the layer."""

    def statistics(_: int, h: Tensor) -> tuple[Tensor, Tensor]:
        axes = (0, 2, 3)[: h.dim() - 1]
        return h[:rows].mean(axes), h[:rows].var(axes, correction=0)

    return statistics


def _running(i: int, _: Tensor) -> tuple[Tensor, Tensor]:
    return _net()[i].running_mean, _net()[i].running_var


def _fast_weights(support: Examples, statistics) -> dict[str, Tensor]:
    params = dict(_net().named_parameters())
    loss = F.cross_entropy(_by_hand(params, support.x, statistics), support.y.double())
    gradients = torch.autograd.grad(loss, list(params.values()))
    return {name: p - INNER_LR * g for (name, p), g in zip(params.items(), gradients, strict=True)}


def _expected(policy: str, task: Task) -> Tensor:
    """One task's outputs under a policy, computed from its definition."""
    support_x, query_x, n_support = task.support.x, task.query.x, len(task.support.x)
    if policy == "running":
        return _by_hand(_fast_weights(task.support, _running), query_x, _running)
    fast = _fast_weights(task.support, _of_rows())
    if policy == "transductive":
        return _by_hand(fast, query_x, _of_rows())
    if policy == "episode":
        return _by_hand(fast, torch.cat([support_x, query_x]), _of_rows())[n_support:]
    if policy == "support":
        return _by_hand(fast, torch.cat([support_x, query_x]), _of_rows(n_support))[n_support:]
    return torch.cat([_by_hand(fast, torch.cat([support_x, x[None]]), _of_rows())[n_support:] for x in query_x])


@pytest.mark.parametrize("large", [0, 2**15], ids=["kernel", "arithmetic"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_what_their_definitions_say(policy, mapping, training, large, monkeypatch):
    monkeypatch.setattr("mlcore.nets.norms._LARGE", large)
    batch = _batch()
    outputs = _learner(mapping).train(training)(batch, batch_norm=policy)
    expected = torch.stack([_expected(policy, task) for task in _singly(batch)])
    torch.testing.assert_close(outputs, expected, rtol=1e-10, atol=1e-10)


def test_policies_differ():
    batch = _batch()
    outputs = [_learner()(batch, batch_norm=policy) for policy in POLICIES]
    for i, a in enumerate(outputs):
        for b in outputs[:i]:
            assert (a - b).abs().max() > 1e-2


def test_transductive_is_the_default():
    batch = _batch()
    assert torch.equal(_learner()(batch), _learner()(batch, batch_norm="transductive"))


@pytest.mark.parametrize("policy", ["support", "running", "one_query"])
def test_a_query_sees_no_other_query_unless_they_are_normalised_together(policy):
    batch = _batch()
    other = _with_query_x(batch, torch.cat([batch.query.x[:, :1], 5 * batch.query.x[:, 1:]], dim=1))
    first, changed = (_learner()(b, batch_norm=policy)[:, 0] for b in (batch, other))
    torch.testing.assert_close(first, changed, rtol=1e-10, atol=1e-10)
    for together in ("transductive", "episode"):
        before, seen = (_learner()(b, batch_norm=together)[:, 0] for b in (batch, other))
        assert (before - seen).abs().max() > 1e-2


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_permuting_tasks_permutes_outputs(policy, mapping):
    learner, batch, order = _learner(mapping), _batch(), torch.tensor([3, 0, 4, 1, 2])
    outputs = learner(batch, batch_norm=policy)
    permuted = learner(batch.each(lambda tensor: tensor[order]), batch_norm=policy)
    torch.testing.assert_close(permuted, outputs[order], rtol=1e-10, atol=1e-10)
    assert not torch.allclose(permuted, outputs)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_running_statistics_follow_the_mean_over_tasks(mapping):
    learner, batch = _learner(mapping), _batch()
    before = {i: (_net()[i].running_mean.clone(), _net()[i].running_var.clone()) for i in (1, 5)}
    seen: dict[int, list] = {1: [], 5: []}

    def recording(i: int, h: Tensor) -> tuple[Tensor, Tensor]:
        axes = (0, 2, 3)[: h.dim() - 1]
        seen[i].append((h.mean(axes), h.var(axes)))  # unbiased, as torch keeps it
        return _of_rows()(i, h)

    for task in _singly(batch):
        _by_hand(_fast_weights(task.support, _of_rows()), task.query.x, recording)
    learner.meta_backward(batch, classification)
    for i, (mean, var) in before.items():
        means, variances = (torch.stack(part).mean(0) for part in zip(*seen[i], strict=True))
        torch.testing.assert_close(learner.net[i].running_mean, 0.9 * mean + 0.1 * means, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(learner.net[i].running_var, 0.9 * var + 0.1 * variances, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_running_statistics_stay_otherwise(policy, training, mapping):
    learner = _learner(mapping).train(training)
    before = copy.deepcopy(learner.state_dict())
    learner(_batch(), batch_norm=policy)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_dropout_differs_between_tasks(mapping):
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(40, 2))
    learner, x, y = MAML(net, inner_lr=0.1, inner_steps=0, mapping=mapping), torch.ones(4, 2, 40), torch.eye(2)
    batch = Task(Examples(x, y.expand(4, 2, 2)), Examples(x, y.expand(4, 2, 2)))
    torch.manual_seed(0)
    assert len(learner(batch).flatten(0, 1).unique(dim=0)) == 8
    assert len(learner.eval()(batch).flatten(0, 1).unique(dim=0)) == 1


def test_the_network_given_is_left_alone():
    net = copy.deepcopy(_net())
    before = copy.deepcopy(net.state_dict())
    learner = MAML(net, inner_lr=INNER_LR)
    learner.meta_backward(_batch(), classification)
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not torch.equal(learner.net[1].running_mean, net[1].running_mean)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_meta_backward_accumulates_the_gradient_of_the_loss(mapping):
    learner, batch = _learner(mapping), _batch()
    outputs, losses, scores = learner.meta_backward(batch, classification)
    learner.meta_backward(batch, classification)
    assert not losses.requires_grad and not outputs.requires_grad
    for found, expected in zip((outputs, losses, scores), learner.judged(batch, classification), strict=True):
        torch.testing.assert_close(found, expected)
    y = batch.query.y.double()
    torch.testing.assert_close(losses.mean(), F.cross_entropy(outputs.flatten(0, 1), y.flatten(0, 1)))
    torch.testing.assert_close(scores["accuracy"], (outputs.argmax(-1) == y.argmax(-1)).float().mean(1))
    gradients = torch.autograd.grad(learner.meta_loss(batch, classification), list(learner.parameters()))
    for p, gradient in zip(learner.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, 2 * gradient)


def test_meta_backward_holds_one_chunk_of_tasks():
    def peak(mapping, tasks: int) -> int:
        learner, batch = _learner(mapping), _batch(tasks)
        learner.meta_backward(batch, classification)  # what is made once and kept is not counted
        return peak_memory(lambda: learner.meta_backward(batch, classification))

    assert peak(2, 16) < 1.2 * peak(2, 2) < 0.3 * peak("vmap", 16)


class NearestMean(Learner):
    """A learner in a few lines: class means of embeddings."""

    def __init__(self, net, **settings):
        super().__init__(**settings)
        self.net = net

    def update(self, state, data):
        return data.y.mT @ self.net(data.x) / data.y.sum(0)[:, None]

    def predict(self, state, x):
        return -torch.cdist(self.net(x), state)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_new_method_is_update_and_predict(mapping):
    x, eye = torch.randn(5, 8, 2, generator=seeded(0)), torch.eye(2)
    batch = Task(Examples(x[:, :4], eye[[0, 1, 1, 0]].expand(5, -1, -1)), Examples(x[:, 4:], eye[:1].expand(5, 4, -1)))
    learner = NearestMean(mlp(2, 3), mapping=mapping)
    outputs = learner(batch)
    for task, found in zip(_singly(batch), outputs, strict=True):
        z = learner.net(task.support.x)
        means = torch.stack([(z[0] + z[3]) / 2, (z[1] + z[2]) / 2])
        distances = (learner.net(task.query.x)[:, None] - means).norm(dim=-1)
        torch.testing.assert_close(found, -distances)
    # No query is of class 1, yet there are two ways.
    torch.testing.assert_close(learner.meta_loss(batch, classification), -outputs.log_softmax(-1)[..., 0].mean())


def test_a_method_must_be_written():
    learner = Learner()
    with pytest.raises(NotImplementedError, match=r"Learner must define update\(state, data\)"):
        learner.adapt(Examples(torch.ones(1, 2)))
    with pytest.raises(NotImplementedError, match=r"Learner must define predict\(state, x\)"):
        learner.predict(None, None)


@pytest.mark.parametrize("mapping", ["vmpa", 0, -1, 2.5, None])
def test_bad_mapping_is_refused(mapping):
    with pytest.raises(
        ValueError, match=f"mapping must be 'auto', 'vmap', 'loop' or a number of tasks, not {mapping!r}"
    ):
        MAML(mlp(1, 1), inner_lr=0.1, mapping=mapping)


@pytest.mark.parametrize(
    ("net", "images", "chunk"),
    [
        (nn.Conv2d(1, 64, 3, stride=2), 1, 16),  # small tasks: no more than this many
        (nn.Conv2d(1, 64, 3, stride=2), 19, 16),
        (nn.Conv2d(1, 64, 3), 4, 16),
        (nn.Conv2d(1, 64, 3), 5, None),  # half a million numbers in a task's first layer: one after another
        (nn.Identity(), 200, 40),  # no convolution: all
    ],
)
def test_auto_bounds_what_a_convolution_meets_at_once(net, images, chunk, monkeypatch):
    class Untouched(NearestMean):
        def update(self, state, data):
            return data.x.mean((0, 1, 2, 3))

        def predict(self, state, x):
            return x[:, 0, 0, :2] + state

    chunks, vmap = [], torch.vmap
    monkeypatch.setattr(torch, "vmap", lambda *args, chunk_size, **kw: chunks.append(chunk_size) or vmap(*args, **kw))
    examples = Examples(torch.zeros(1).expand(40, images, 1, 28, 28), torch.zeros(1).expand(40, images, 2))
    Untouched(net)(Task(examples, examples))
    assert chunks == [chunk] * (chunk is not None)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_loop_keeps_images_in_one_order(channels):
    """What two convolutions put out lies channels last, which torch decides by their input's strides."""
    x = torch.randn(2, 4, channels, 6, 6, requires_grad=True)
    seen = []

    def one(images: Tensor) -> Tensor:
        seen.append(nn.Conv2d(channels, 8, 3)(images))
        return images

    (same,) = map_tasks(lambda images: (one(images),), (x,), 1)
    torch.testing.assert_close(same, x)
    assert torch.autograd.grad(same.sum(), x)[0].eq(1).all()
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)


def test_a_loop_stays_right_when_learners_are_mapped():
    """Within someone else's ``vmap``, torch's own second derivative of a batch normalisation would be wrong."""
    torch.manual_seed(0)
    learners = [MAML(_net(), inner_lr=INNER_LR, inner_steps=2, mapping="loop").eval() for _ in range(3)]
    batch = _batch()

    def loss(params: dict[str, Tensor]) -> Tensor:
        outputs = functional_call(learners[0], params, (batch,))
        return F.cross_entropy(outputs.flatten(0, 1), batch.query.y.flatten(0, 1).double())

    each = [dict(learner.named_parameters()) for learner in learners]
    found = torch.vmap(grad(loss))({name: torch.stack([p[name].detach() for p in each]) for name in each[0]})
    for i, params in enumerate(each):
        expected = torch.autograd.grad(loss(params), list(params.values()))
        for name, gradient in zip(params, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient)
    mapped_backward = jacrev(lambda params: torch.stack([loss(params), 2 * loss(params)]))(each[0])
    for i, gradient in enumerate(mapped_backward.values()):
        torch.testing.assert_close(gradient[1], 2 * torch.autograd.grad(loss(each[0]), list(each[0].values()))[i])


@pytest.mark.slow
@pytest.mark.parametrize("mapping", MAPPINGS)
def test_without_a_second_derivative_to_come_memory_holds_one_step(mapping):
    def peak(steps: int, **options) -> int:
        learner, batch = _learner(mapping, inner_steps=steps, **options), _batch(8)
        learner.meta_backward(batch, classification)  # what is made once and kept is not counted
        return peak_memory(lambda: learner.meta_backward(batch, classification))

    assert peak(6, first_order=True) < 1.1 * peak(2, first_order=True)
    assert peak(6) > 1.5 * peak(2)


@pytest.mark.parametrize("mapping", MAPPINGS)
@torch.no_grad()
def test_adapting_in_use_holds_one_step(mapping):
    def peak(steps: int) -> int:
        learner, batch = _learner(mapping, inner_steps=steps).eval(), _batch(8)
        learner(batch)
        return peak_memory(lambda: learner(batch))

    assert peak(6) < 1.1 * peak(2)


def test_unknown_policy_is_refused():
    with pytest.raises(
        ValueError, match="one of transductive, episode, support, running, one_query, not 'tranductive'"
    ):
        _learner()(_batch(), batch_norm="tranductive")


Y = rows(torch.arange(6).remainder(3)).expand(2, -1, -1)


def _rows(**changes: Any) -> Task:
    """Two tasks of rows for ``mlp(4, 3)``, with some parts changed."""
    x = torch.randn(2, 6, 4)
    part = {"support_x": x, "support_y": Y, "query_x": x, "query_y": Y} | changes
    return Task(Examples(part["support_x"], part["support_y"]), Examples(part["query_x"], part["query_y"]))


BAD_TASKS = {
    "a single task": (
        Task(*[Examples(torch.randn(6, 4), Y[0])] * 2),
        ValueError,
        r"support.x has shape \[6, 4\], but must be \[tasks, examples, \.\.\.\].*x\[None\]",
    ),
    "a single regression": (
        Task(*[Examples(torch.randn(6, 1), torch.randn(6, 1))] * 2),
        ValueError,
        r"support.x has shape \[6, 1\], but must be \[tasks, examples, \.\.\.\].*x\[None\]",
    ),
    "other numbers of tasks": (
        _rows(query_x=torch.randn(3, 6, 4)),
        ValueError,
        r"task.query.x has shape \[3, 6, 4\], but must be \[2 tasks",
    ),
    "not a task": (torch.randn(2, 6, 4), TypeError, "a learner is called on a Task, .*, not Tensor"),
    "another precision": (_rows(query_x=torch.randn(2, 6, 4).half()), TypeError, r"are torch.float16 .*x\.to\("),
    "not a tensor": (_rows(query_y=Y.numpy()), TypeError, "task.query.y must be a tensor, not ndarray"),
    "nothing": (Task((), ()), ValueError, "the task holds no tensors"),
    "fewer targets": (_rows(support_y=Y[:, :5]), ValueError, "support.x has 6 examples a task but support.y has 5"),
    "labels": (_rows(query_y=Y.argmax(-1)), TypeError, r"query.y holds labels .*rows\(labels, ways\)"),
    "narrow labels": (
        _rows(support_y=Y.argmax(-1).int()),
        TypeError,
        r"must be one-hot .*not torch.int32.*rows\(labels",
    ),
    "rows of integers": (_rows(query_y=Y.long()), TypeError, "must be one-hot rows of floats.*not torch.int64"),
    "float labels": (
        _rows(support_y=Y.argmax(-1).float()),
        ValueError,
        r"gives outputs \[6, 3\] but the task needs \[6\]; build the network with outputs equal to the ways",
    ),
    "more ways": (
        _rows(support_y=torch.eye(6).expand(2, -1, -1)),
        ValueError,
        r"gives outputs \[6, 3\] but the task needs \[6, 6\]; build the network with outputs equal to the ways",
    ),
    "more ways among queries": (
        _rows(query_y=F.pad(Y, (0, 1))),
        ValueError,
        r"gives outputs \[6, 3\] but the task needs \[6, 4\]",
    ),
}


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize(("batch", "error", "message"), BAD_TASKS.values(), ids=BAD_TASKS)
def test_bad_tasks_are_refused(batch, error, message, mapping):
    learner = MAML(mlp(4, 3), inner_lr=0.1, mapping=mapping)
    assert learner.meta_loss(_rows(), classification).isfinite()
    with pytest.raises(error, match=message):
        learner.meta_loss(batch, classification)


@pytest.mark.parametrize(
    ("shape", "fix"),
    [
        ((5, 5), r"add a channel: x.unsqueeze\(-3\)"),
        ((5, 5, 3), "channels first"),
        ((2, 5, 5), "network's in_channels"),
    ],
)
@pytest.mark.parametrize("method", [ProtoNet, partial(MAML, inner_lr=0.1)])
def test_images_that_do_not_fit_are_refused(method, shape, fix):
    learner = method(nn.Sequential(nn.Conv2d(3, 2, 5), nn.Flatten()))
    examples = Examples(torch.randn(1, 2, *shape), torch.eye(2)[None])
    with pytest.raises(
        ValueError, match=rf"an example has shape .*needs images \[3 channels, height, width\]; .*{fix}"
    ):
        learner(Task(examples, examples))


@pytest.mark.parametrize("method", [ProtoNet, partial(MAML, inner_lr=0.1)])
def test_a_network_may_change_its_input_first(method):
    class Bytes(nn.Module):
        def forward(self, x):
            return x.float().div(255).view(-1, 1, 5, 5)

    learner = method(nn.Sequential(Bytes(), nn.Conv2d(1, 2, 5), nn.Flatten()))
    examples = Examples(torch.randint(256, (1, 2, 25), dtype=torch.uint8), torch.eye(2)[None])
    assert learner(Task(examples, examples)).isfinite().all()


def test_targets_of_another_width_are_refused():
    learner = MAML(mlp(4, 3), inner_lr=0.1, loss_fn=mse)
    for width in (1, 2):
        target = torch.randn(2, 6, width)
        with pytest.raises(ValueError, match=rf"gives outputs \[6, 3\] but the targets are \[6, {width}\]"):
            learner.meta_loss(_rows(support_y=target, query_y=target), regression)


def test_fast_weights_are_ordinary_tensors():
    """What ``adapt`` returns can be used on its own, as a chapter does."""
    learner, batch = _learner("loop"), _batch()
    task = next(_singly(batch))
    outputs = functional_call(learner.net, learner.adapt(task.support), (task.query.x,))
    torch.testing.assert_close(outputs, learner(batch)[0], rtol=1e-10, atol=1e-10)


# All learners, of one size: whatever a class is, these hold.


class _Kind(NamedTuple):
    build: Any  # settings -> the learner
    by_class: bool = False  # a class has no number outside its task: relabelled targets, relabelled outputs
    maps: bool = True  # can be mapped otherwise than its constructor says
    trains: bool = True
    regresses: bool = False
    density: bool = False  # predicts distributions
    outputs: int = 2  # size of a target, where it regresses


def _convs(outputs: int | None = WAYS, channels: int = 1) -> nn.Sequential:
    layers = [nn.Conv2d(channels, 2, 3, bias=False), BatchNorm(2), nn.Softplus(), nn.Flatten()]
    return nn.Sequential(*layers, *([] if outputs is None else [nn.Linear(32, outputs)]))


def _statistician() -> NeuralStatistician:
    """Of bitmaps of 6 × 6 pixels."""
    decoder = nn.Sequential(nn.Linear(5, 36), nn.Unflatten(1, (1, 6, 6)))
    return NeuralStatistician(_convs(5), decoder, features=5, statistic=3, latent=2, width=6)


def _regressor(inputs: int = 2) -> nn.Module:
    return mlp(inputs, 5, 2, activation=nn.Tanh)


_SIZES = {"ways": WAYS, "features": 5}
_STEPS = {"inner_lr": 0.3, "inner_steps": 2}
LEARNERS = {
    "MAML": _Kind(lambda **s: MAML(_convs(), **_STEPS, **s)),
    "MAML, regression": _Kind(lambda **s: MAML(_regressor(), **_STEPS, loss_fn=mse, **s), regresses=True),
    "ANIL": _Kind(lambda **s: ANIL(_convs(), **_STEPS, **s)),
    "ANIL, tied head": _Kind(lambda **s: ANIL(_convs(), **_STEPS, tied_head=True, **s), by_class=True),
    "ANIL, regression": _Kind(lambda **s: ANIL(_regressor(), **_STEPS, loss_fn=mse, **s), regresses=True),
    "BOIL": _Kind(lambda **s: BOIL(_convs(), **_STEPS, **s)),
    "CAVIA": _Kind(lambda **s: CAVIA(_convs(channels=3), context=2, **_STEPS, **s)),
    "CAVIA, regression": _Kind(lambda **s: CAVIA(_regressor(3), context=1, **_STEPS, loss_fn=mse, **s), regresses=True),
    "Meta-SGD": _Kind(lambda **s: MetaSGD(_convs(), **_STEPS, **s)),
    "Meta-Curvature": _Kind(lambda **s: MetaCurvature(_convs(), **_STEPS, **s)),
    "MAML++": _Kind(lambda **s: MAMLPlusPlus(_convs(), **_STEPS, multi_step_until=10, **s)),
    "Proto-MAML": _Kind(lambda **s: ProtoMAML(_convs(5), **_STEPS, **s), by_class=True),
    "iMAML": _Kind(lambda **s: IMAML(_convs(), **_STEPS, **s)),
    "iMAML, regression": _Kind(lambda **s: IMAML(_regressor(), **_STEPS, loss_fn=mse, **s), regresses=True),
    "Reptile": _Kind(lambda **s: Reptile(_convs(), **_STEPS, keep_moments=True, **s)),
    "Reptile, regression": _Kind(
        lambda **s: Reptile(_regressor(), **_STEPS, inner_optimizer="sgd", loss_fn=mse, **s), regresses=True
    ),
    "fine-tuning": _Kind(lambda: FineTune(_convs(5), **_SIZES), by_class=True, maps=False, trains=False),
    "meta-transfer": _Kind(lambda **s: MetaTransfer(_convs(5), **_SIZES, **_STEPS, **s), by_class=True),
    "baseline": _Kind(lambda **s: Baseline(_convs(5), classes=4, features=5, steps=3, **s), by_class=True),
    "baseline++": _Kind(
        lambda **s: Baseline(_convs(5), classes=4, features=5, cosine=True, steps=3, **s), by_class=True
    ),
    "matching": _Kind(lambda **s: MatchingNet(_convs(5), **s), by_class=True),
    "matching, query's length": _Kind(lambda **s: MatchingNet(_convs(5), query_length=True, **s), by_class=True),
    "matching, full context": _Kind(
        lambda **s: MatchingNet(_convs(5), full_context=True, features=5, reads=2, **s), by_class=True
    ),
    "siamese": _Kind(lambda **s: Siamese(_convs(5), features=5, **s), by_class=True),
    "protonet": _Kind(lambda **s: ProtoNet(_convs(5), **s), by_class=True),
    "protonet, scaled": _Kind(lambda **s: ProtoNet(_convs(5), distance="scaled", **s), by_class=True),
    "soft k-means": _Kind(lambda **s: SoftKMeans(_convs(5), **s), by_class=True),
    "protonet, cosine": _Kind(lambda **s: ProtoNet(_convs(5), distance="cosine", **s), by_class=True),
    "relation": _Kind(lambda: RelationNet(_convs()[:3], filters=2, map_size=4), by_class=True, maps=False),
    "ridge": _Kind(lambda **s: Ridge(_convs(5), **s), by_class=True),
    "noisy ridge": _Kind(lambda **s: NoisyRidge(_convs(5), covariance=torch.eye(5) + 0.1, **s), by_class=True),
    "FiLM": _Kind(lambda **s: FiLM(_convs(5), block="1", features=5, width=6, **s), by_class=True),
    "TADAM": _Kind(lambda **s: Tadam(_convs(5), block="1", features=5, width=6, **s), by_class=True),
    # Its loss draws heads anew.
    "VERSA": _Kind(lambda **s: Versa(_convs(5), features=5, width=6, **s), by_class=True, maps=False),
    "simpleshot": _Kind(lambda: SimpleShot(_convs(5), mean=torch.full((5,), 0.1)), by_class=True, maps=False),
    "nearest neighbour": _Kind(lambda: NearestNeighbour(), by_class=True, maps=False, trains=False),
    "modified Hausdorff": _Kind(lambda: ModifiedHausdorff(), by_class=True, maps=False, trains=False),
    "CNP": _Kind(lambda **s: CNP(2, 2, width=6, **s), regresses=True, density=True),
    "attentive CNP": _Kind(lambda **s: AttentiveCNP(2, 2, width=6, heads=2, **s), regresses=True, density=True),
    "transformer NP": _Kind(
        lambda **s: TransformerNP(2, 2, width=6, heads=2, layers=2, **s), regresses=True, density=True
    ),
    # Its loss draws latents anew, so two ways to map are two draws.
    "neural process": _Kind(
        lambda **s: NeuralProcess(2, width=6, latent=3, samples=4, **s),
        maps=False,
        regresses=True,
        density=True,
        outputs=1,
    ),
    "ALPaCA": _Kind(
        lambda **s: Alpaca(mlp(2, 5, activation=nn.Tanh), features=5, outputs=2, **s), regresses=True, density=True
    ),
    "ensemble of MAMLs": _Kind(
        lambda **s: EnsembleMAML(_regressor, members=2, **_STEPS, **s), regresses=True, density=True
    ),
    "prior-fitted": _Kind(lambda **s: PriorFitted(WAYS, width=8, heads=2, layers=2, hidden=6, **s)),
    "learned optimiser": _Kind(lambda **s: LearnedOptimizer(_convs(), **_STEPS, unroll=1, hidden=(4,), **s)),
    "linear attention": _Kind(lambda **s: LinearAttention(2, 2, layers=2, **s), regresses=True),
    "SNAIL": _Kind(lambda: SNAIL(_convs(5), **_SIZES, length=7, filters=8), maps=False),
    "LSTM": _Kind(lambda **s: LSTMLearner(_convs(5), **_SIZES, hidden=6, **s)),
    "MANN": _Kind(lambda **s: MANN(_convs(5), **_SIZES, hidden=6, slots=5, width=4, heads=2, **s)),
    "OML": _Kind(lambda **s: OML(_convs(5), inner_lr=0.1, portion=2, **s)),
    "ANML": _Kind(lambda **s: ANML(_convs(5), _convs(5), inner_lr=0.1, **s)),
    "by statistic": _Kind(lambda: ByStatistic(_statistician()), by_class=True, maps=False, trains=False),
    "by likelihood": _Kind(lambda: ByLikelihood(PixelCounts((1, 6, 6))), by_class=True, maps=False, trains=False),
    "in context": _Kind(lambda **s: InContext(2, 2, width=8, heads=2, layers=2, **s), regresses=True),
}
every_learner = pytest.mark.parametrize("kind", LEARNERS)


def _made(kind: str, seed: int = 0, **settings: Any) -> Learner:
    """A learner in double precision, some of whose parameters and averages have left their start."""
    torch.manual_seed(seed)
    learner = LEARNERS[kind].build(**settings).double()
    for norm in (module for module in learner.modules() if isinstance(module, BatchNorm)):
        nn.init.normal_(norm.running_mean, std=0.3)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
        nn.init.uniform_(norm.bias, 0.5, 1.5)  # above 0, so that no ReLU is dead
    return learner


def _drawn(kind: str, tasks: int = 3, *, queries: int = 7, training: bool = False) -> Task:
    """Bitmaps of three classes, two shots each, in no order of classes; or pairs of numbers to fit."""
    generator = seeded(5)
    if LEARNERS[kind].regresses:
        x = torch.randn(tasks, 6 + queries, 2, dtype=torch.float64, generator=generator)
        y = (3 * x[..., : LEARNERS[kind].outputs]).sin() * torch.linspace(0.5, 1.5, tasks).view(-1, 1, 1)
    else:
        x = torch.rand(tasks, 6 + queries, 1, 6, 6, dtype=torch.float64, generator=generator).gt(0.6).double()
        y = rows(torch.tensor([0, 2, 1, 1, 0, 2, *[i % WAYS for i in range(queries)]]), WAYS).expand(tasks, -1, -1)
    if training and "baseline" in kind:  # which learns from minibatches
        return Task(Examples(x[:, :0], y[:, :0]), Examples(x[:, 6:], y[:, 6:]))
    return Task(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


def _objective(kind: str):
    if LEARNERS[kind].density:
        return density
    return regression if LEARNERS[kind].regresses else classification


def _flat(outputs: Any) -> Tensor:
    """Outputs as one tensor: of a distribution, its parameters side by side."""
    return torch.cat(tree_leaves(outputs), -1)


def _support_in(task: Task, order: list[int]) -> Task:
    return task._replace(support=Examples(*(part[:, order] for part in task.support)))


def test_no_learner_is_left_out():
    built = {type(_made(kind)) for kind in LEARNERS}
    assert built == {value for value in vars(mlcore.learners).values() if isinstance(value, type)} - {
        MetricLearner,
        GaussianProcess,
        # Models of sets, which have no targets: test_generation.py asks the same of them.
        MovedCopies,
        NeuralStatistician,
        PixelCounts,
        SetDiffusion,
        # Learners whose support set comes with a vector for each class: test_words.py asks the same of them.
        AM3,
        WordPrior,
        # A maker of examples, trained on pairs, which have none either: test_helping.py.
        DeltaEncoder,
        # Learners whose answers are masks or boxes: test_finding.py asks the same of them.
        ColourBlobs,
        CutByColour,
        MatchedFilter,
        PixelPrototypes,
        SiameseUNet,
    }


@every_learner
def test_the_order_of_a_support_set_is_read_only_where_the_class_says_so(kind):
    learner, task = _made(kind).eval(), _drawn(kind)
    outputs, permuted = (_flat(learner(t)).detach() for t in (task, _support_in(task, [3, 5, 0, 1, 4, 2])))
    if learner.reads_order and not isinstance(learner, Reptile):  # whose minibatch here is the support set
        assert not torch.allclose(permuted, outputs)
    else:
        torch.testing.assert_close(permuted, outputs, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(outputs[1:], outputs[:-1])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "build",
    [
        lambda: Reptile(_convs(), **_STEPS, batch_size=2),
        lambda: FineTune(_convs(5), **_SIZES, steps=5, batch_size=3),
    ],
    ids=["Reptile", "fine-tuning"],
)
def test_minibatches_depend_on_the_order_within_a_class_alone(build, training):
    torch.manual_seed(0)
    learner, task = build().double().train(training), _drawn("MAML")  # classes 0, 2, 1, 1, 0, 2
    outputs = learner(task)
    assert learner.reads_order
    for order in ([0, 4, 2, 3, 1, 5], [1, 0, 2, 5, 3, 4]):  # blocked; interleaved
        torch.testing.assert_close(learner(_support_in(task, order)), outputs, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(learner(_support_in(task, [4, 1, 2, 3, 0, 5])), outputs)


@pytest.mark.parametrize("kind", [kind for kind in LEARNERS if LEARNERS[kind].by_class])
def test_relabelled_classes_relabel_the_outputs(kind):
    learner, task, order = _made(kind).eval(), _drawn(kind), [2, 0, 1]
    relabelled = Task(*(half._replace(y=half.y[..., order]) for half in task))
    found, expected = (learner.judged(t, classification) for t in (relabelled, task))
    digits = 1e-9 if found.outputs.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(found.outputs, expected.outputs[..., order], rtol=digits, atol=digits)
    torch.testing.assert_close(found.losses, expected.losses, rtol=digits, atol=digits)


@pytest.mark.parametrize("kind", [kind for kind in LEARNERS if LEARNERS[kind].maps])
def test_a_loop_chunks_and_all_at_once_are_one_computation(kind):
    task, results = _drawn(kind, training=True), []
    for mapping in ("loop", 2, "vmap"):
        learner = _made(kind, mapping=mapping)
        judged = learner.meta_backward(task, _objective(kind))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters()]
        assert any(gradient.any() for gradient in gradients)
        results.append((judged, gradients, learner.state_dict(), _flat(learner.eval()(_drawn(kind))).detach()))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-8, atol=1e-10)


@every_learner
def test_what_is_saved_is_all_there_is(kind):
    learner, other, task = _made(kind), _made(kind, seed=1), _drawn(kind)
    if LEARNERS[kind].trains:
        for _ in range(2):
            learner.meta_backward(_drawn(kind, training=True), _objective(kind))
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    for training in (False, True) if "baseline" not in kind else (False,):
        assert torch.equal(*(_flat(each.train(training)(task)) for each in (learner, other)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_learner
def test_outputs_have_the_precision_of_the_weights(kind, dtype):
    learner, task = _made(kind).to(dtype).eval(), _drawn(kind).each(lambda tensor: tensor.to(dtype))
    judged = learner.judged(task, _objective(kind))
    outputs = _flat(judged.outputs)
    assert outputs.isfinite().all() and judged.losses.isfinite().all()
    if kind != "modified Hausdorff":  # whose points are of its own making
        assert outputs.dtype == judged.losses.dtype == dtype


@pytest.mark.parametrize("training", [True, False])
@every_learner
def test_one_query_is_enough(kind, training):
    learner, task = _made(kind).train(training and "baseline" not in kind), _drawn(kind, queries=1)
    judged = learner.judged(task, _objective(kind))
    outputs = _flat(judged.outputs)
    assert outputs.shape[:2] == (3, 1) and judged.losses.isfinite().all() and outputs.isfinite().all()


@every_learner
def test_a_class_need_not_be_asked(kind):
    learner, task = _made(kind).eval(), _drawn(kind, queries=2)  # of classes 0 and 1
    judged = learner.judged(task, _objective(kind))
    assert judged.losses.isfinite().all()
    outputs = judged.outputs.mean if LEARNERS[kind].density else judged.outputs
    assert all(part.shape == (3, 2, task.query.y.shape[-1]) for part in tree_leaves(outputs))


# What is good on a task.


def test_accuracies_in_closed_form():
    outputs = torch.tensor([[2.0, 1, 0, 9], [0, 1, 3, 9], [0, 1, torch.nan, 9], [5, 1, 0, 9]])
    y = torch.eye(3)[[0, 1, 2, 0]]  # right, wrong, no number, right; the fourth output is of no class
    assert accuracy(outputs, y) == 0.5
    assert accuracy_by_class(outputs, y).tolist() == [1, 0, 0]
    assert accuracy_by_class(outputs[:2], y[:2])[2].isnan()  # never asked


@pytest.mark.parametrize("loss_fn", [cross_entropy, F.cross_entropy, nn.CrossEntropyLoss()], ids=["ours", "F", "nn"])
@pytest.mark.parametrize("method", [MAML, MAMLPlusPlus, partial(Reptile, inner_steps=1), ANIL])
def test_a_regression_is_not_adapted_by_cross_entropy(method, loss_fn):
    """Of one output, cross-entropy is 0: nothing would be learned from the support set."""
    learner = method(mlp(4, 3, 1), inner_lr=0.1, loss_fn=loss_fn)
    x, y = torch.randn(2, 6, 4), torch.randn(2, 6, 1)
    with pytest.raises(ValueError, match=r"needs two ways or more, not targets \[6, 1\]; .*: loss_fn=mse"):
        learner.meta_loss(Task(Examples(x, y), Examples(x, y)), regression)


@pytest.mark.parametrize("loss_fn", [F.cross_entropy, nn.CrossEntropyLoss()], ids=["F", "nn"])
def test_torchs_cross_entropy_is_ours(loss_fn):
    ours, theirs = (MAML(mlp(4, 3), inner_lr=0.1, loss_fn=f) for f in (cross_entropy, loss_fn))
    theirs.load_state_dict(ours.state_dict())
    task = _rows(support_y=Y[..., :2] + Y[..., 2:] / 2)  # two ways where the network has three outputs
    assert torch.equal(ours(task), theirs(task))
    with pytest.raises(TypeError, match="must be one-hot rows of floats"):
        theirs(_rows(support_y=Y.long()))


def test_outputs_and_targets_must_fit():
    with pytest.raises(ValueError, match=r"gives outputs \[4, 2\] but the task needs \[4, 3\]"):
        cross_entropy(torch.zeros(4, 2), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"gives outputs \[5, 3\] but the task needs \[4, 3\]"):
        cross_entropy(torch.zeros(5, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"gives outputs \[4\] but the targets are \[4, 1\]"):
        mse(torch.zeros(4), torch.zeros(4, 1))
    wider = cross_entropy(torch.tensor([[1.0, 2.0, 50.0]]), torch.eye(2)[:1])  # outputs beyond the ways are left out
    torch.testing.assert_close(wider, F.cross_entropy(torch.tensor([[1.0, 2.0]]), torch.tensor([0])))


def test_bfloat16_is_still_a_method_of_modules():
    learner = MAML(mlp(4, 3), inner_lr=0.1).bfloat16()
    assert {p.dtype for p in learner.parameters()} == {torch.bfloat16} and not learner.low_precision
    assert learner(_rows().each(lambda tensor: tensor.bfloat16())).dtype == torch.bfloat16


# What vmap cannot.


class _Data(nn.Module):
    """A forward pass that depends on the data's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * (2.0 if x.sum().item() > 0 else 1.0)


def test_where_vmap_cannot_auto_loops_and_says_so():
    torch.manual_seed(0)
    learner, loop = (MAML(_Data(), inner_lr=0.1, mapping=mapping) for mapping in ("auto", "loop"))
    loop.load_state_dict(learner.state_dict())
    task = _rows()
    with pytest.warns(UserWarning, match=r"vmap cannot compute this learner \(.*item.*\); tasks are taken one after"):
        outputs = learner(task)
    assert torch.equal(outputs, loop(task)) and learner.mapping == "loop"
    assert torch.equal(learner.meta_backward(task, classification).outputs, outputs)  # said once


@pytest.mark.parametrize("mapping", ["vmap", 2])
def test_where_vmap_cannot_and_is_asked_for_it_is_refused(mapping):
    with pytest.raises(RuntimeError, match=r"vmap cannot compute this learner \(.*item.*\); mapping='loop' can"):
        MAML(_Data(), inner_lr=0.1, mapping=mapping)(_rows())


def test_settings_are_replaced_and_weights_shared():
    learner = MAML(mlp(4, 3), inner_lr=0.1)
    other = learner.replace(test_steps=3)
    assert (learner.test_steps, other.test_steps) == (1, 3) and other.net is learner.net
    with pytest.raises(ValueError, match="MAML has no setting 'tset_steps' to replace"):
        learner.replace(tset_steps=3)


@pytest.mark.parametrize("mapping", ["vmap", "loop"])
def test_averages_go_to_the_layers_that_saw_the_queries(mapping):
    class Detour(nn.Module):
        """Its first normalisation is passed by nobody."""

        def __init__(self) -> None:
            super().__init__()
            self.idle, self.used, self.head = BatchNorm(1), BatchNorm(1), nn.Linear(16, 2)

        def forward(self, x):
            return self.head(self.used(x).flatten(1))

    learner = MAML(Detour(), inner_lr=0.1, mapping=mapping)
    y = rows(torch.tensor([0, 1]))[None]
    learner.meta_backward(Task(*(Examples(5 + torch.rand(1, 2, 1, 4, 4), y) for _ in range(2))), classification)
    assert learner.net.idle.running_mean == 0 and learner.net.idle.running_var == 1
    assert learner.net.used.running_mean > 0.4
