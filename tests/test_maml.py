"""MAML's meta-gradient against finite differences, a plain reference and closed forms; and that MAML learns."""

import copy
import json
from collections.abc import Iterator
from functools import cache, partial
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from mlcore import (
    MAML,
    ClassificationTasks,
    Examples,
    Objective,
    Task,
    classification,
    conv4,
    datasets,
    evaluate,
    meta_train,
    mlp,
    regression,
    rows,
    seeded,
)
from mlcore.datasets.sinusoid import sinusoid
from mlcore.files import repository_data
from mlcore.inner import inner_step
from mlcore.nets import BatchNorm
from mlcore.objective import mse

MAPPINGS = ["loop", "vmap", 2, 3, "auto"]
WAYS, SHOTS = 3, 2


def _with_torch_norms(net: nn.Module) -> nn.Module:
    """A copy in which torch's own batch normalisation stands in for ours."""
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm):
                norm = nn.BatchNorm2d(child.weight.numel(), eps=child.eps).to(child.weight.dtype)
                norm.load_state_dict(child.state_dict(), strict=False)
                setattr(module, name, norm)
    return net


def _smooth_conv() -> nn.Module:
    layers = [nn.Conv2d(1, 3, 3, stride=2), BatchNorm(3), nn.Softplus(), nn.Conv2d(3, 3, 3, stride=2), BatchNorm(3)]
    return nn.Sequential(*layers, nn.Softplus(), nn.Flatten(), nn.Linear(27, WAYS))


_NETS = {
    "conv4 stride": (lambda: conv4(outputs=WAYS, filters=4, image_size=16), (1, 16, 16)),
    "conv4 pool": (lambda: conv4(outputs=WAYS, filters=4, image_size=16, downsample="pool"), (1, 16, 16)),
    "softplus conv": (_smooth_conv, (1, 16, 16)),
    "tanh mlp": (lambda: mlp(4, 8, WAYS, activation=nn.Tanh), (4,)),
    "softplus mlp": (lambda: mlp(4, 8, WAYS, activation=nn.Softplus), (4,)),
    "tanh regressor": (lambda: mlp(4, 8, 2, activation=nn.Tanh), (4,)),
}


@cache
def _problem(kind: str) -> tuple[nn.Module, Task, float]:
    """A float64 network whose norms have no default left, five tasks for it, and an inner rate."""
    build, shape = _NETS[kind]
    torch.manual_seed(0)
    net = build().double()
    for module in net.modules():
        if isinstance(module, BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
    x = torch.randn(5, 2 * WAYS * SHOTS, *shape, dtype=torch.float64)
    y = rows(torch.arange(WAYS).repeat(2 * SHOTS)).double().expand(5, -1, -1)
    if kind == "tanh regressor":
        y = torch.randn(5, 2 * WAYS * SHOTS, 2, dtype=torch.float64)
    half = WAYS * SHOTS
    batch = Task(Examples(x[:, :half], y[:, :half]), Examples(x[:, half:], y[:, half:]))
    return net, batch, 0.1 if "conv" in kind else 0.5


def _objective(kind: str) -> Objective:
    return regression if kind == "tanh regressor" else classification


def _singly(batch: Task) -> Iterator[Task]:
    """The tasks of a batch, each without the tasks dimension."""
    for i in range(batch.count):
        yield batch.each(lambda tensor, i=i: tensor[i])


def _learner(kind: str, **options) -> tuple[MAML, Task]:
    net, batch, inner_lr = _problem(kind)
    return MAML(net, inner_lr=inner_lr, loss_fn=_objective(kind).loss, **options), batch


def _meta_gradient(learner: MAML, batch: Task, objective: Objective = classification) -> Tensor:
    learner.zero_grad()
    learner.meta_backward(batch, objective)
    return torch.cat([p.grad.flatten() for p in learner.parameters()])


@cache
def _reference(kind: str, steps: int, first_order: bool) -> tuple[float, Tensor]:
    """MAML as one writes it without functional tools: autograd.grad in a Python loop, on torch's own layers."""
    net, batch, inner_lr = _problem(kind)
    net, loss_fn = _with_torch_norms(net), F.mse_loss if kind == "tanh regressor" else F.cross_entropy
    losses = []
    for support, query in _singly(batch):
        fast = dict(net.named_parameters())
        for _ in range(steps):
            loss = loss_fn(functional_call(net, fast, (support.x,)), support.y)
            gradients = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
            if first_order:
                gradients = [gradient.detach() for gradient in gradients]
            fast = {name: p - inner_lr * g for (name, p), g in zip(fast.items(), gradients, strict=True)}
        losses.append(loss_fn(functional_call(net, fast, (query.x,)), query.y))
    loss = torch.stack(losses).mean()
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    return loss.item(), torch.cat([gradient.flatten() for gradient in gradients])


def _relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", _NETS)
@pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])
@pytest.mark.parametrize("large", [0, 2**15], ids=["kernel", "arithmetic"])
def test_meta_gradient_is_the_plain_references(kind, steps, mapping, first_order, large, monkeypatch):
    monkeypatch.setattr("mlcore.nets.norms._LARGE", large)  # both ways of normalising, whatever the size
    learner, batch = _learner(kind, inner_steps=steps, mapping=mapping, first_order=first_order)
    gradient = _meta_gradient(learner, batch, _objective(kind))
    loss, expected = _reference(kind, steps, first_order)
    assert _relative(gradient, expected) < 1e-10
    assert learner.meta_loss(batch, _objective(kind)).item() == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", [kind for kind in _NETS if "conv4" not in kind])
