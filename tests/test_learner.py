"""What every learner promises: tasks apart, the batch normalisation policies, running statistics, clear refusals."""

import copy
from functools import cache, partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

from mlcore import MAML, Learner, ProtoNet, Task, mlp, seeded
from mlcore.memory import peak_memory
from mlcore.nets import BatchNorm

MAPPINGS = ["loop", "vmap", 2, 3, "auto"]
POLICIES = ["transductive", "support", "running", "one_query"]
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
    y = torch.arange(13).remainder(WAYS).expand(tasks, -1)
    return Task(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])


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


def _fast_weights(support_x: Tensor, support_y: Tensor, statistics) -> dict[str, Tensor]:
    params = dict(_net().named_parameters())
    loss = F.cross_entropy(_by_hand(params, support_x, statistics), support_y)
    gradients = torch.autograd.grad(loss, list(params.values()))
    return {name: p - INNER_LR * g for (name, p), g in zip(params.items(), gradients, strict=True)}


def _expected(policy: str, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
    """One task's outputs under a policy, computed from its definition."""
    n_support = len(support_x)
    if policy == "running":
        return _by_hand(_fast_weights(support_x, support_y, _running), query_x, _running)
    fast = _fast_weights(support_x, support_y, _of_rows())
    if policy == "transductive":
        return _by_hand(fast, query_x, _of_rows())
    if policy == "support":
        return _by_hand(fast, torch.cat([support_x, query_x]), _of_rows(n_support))[n_support:]
    return torch.cat([_by_hand(fast, torch.cat([support_x, x[None]]), _of_rows())[n_support:] for x in query_x])


@pytest.mark.parametrize("large", [0, 2**15], ids=["kernel", "arithmetic"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_policies_are_what_their_definitions_say(policy, mapping, training, large, monkeypatch):
    monkeypatch.setattr("mlcore.nets._LARGE", large)
    batch = _batch()
    outputs = _learner(mapping).train(training)(batch, batch_norm=policy)
    expected = torch.stack([_expected(policy, *task[:3]) for task in zip(*batch, strict=True)])
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
def test_a_query_sees_no_other_query_unless_transductive(policy):
    batch = _batch()
    other = batch._replace(query_x=torch.cat([batch.query_x[:, :1], 5 * batch.query_x[:, 1:]], dim=1))
    first, changed = (_learner()(b, batch_norm=policy)[:, 0] for b in (batch, other))
    torch.testing.assert_close(first, changed, rtol=1e-10, atol=1e-10)
    transductive, seen = (_learner()(b)[:, 0] for b in (batch, other))
    assert (transductive - seen).abs().max() > 1e-2


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("policy", POLICIES)
def test_permuting_tasks_permutes_outputs(policy, mapping):
    learner, batch, order = _learner(mapping), _batch(), torch.tensor([3, 0, 4, 1, 2])
    outputs = learner(batch, batch_norm=policy)
    permuted = learner(Task(*(part[order] for part in batch)), batch_norm=policy)
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

    for support_x, support_y, query_x, _ in zip(*batch, strict=True):
        _by_hand(_fast_weights(support_x, support_y, _of_rows()), query_x, recording)
    learner.meta_backward(batch)
    for i, (mean, var) in before.items():
        means, variances = (torch.stack(part).mean(0) for part in zip(*seen[i], strict=True))
        torch.testing.assert_close(learner.net[i].running_mean, 0.9 * mean + 0.1 * means, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(learner.net[i].running_var, 0.9 * var + 0.1 * variances, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize(
    ("policy", "training"), [(policy, False) for policy in POLICIES] + [(policy, True) for policy in POLICIES[1:]]
)
def test_running_statistics_stay_otherwise(policy, training, mapping):
    learner = _learner(mapping).train(training)
    before = copy.deepcopy(learner.state_dict())
    learner(_batch(), batch_norm=policy)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_dropout_differs_between_tasks(mapping):
    net = nn.Sequential(nn.Dropout(0.5), nn.Linear(40, 2))
    learner, x, y = MAML(net, inner_lr=0.1, inner_steps=0, mapping=mapping), torch.ones(4, 2, 40), torch.arange(2)
    batch = Task(x, y.expand(4, 2), x, y.expand(4, 2))
    torch.manual_seed(0)
    assert len(learner(batch).flatten(0, 1).unique(dim=0)) == 8
    assert len(learner.eval()(batch).flatten(0, 1).unique(dim=0)) == 1


def test_the_network_given_is_left_alone():
    net = copy.deepcopy(_net())
    before = copy.deepcopy(net.state_dict())
    learner = MAML(net, inner_lr=INNER_LR)
    learner.meta_backward(_batch())
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not torch.equal(learner.net[1].running_mean, net[1].running_mean)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_meta_backward_accumulates_the_gradient_of_the_loss(mapping):
    learner, batch = _learner(mapping), _batch()
    loss, outputs = learner.meta_backward(batch)
    learner.meta_backward(batch)
    assert not loss.requires_grad and not outputs.requires_grad
    torch.testing.assert_close(loss, learner.loss(batch).detach())
    torch.testing.assert_close(loss, F.cross_entropy(outputs.flatten(0, 1), batch.query_y.flatten()))
    gradients = torch.autograd.grad(learner.loss(batch), list(learner.parameters()))
    for p, gradient in zip(learner.parameters(), gradients, strict=True):
        torch.testing.assert_close(p.grad, 2 * gradient)


def test_meta_backward_holds_one_chunk_of_tasks():
    def peak(mapping, tasks: int) -> int:
        learner, batch = _learner(mapping), _batch(tasks)
        learner.meta_backward(batch)  # what is made once and kept is not counted
        return peak_memory(lambda: learner.meta_backward(batch))

    assert peak(2, 16) < 1.2 * peak(2, 2) < 0.3 * peak("vmap", 16)


class NearestMean(Learner):
    """A learner in a few lines: class means of embeddings; targets arrive as one-hot rows."""

    def adapt(self, support_x, support_y):
        return support_y.T @ self.net(support_x) / support_y.sum(0)[:, None]

    def predict(self, adapted, query_x):
        return -torch.cdist(self.net(query_x), adapted)


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_a_new_method_is_adapt_and_predict(mapping):
    x = torch.randn(5, 8, 2, generator=seeded(0))
    batch = Task(x[:, :4], torch.tensor([0, 1, 1, 0]).expand(5, -1), x[:, 4:], torch.zeros(5, 4, dtype=torch.int64))
    learner = NearestMean(mlp(2, 3), mapping=mapping)
    outputs = learner(batch)
    for task, (support_x, _, query_x, _) in enumerate(zip(*batch, strict=True)):
        z = learner.net(support_x)
        means = torch.stack([(z[0] + z[3]) / 2, (z[1] + z[2]) / 2])
        distances = (learner.net(query_x)[:, None] - means).norm(dim=-1)
        torch.testing.assert_close(outputs[task], -distances)
    # No query is of class 1, yet there are two ways.
    torch.testing.assert_close(learner.loss(batch), -outputs.log_softmax(-1)[..., 0].mean())


@pytest.mark.parametrize("make", [lambda: ProtoNet(mlp(3, 4)), lambda: MAML(mlp(3, 2), inner_lr=0.1)])
def test_by_hand_a_learner_takes_labels_or_rows(make):
    learner, x, y = make().eval(), torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    by_labels, by_rows = (learner.predict(learner.adapt(x, targets), x) for targets in (y, torch.eye(2)[y]))
    assert torch.equal(by_labels, by_rows)


@pytest.mark.parametrize("make", [lambda: ProtoNet(mlp(3, 4)), lambda: MAML(mlp(3, 2), inner_lr=0.1)])
def test_new_examples_get_names(make):
    learner, x = make(), torch.randn(4, 3)
    names = learner.label(x, ["fan", "pump", "fan", "pump"], x[:3])
    adapted = learner.eval().adapt(x, torch.tensor([0, 1, 0, 1]))
    assert names == [("fan", "pump")[i] for i in learner.predict(adapted, x[:3]).argmax(-1)]
    with pytest.raises(ValueError, match=r"labels must be 0 to ways - 1, each with an example, not \[3, 7\]"):
        learner.predict(learner.adapt(x[:2], torch.tensor([3, 7])), x)
    learner.train()
    with pytest.raises(TypeError, match="convert: "):
        learner.label(x, ["fan", "pump"] * 2, x.double())
    assert learner.training


def test_a_method_must_be_written():
    learner = Learner(mlp(2, 2))
    with pytest.raises(NotImplementedError, match=r"Learner must define adapt\(support_x, support_y\)"):
        learner.adapt(None, None)
    with pytest.raises(NotImplementedError, match=r"Learner must define predict\(adapted, query_x\)"):
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
        (nn.Conv2d(1, 64, 3, stride=2), 30, 11),
        (nn.Conv2d(1, 64, 3), 9, 9),
        (nn.Conv2d(1, 64, 3), 10, None),  # a million numbers in a task's first layer: one after another
        (nn.Identity(), 200, 40),  # no convolution: all
    ],
)
def test_auto_bounds_what_a_convolution_meets_at_once(net, images, chunk, monkeypatch):
    class Untouched(NearestMean):
        def adapt(self, support_x, support_y):
            return support_x.mean((0, 1, 2, 3))

        def predict(self, adapted, query_x):
            return query_x[:, 0, 0, :2] + adapted

    chunks, vmap = [], torch.vmap
    monkeypatch.setattr(torch, "vmap", lambda *args, chunk_size, **kw: chunks.append(chunk_size) or vmap(*args, **kw))
    x, y = torch.zeros(1).expand(40, images, 1, 28, 28), torch.arange(images).remainder(2).expand(40, -1)
    Untouched(net)(Task(x, y, x, y))
    assert chunks == [chunk] * (chunk is not None)


def test_a_loop_stays_right_when_learners_are_mapped():
    """Within someone else's ``vmap``, torch's own second derivative of a batch normalisation would be wrong."""
    torch.manual_seed(0)
    learners = [MAML(_net(), inner_lr=INNER_LR, inner_steps=2, mapping="loop").eval() for _ in range(3)]
    batch = _batch()

    def loss(params: dict[str, Tensor]) -> Tensor:
        return learners[0].query_loss(functional_call(learners[0], params, (batch,)), batch.query_y)

    each = [dict(learner.named_parameters()) for learner in learners]
    found = torch.vmap(grad(loss))({name: torch.stack([p[name].detach() for p in each]) for name in each[0]})
    for i, params in enumerate(each):
        expected = torch.autograd.grad(loss(params), list(params.values()))
        for name, gradient in zip(params, expected, strict=True):
            torch.testing.assert_close(found[name][i], gradient)
    mapped_backward = jacrev(lambda params: torch.stack([loss(params), 2 * loss(params)]))(each[0])
    for i, gradient in enumerate(mapped_backward.values()):
        torch.testing.assert_close(gradient[1], 2 * torch.autograd.grad(loss(each[0]), list(each[0].values()))[i])


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_without_a_second_derivative_to_come_memory_holds_one_step(mapping):
    def peak(steps: int, **options) -> int:
        learner, batch = _learner(mapping, inner_steps=steps, **options), _batch(8)
        learner.meta_backward(batch)  # what is made once and kept is not counted
        return peak_memory(lambda: learner.meta_backward(batch))

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
    with pytest.raises(ValueError, match="one of transductive, support, running, one_query, not 'tranductive'"):
        _learner()(_batch(), batch_norm="tranductive")


def _rows(**changes) -> Task:
    """Two tasks of rows for ``mlp(4, 3)``, with some parts changed."""
    x, y = torch.randn(2, 6, 4), torch.arange(6).remainder(3).expand(2, -1)
    return Task(x, y, x, y)._replace(**changes)


Y = torch.arange(6).remainder(3).expand(2, -1)
BAD_TASKS = {
    "a single task": (
        _rows(support_y=Y[0], support_x=torch.randn(6, 4)),
        ValueError,
        r"support_y has shape \[6\], but must be \[6 tasks, examples, \.\.\.\].*x\[None\]",
    ),
    "a single regression": (
        Task(*[torch.randn(6, 1)] * 4),
        ValueError,
        r"support_x has shape \[6, 1\], but must be \[tasks, examples, \*input\].*x\[None\]",
    ),
    "other numbers of tasks": (
        _rows(query_x=torch.randn(3, 6, 4)),
        ValueError,
        r"query_x has shape \[3, 6, 4\], but must be \[2 tasks",
    ),
    "not a task": (torch.randn(2, 6, 4), TypeError, "a learner is called on a Task, .*, not Tensor"),
    "another precision": (_rows(query_x=torch.randn(2, 6, 4).half()), TypeError, r"are torch.float16 .*x\.to\("),
    "not a tensor": (_rows(query_y=Y.numpy()), TypeError, "query_y must be a tensor, not ndarray"),
    "fewer labels": (_rows(support_y=Y[:, :5]), ValueError, "support_x has 6 examples a task but support_y has 5"),
    "narrow labels": (_rows(support_y=Y.int()), TypeError, "support_y must be int64 labels.*not torch.int32"),
    "one-hot labels": (_rows(query_y=F.one_hot(Y)), TypeError, r"query_y must be int64.*of shape \[2, 6, 3\]"),
    "float labels": (_rows(support_y=Y.float()), TypeError, "targets are floats but loss_fn is cross_entropy"),
    "more ways": (
        _rows(support_y=torch.arange(6).expand(2, -1)),
        ValueError,
        r"gives \[3\] outputs a row but the task needs\s+\[6\]",
    ),
    "fewer ways": (
        _rows(support_y=Y.clamp(max=1)),
        ValueError,
        r"gives \[3\] outputs a row but the task needs\s+\[2\]",
    ),
    "an unknown query class": (
        _rows(query_y=Y + 1),
        ValueError,
        r"gives \[3\] outputs a row but the task needs\s+\[4\]",
    ),
}


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize(("batch", "error", "message"), BAD_TASKS.values(), ids=BAD_TASKS)
def test_bad_tasks_are_refused(batch, error, message, mapping):
    learner = MAML(mlp(4, 3), inner_lr=0.1, mapping=mapping)
    assert learner.loss(_rows()).isfinite()
    with pytest.raises(error, match=message):
        learner.loss(batch)


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
    x, y = torch.randn(1, 2, *shape), torch.arange(2)[None]
    with pytest.raises(
        ValueError, match=rf"an example has shape .*needs images \[3 channels, height, width\]; .*{fix}"
    ):
        learner(Task(x, y, x, y))


@pytest.mark.parametrize("method", [ProtoNet, partial(MAML, inner_lr=0.1)])
def test_a_network_may_change_its_input_first(method):
    class Bytes(nn.Module):
        def forward(self, x):
            return x.float().div(255).view(-1, 1, 5, 5)

    learner = method(nn.Sequential(Bytes(), nn.Conv2d(1, 2, 5), nn.Flatten()))
    x, y = torch.randint(256, (1, 2, 25), dtype=torch.uint8), torch.arange(2)[None]
    assert learner(Task(x, y, x, y)).isfinite().all()


def test_targets_of_another_width_are_refused():
    learner = MAML(mlp(4, 3), inner_lr=0.1, loss_fn=F.mse_loss)
    for width in ((6,), (6, 2)):
        target = torch.randn(2, *width)
        with pytest.raises(ValueError, match=r"gives \[3\] outputs a row but the task needs"):
            learner.loss(_rows(support_y=target, query_y=target))


def test_fast_weights_are_ordinary_tensors():
    """What ``adapt`` returns can be used on its own, as a chapter does."""
    learner, batch = _learner("loop"), _batch()
    fast = learner.adapt(batch.support_x[0], F.one_hot(batch.support_y[0]).double())
    outputs = functional_call(learner.net, fast, (batch.query_x[0],))
    torch.testing.assert_close(outputs, learner(batch)[0], rtol=1e-10, atol=1e-10)
