"""Learning from a stream: what a step on one class does to others, and streams of classes."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlcore import (
    ANML,
    OML,
    ClassByClass,
    ClassificationTasks,
    Examples,
    ProtoNet,
    Task,
    classification,
    evaluate,
    meta_train,
    mlp,
    rows,
    seeded,
)
from mlcore.datasets import WaveStreams
from mlcore.learners.oml import with_bias

DOUBLE = torch.float64


def stream(n: int = 8, ways: int = 3) -> Examples:
    x = torch.randn(n, 5, dtype=DOUBLE, generator=seeded(0))
    return Examples(x, rows(torch.arange(n) % ways, ways).double())


def blobs(**sizes) -> ClassificationTasks:
    """Sixty classes around points of a plane of twelve dimensions' first six; the rest is noise."""
    centres = torch.cat([torch.randn(60, 1, 6, generator=seeded(1)), torch.zeros(60, 1, 6)], -1)
    x = 1.0 + centres + 0.3 * torch.randn(60, 20, 12, generator=seeded(2))
    return ClassificationTasks(x.flatten(0, 1), torch.arange(60).repeat_interleave(20), **sizes)


@pytest.mark.parametrize("portion", [1, 3])
@pytest.mark.parametrize("regression", [False, True])
def test_a_step_is_the_gradient_of_the_loss(portion, regression):
    data, head = stream(), nn.Linear(5, 3).double()
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    descent = torch.optim.SGD(head.parameters(), lr=0.2)
    for x, y in zip(data.x.split(portion), data.y.split(portion), strict=True):
        descent.zero_grad()
        outputs = head(x)
        squares = 0.5 * (outputs - y).square().sum(-1).mean()
        (squares if regression else F.cross_entropy(outputs, y)).backward()
        descent.step()
    ours = OML(nn.Identity(), inner_lr=0.2, portion=portion, regression=regression).adapt(data)
    torch.testing.assert_close(ours, torch.cat([head.weight.T, head.bias[None]]))


def test_what_a_step_does_elsewhere_is_a_product_of_features():
    data = stream()
    learner = OML(nn.Identity(), inner_lr=0.2)
    state = learner.adapt(data)
    x, y = data.x[2:3], data.y[2:3]
    after = learner.update(state, Examples(x, y))
    error = y - learner.predict(state, x).softmax(-1)
    overlap = with_bias(data.x) @ with_bias(x).T
    moved = learner.predict(after, data.x) - learner.predict(state, data.x)
    torch.testing.assert_close(moved, 0.2 * overlap * error)


def test_the_meta_gradient(differences_agree):
    torch.manual_seed(0)
    data, other = stream(), Examples(torch.randn(6, 5, dtype=DOUBLE), rows(torch.arange(6) % 3, 3).double())
    task = Task(Examples(data.x[None], data.y[None]), Examples(other.x[None], other.y[None]))
    learner = OML(mlp(5, 4, 4, activation=nn.Tanh), inner_lr=0.5).double()
    learner.meta_backward(task, classification)
    differences_agree(learner, lambda: learner.meta_loss(task, classification))
    second = [p.grad.clone() for p in learner.parameters()]
    learner.zero_grad()
    learner.replace(first_order=True).meta_backward(task, classification)
    assert all((p.grad - g).norm() > 0.01 * g.norm() for p, g in zip(learner.parameters(), second, strict=True))


def test_first_order_is_a_frozen_head():
    torch.manual_seed(0)
    data, net = stream(), mlp(5, 4, 4, activation=nn.Tanh).double()
    learner = OML(net, inner_lr=0.5, first_order=True)
    task = Task(Examples(data.x[None], data.y[None]), Examples(data.x[None], data.y[None]))
    learner.meta_backward(task, classification)
    with torch.no_grad():
        head = learner.adapt(Examples(learner.net(data.x), data.y))
    loss = F.cross_entropy(with_bias(learner.net(data.x)) @ head, data.y)
    expected = torch.autograd.grad(loss, list(learner.parameters()))
    for p, gradient in zip(learner.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)