def test_meta_gradient_is_the_slope_of_the_loss(kind, steps, mapping, slopes):
    learner, batch = _learner(kind, inner_steps=steps, mapping=mapping)
    gradient = _meta_gradient(learner, batch, _objective(kind))
    directions = torch.randn(3, len(gradient), dtype=torch.float64, generator=seeded(steps))
    assert _relative(directions @ gradient, slopes(learner, batch, directions, _objective(kind))) < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("kind", _NETS)
def test_first_order_is_another_gradient_of_the_same_loss(kind, steps):
    first, batch = _learner(kind, inner_steps=steps, first_order=True)
    second, _ = _learner(kind, inner_steps=steps)
    objective = _objective(kind)
    assert _relative(_meta_gradient(first, batch, objective), _meta_gradient(second, batch, objective)) > 1e-3
    losses = (learner.meta_loss(batch, objective) for learner in (first, second))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["loop", "vmap"])
@pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])
def test_bfloat16_is_for_training_only_and_near(mapping, first_order):
    torch.manual_seed(0)
    examples = Examples(torch.randn(3, 20, 1, 28, 28), torch.eye(5).repeat(4, 1).expand(3, -1, -1))
    batch, options = Task(examples, examples), {"inner_lr": 0.1, "mapping": mapping, "first_order": first_order}
    exact = MAML(conv4(1, 5), **options)
    fast = MAML(exact.net, **options, bfloat16=True)
    losses = [learner.meta_backward(batch, classification).losses.mean() for learner in (exact, fast)]
    assert losses[0] != losses[1] and losses[0].item() == pytest.approx(losses[1].item(), rel=0.02)
    gradients = [nn.utils.parameters_to_vector(p.grad for p in learner.parameters()) for learner in (exact, fast)]
    assert gradients[1].dtype == torch.float32 and F.cosine_similarity(*gradients, dim=0) > 0.95
    for (name, a), (_, b) in zip(exact.named_buffers(), fast.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.02, msg=name)
    fast.load_state_dict(exact.state_dict())
    assert torch.equal(exact.eval()(batch), fast.eval()(batch))


@pytest.mark.slow
def test_bfloat16_learns():
    """Chance is 20 %."""
    train, _, test = datasets.load("glyphs", queries=5)
    torch.manual_seed(0)
    learner = MAML(conv4(1, 5, filters=16), inner_lr=0.5, bfloat16=True)
    meta_train(learner, train, iterations=200, outer_lr=3e-3, progress=False)
    score = evaluate(learner, test, episodes=200)
    assert score.mean - score.ci95 > 0.45, score


def test_bfloat16_keeps_the_recorded_accuracy():
    """Where it does: the short runs of `make bench`, whose record the book quotes. Each pair has one seed."""
    record = json.loads((repository_data() / "benchmarks" / "choices.json").read_text(encoding="utf-8"))
    pairs = [(seed["float32"], seed["bfloat16"]) for seed in record["accuracy"]["seeds"]]
    assert len(pairs) >= 3
    for exact, fast in pairs:
        assert abs(exact["mean"] - fast["mean"]) <= exact["ci95"] + fast["ci95"]


class _Recording(torch.autograd.Function):
    """The identity, which notes whether its derivative is recorded, to be differentiated again."""

    generate_vmap_rule = True
    recorded: ClassVar[list[bool]] = []

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        pass

    @staticmethod
    def backward(ctx, g: Tensor) -> Tensor:
        _Recording.recorded.append(torch.is_grad_enabled())
        return g


@pytest.mark.parametrize("mapped", [False, True], ids=["loop", "vmap"])
def test_a_gradient_is_recorded_only_if_it_will_be_differentiated(mapped):
    def recorded(**options) -> bool:
        def step(w: Tensor) -> Tensor:
            return inner_step(lambda p: _Recording.apply(p["w"]).square().sum(), {"w": w}, 0.1, **options)["w"]

        _Recording.recorded.clear()
        w = torch.ones(2, 3, requires_grad=True)
        torch.vmap(step)(w) if mapped else step(w)
        (answer,) = _Recording.recorded
        return answer

    assert recorded() and not recorded(first_order=True)
    with torch.no_grad():  # in use
        assert not recorded()