def test_a_gate_that_is_open_changes_nothing_and_one_half_open_halves():
    net, gate = nn.Linear(5, 4).double(), nn.Linear(5, 4).double()
    nn.init.zeros_(gate.weight)
    x = stream().x
    for bias, share in ((50.0, 1.0), (0.0, 0.5)):
        nn.init.constant_(gate.bias, bias)
        torch.testing.assert_close(ANML(net, gate).net(x), share * net(x))


def test_classes_come_one_after_another():
    tasks = blobs(ways=5, shots=4, queries=2)
    plain, ordered = tasks.sample(3, seeded(3)), ClassByClass(tasks).sample(3, seeded(3))
    expected = torch.arange(5).repeat_interleave(4).expand(3, -1)
    assert torch.equal(ordered.support.y.argmax(-1), expected)
    assert not torch.equal(plain.support.y.argmax(-1), expected)
    assert torch.equal(plain.query.x, ordered.query.x)
    for before, after, y in zip(plain.support.x, ordered.support.x, plain.support.y, strict=True):
        for way in range(5):
            assert torch.equal(before[y[:, way] == 1], after[4 * way : 4 * way + 4])


def test_streams_take_other_sizes():
    other = ClassByClass(blobs()).replace(ways=4, shots=3).to("cpu")
    assert other.sample(2, seeded(0)).support.x.shape == (2, 12, 12)
    assert "ways=4" in repr(other)


def test_class_means_do_not_read_the_order_and_a_trained_head_does():
    tasks = blobs(ways=10, shots=5, queries=5)
    both = (tasks, ClassByClass(tasks))
    asked = {"episodes": 20, "progress": False}
    means = [evaluate(ProtoNet(nn.Identity()), t, **asked).per_task for t in both]
    torch.testing.assert_close(*means)
    shuffled, ordered = (evaluate(OML(nn.Identity(), inner_lr=0.1), t, **asked).mean for t in both)
    assert shuffled > ordered + 0.1


def test_it_learns_features_on_which_a_stream_is_kept():
    torch.manual_seed(0)
    tasks = ClassByClass(blobs(ways=10, shots=5, queries=5))
    learner = OML(mlp(12, 64, 64), inner_lr=0.1)
    before = evaluate(learner, tasks, episodes=20, progress=False).mean
    meta_train(learner, tasks, iterations=60, meta_batch=4, outer_lr=3e-3, progress=False)
    after = evaluate(learner, tasks, episodes=20, progress=False).mean
    assert before < 0.5 < 0.7 < after  # chance is 0.1


@pytest.mark.parametrize("wrong", [{"inner_lr": 0.0}, {"portion": 0}])
def test_bad_settings(wrong):
    with pytest.raises(ValueError, match="must be positive"):
        OML(nn.Identity(), **wrong)


def test_waves_come_one_after_another():
    streams = WaveStreams(waves=3, shots=4, queries=2)
    task, mixed = streams.sample(2, seeded(0)), streams.replace(shuffled=True).sample(2, seeded(0))
    number = task.support.x[..., 1:].argmax(-1)
    assert torch.equal(number, torch.arange(3).repeat_interleave(4).expand(2, -1))
    assert torch.equal(task.query.x, mixed.query.x) and not torch.equal(task.support.x, mixed.support.x)
    assert torch.equal(task.support.y.sort(1).values, mixed.support.y.sort(1).values)
    # A wave of known frequency has two unknowns: three points of one determine a fourth.
    x, y = 5 * task.support.x[0, :4, :1].double(), task.support.y[0, :4].double()
    basis = torch.cat([x.sin(), x.cos()], -1)
    torch.testing.assert_close(basis[2:] @ torch.linalg.solve(basis[:2], y[:2]), y[2:], rtol=1e-3, atol=1e-3)
    with pytest.raises(TypeError, match="does not know"):
        streams.replace(ways=3)