def test_a_loss_of_several_numbers_is_refused():
    examples = Examples(torch.randn(2, 6, 4), torch.eye(3).repeat(2, 1).expand(2, -1, -1))
    for mapping in ("loop", "vmap"):
        learner = MAML(mlp(4, 3), inner_lr=0.1, loss_fn=partial(F.cross_entropy, reduction="none"), mapping=mapping)
        with pytest.raises(ValueError, match=r"loss_fn must give one number, not \[6\]; take the mean"):
            learner(Task(examples, examples))


def test_constants_stay_constants():
    """Weights without a graph, as in fine-tuning, get none from their steps."""
    params = {"w": torch.ones(3)}
    for _ in range(2):
        params = inner_step(lambda p: p["w"].square().sum(), params, 0.1)
    assert not params["w"].requires_grad


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])
def test_meta_gradient_of_a_quadratic_in_closed_form(steps, first_order):
    """For L(w) = |Xw - y|²/n, ∇L = 2X'(Xw - y)/n and H = 2X'X/n, so the meta-gradient is (I - αH)^k ∇L_query(θ')."""
    generator, alpha = seeded(3), 0.1
    x = torch.randn(4, 12, 3, dtype=torch.float64, generator=generator)
    y = torch.randn(4, 12, 1, dtype=torch.float64, generator=generator)
    batch = Task(Examples(x[:, :5], y[:, :5]), Examples(x[:, 5:], y[:, 5:]))
    net = nn.Linear(3, 1, bias=False).double()
    expected = torch.zeros(3, 1, dtype=torch.float64)
    for (support_x, support_y), (query_x, query_y) in _singly(batch):
        contraction = torch.eye(3) - alpha * 2 / 5 * support_x.T @ support_x
        w = net.weight.detach().T
        for _ in range(steps):
            w = w - alpha * 2 / 5 * support_x.T @ (support_x @ w - support_y)
        through = torch.eye(3, dtype=torch.float64) if first_order else torch.matrix_power(contraction, steps)
        expected += through @ (2 / 7 * query_x.T @ (query_x @ w - query_y)) / 4
    learner = MAML(net, inner_lr=alpha, inner_steps=steps, first_order=first_order, loss_fn=mse)
    assert _relative(_meta_gradient(learner, batch, regression), expected.flatten()) < 1e-12


def test_without_inner_steps_it_is_the_plain_gradient():
    learner, batch = _learner("softplus mlp", inner_steps=0)
    net = copy.deepcopy(learner.net)
    x, y = (part.flatten(0, 1) for part in batch.query)
    F.cross_entropy(net(x), y).backward()
    expected = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert _relative(_meta_gradient(learner, batch), expected) < 1e-12


@pytest.mark.parametrize("steps", [1, 4])
def test_inner_step_is_sgd(steps):
    net, batch, _ = _problem("softplus conv")
    support = next(_singly(batch)).support
    twin = _with_torch_norms(net)
    sgd = torch.optim.SGD(twin.parameters(), lr=0.3)
    for _ in range(steps):
        sgd.zero_grad()
        F.cross_entropy(twin(support.x), support.y).backward()
        sgd.step()
    learner = MAML(net, inner_lr=0.3, inner_steps=steps)
    fast = learner.adapt(support)
    torch.testing.assert_close(fast, dict(twin.named_parameters()), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("first_order", [False, True], ids=["second", "first"])
def test_jacobian_of_the_inner_step(first_order):
    """dθ'/dθ is I - αH, and I when the gradient counts as a constant."""

    def loss(params):
        return params["w"].exp().sum() * params["w"].prod()

    w = torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64)
    jacobian = jacrev(lambda w: inner_step(loss, {"w": w}, 0.2, first_order=first_order)["w"])(w)
    eye = torch.eye(3, dtype=torch.float64)
    expected = eye if first_order else eye - 0.2 * jacrev(jacrev(lambda w: loss({"w": w})))(w)
    torch.testing.assert_close(jacobian, expected, rtol=1e-12, atol=1e-12)


def test_frozen_parameters_are_not_adapted():
    net, batch, inner_lr = _problem("tanh mlp")
    net = copy.deepcopy(net)
    net[0].requires_grad_(False)
    learner = MAML(net, inner_lr=inner_lr)
    fast = learner.adapt(next(_singly(batch)).support)
    assert list(fast) == ["2.weight", "2.bias"]
    learner.meta_backward(batch, classification)
    assert [p.grad is None for p in learner.parameters()] == [True, True, False, False]


def test_a_rate_for_each_module_or_parameter():
    net, batch, _ = _problem("tanh mlp")
    learner, task = MAML(net, inner_lr={"0": 0.1, "0.bias": 0.2, "2": 0.7}), next(_singly(batch))
    F.cross_entropy(net(task.support.x), task.support.y).backward()
    rates, fast = {"0.weight": 0.1, "0.bias": 0.2, "2.weight": 0.7, "2.bias": 0.7}, learner.adapt(task.support)
    for name, p in net.named_parameters():
        torch.testing.assert_close(fast[name], p - rates[name] * p.grad, rtol=1e-10, atol=1e-12)
        p.grad = None
    with pytest.raises(ValueError, match="inner_lr names 'head', which no parameter has; the parameters are"):
        MAML(net, inner_lr={"0": 0.1, "2": 0.1, "head": 0.1})
    with pytest.raises(ValueError, match=r"inner_lr has no rate for '2\.weight'"):
        MAML(net, inner_lr={"0": 0.1})


def test_steps_of_training_and_of_evaluation():
    learner, batch = _learner("tanh mlp", inner_steps=1, test_steps=3)
    one, _ = _learner("tanh mlp", inner_steps=1)
    three, _ = _learner("tanh mlp", inner_steps=3)
    assert torch.equal(learner.train()(batch), one(batch))
    assert torch.equal(learner.eval()(batch), three(batch))
    assert torch.equal(one.train()(batch), one.eval()(batch))
    assert not torch.allclose(one(batch), three(batch))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"inner_lr": 0.0}, ValueError, "inner_lr must be positive, not 0.0"),
        ({"inner_lr": 0.1, "inner_steps": -1}, ValueError, "inner_steps=-1 and test_steps=-1 must not be negative"),
        ({"inner_lr": 0.1, "test_steps": -2}, ValueError, "test_steps=-2 must not be negative"),
        ({"inner_lr": 0.1, "inner_stps": 2}, TypeError, "unexpected keyword argument 'inner_stps'"),
        ({}, TypeError, "inner_lr"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        MAML(mlp(1, 1), **options)


def _clusters(*, shuffled: bool) -> tuple[ClassificationTasks, ClassificationTasks, ClassificationTasks]:
    """Classes that differ in 4 of 16 dimensions, the others pure noise: what to look at is common to all tasks."""
    generator = seeded(0)
    centres = torch.zeros(100, 1, 16)
    centres[..., :4] = 3 * torch.randn(100, 1, 4, generator=generator)
    noise = torch.randn(100, 20, 16, generator=generator) * torch.tensor([0.5] * 4 + [3.0] * 12)
    x, y = (centres + noise).flatten(0, 1), torch.arange(100).repeat_interleave(20)
    if shuffled:
        y = y[torch.randperm(len(y), generator=generator)]
    return ClassificationTasks(x, y, ways=5, shots=1, queries=5).split_classes((0.5, 0.2, 0.3))


def _accuracy_before_and_after(*, shuffled: bool):
    train, _, test = _clusters(shuffled=shuffled)
    torch.manual_seed(0)
    learner = MAML(mlp(16, 32, 5), inner_lr=0.5)
    before = evaluate(learner, test, episodes=400)
    meta_train(learner, train, iterations=400, meta_batch=16, outer_lr=3e-3, progress=False)
    return before, evaluate(learner, test, episodes=400), learner, test


@pytest.mark.slow
def test_learns_what_new_classes_have_in_common():
    before, after, learner, test = _accuracy_before_and_after(shuffled=False)
    untouched = evaluate(learner.replace(test_steps=0), test, episodes=400)
    assert abs(untouched.mean - 0.2) < 2 * untouched.ci95  # without a support set nothing beats chance
    assert after.mean - before.mean > 0.2 + after.ci95 + before.ci95


@pytest.mark.slow
def test_stays_at_chance_on_shuffled_labels():
    _, after, _, _ = _accuracy_before_and_after(shuffled=True)
    assert abs(after.mean - 0.2) < 2 * after.ci95
    assert after.ci95 < 0.01


@pytest.mark.slow
def test_learns_to_fit_sinusoids():
    tasks = sinusoid(shots=10, queries=50)
    torch.manual_seed(0)
    learner = MAML(mlp(1, 40, 40, 1), inner_lr=0.02, loss_fn=mse)
    meta_train(learner, tasks.replace(queries=10), iterations=600, meta_batch=25, outer_lr=5e-3, progress=False)
    after = evaluate(learner, tasks, episodes=200, seed=1)
    before = evaluate(learner.replace(test_steps=0), tasks, episodes=200, seed=1)
    query_y = tasks.sample(1_000, seeded(1)).query.y
    constant = query_y.var(dim=1).mean().item()  # the best constant for each task, known in hindsight
    assert after.mean < 0.5 * min(before.mean, constant)
