"""MAML's relatives: every gradient against a reference, every method on a task where chance is known."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from mlcore import (
    ANIL,
    BOIL,
    CAVIA,
    IMAML,
    MAML,
    ClassificationTasks,
    Examples,
    Learner,
    MAMLPlusPlus,
    MetaSGD,
    Objective,
    ProtoMAML,
    ProtoNet,
    Reptile,
    Task,
    classification,
    conv4,
    evaluate,
    meta_train,
    mlp,
    regression,
    rows,
    seeded,
)
from mlcore.datasets import sinusoid
from mlcore.inner import conjugate_gradients
from mlcore.nets import BatchNorm
from mlcore.objective import mse
from mlcore.profiling import peak_memory

WAYS, MAPPINGS = 3, ["loop", "vmap", 2]


def _rows(tasks: int = 3, features: int = 4, seed: int = 0) -> Task:
    """Tasks of float64 rows, three ways, two shots and two queries a class."""
    x = torch.randn(tasks, 12, features, dtype=torch.float64, generator=seeded(seed))
    y = torch.eye(WAYS, dtype=torch.float64).repeat(4, 1).expand(tasks, -1, -1)
    return Task(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


def _images(tasks: int = 3) -> Task:
    return Task(*(half._replace(x=half.x.unflatten(2, (1, 6, 6))) for half in _rows(tasks, 36)))


def _singly(batch: Task) -> Iterator[Task]:
    """The tasks of a batch, each without the tasks dimension."""
    for i in range(batch.count):
        yield batch.each(lambda tensor, i=i: tensor[i])


def _mlp(inputs: int = 4, outputs: int = WAYS) -> nn.Sequential:
    torch.manual_seed(0)
    return mlp(inputs, 5, outputs, activation=nn.Tanh).double()


def _conv(outputs: int | None = WAYS) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 2, 3), BatchNorm(2), nn.Softplus(), nn.Flatten()]
    if outputs is not None:
        layers.append(nn.Linear(32, outputs))
    net = nn.Sequential(*layers).double()
    nn.init.uniform_(net[1].weight, 0.5, 1.5)
    nn.init.normal_(net[1].bias, std=0.3)
    return net


def _mamlpp(net: nn.Module, **settings) -> MAMLPlusPlus:
    """MAML++ in the midst of its multi-step loss."""
    learner = MAMLPlusPlus(net, inner_lr=0.3, inner_steps=3, multi_step_until=10, **settings)
    learner.updates += 4
    return learner.double()


LEARNERS = {
    "Meta-SGD": (lambda **s: MetaSGD(_mlp(), inner_lr=0.3, inner_steps=2, **s), _rows),
    "Meta-SGD, images": (lambda **s: MetaSGD(_conv(), inner_lr=0.1, **s), _images),
    "ANIL": (lambda **s: ANIL(_mlp(), inner_lr=0.3, inner_steps=2, **s), _rows),
    "ANIL, images": (lambda **s: ANIL(_conv(), inner_lr=0.1, inner_steps=2, **s), _images),
    "ANIL, tied head": (lambda **s: ANIL(_mlp(), inner_lr=0.3, inner_steps=2, tied_head=True, **s), _rows),
    "BOIL": (lambda **s: BOIL(_mlp(), inner_lr=0.3, inner_steps=2, **s), _rows),
    "CAVIA": (lambda **s: CAVIA(_mlp(6), context=2, inner_lr=0.5, inner_steps=2, **s), _rows),
    "Proto-MAML": (lambda **s: ProtoMAML(_mlp(), inner_lr=0.05, inner_steps=2, **s), _rows),
    "Proto-MAML, images": (lambda **s: ProtoMAML(_conv(None), inner_lr=0.01, inner_steps=1, **s), _images),
    "MAML++": (lambda **s: _mamlpp(_mlp(), **s), _rows),
    "MAML++, images": (lambda **s: _mamlpp(_conv(), **s), _images),
}


def _gradient(learner: Learner, batch: Task, objective: Objective = classification) -> Tensor:
    learner.zero_grad()
    learner.meta_backward(batch, objective)
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learner.parameters()])


def _relative(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def _directions(learner: Learner) -> Tensor:
    size = sum(p.numel() for p in learner.parameters())
    return torch.randn(4, size, dtype=torch.float64, generator=seeded(1))


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("kind", LEARNERS)
def test_meta_gradient_is_the_slope_of_the_loss(kind, mapping, slopes):
    build, tasks = LEARNERS[kind]
    learner, batch = build(mapping=mapping), tasks()
    twin = copy.deepcopy(learner)  # a meta-update counts, and moves MAML++'s multi-step loss
    gradient, directions = _gradient(learner, batch), _directions(learner)
    assert _relative(directions @ gradient, slopes(twin, batch, directions)) < 1e-6


@pytest.mark.parametrize("kind", LEARNERS)
def test_a_loop_and_vmap_agree_in_training_and_in_use(kind):
    build, tasks = LEARNERS[kind]
    batch, learners = tasks(), [build(mapping=mapping) for mapping in ("loop", "vmap")]
    learners[1].load_state_dict(learners[0].state_dict())
    gradients = [_gradient(learner, batch) for learner in learners]
    assert _relative(*gradients) < 1e-10
    outputs = []
    for learner in learners:
        outputs.append(learner.eval()(batch).detach())
        with torch.no_grad():
            outputs.append(learner(batch))
    for other in outputs[1:]:
        torch.testing.assert_close(other, outputs[0], rtol=1e-10, atol=1e-10)


def _plain(net: nn.Sequential, names: list[str], batch: Task, rate: float, steps: int) -> Tensor:
    """The meta-gradient of an inner loop that moves only the parameters named, without functional tools."""
    net, losses = copy.deepcopy(net), []
    for support, query in _singly(batch):
        fast = dict(net.named_parameters())
        for _ in range(steps):
            loss = F.cross_entropy(functional_call(net, fast, (support.x,)), support.y)
            gradients = torch.autograd.grad(loss, [fast[name] for name in names], create_graph=True)
            fast |= {name: fast[name] - rate * g for name, g in zip(names, gradients, strict=True)}
        losses.append(F.cross_entropy(functional_call(net, fast, (query.x,)), query.y))
    gradients = torch.autograd.grad(torch.stack(losses).mean(), list(net.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize(
    ("method", "names"),
    [(ANIL, ["4.weight", "4.bias"]), (BOIL, ["0.weight", "0.bias", "1.weight", "1.bias"])],
    ids=["ANIL", "BOIL"],
)
def test_only_head_or_only_body_is_adapted(method, names, steps):
    learner, batch = method(_conv(), inner_lr=0.1, inner_steps=steps), _images()
    assert _relative(_gradient(learner, batch), _plain(_conv(), names, batch, 0.1, steps)) < 1e-10


@pytest.mark.parametrize("method", [ANIL, BOIL])
def test_a_network_without_a_head_is_refused(method):
    with pytest.raises(TypeError, match=r"must be an nn.Sequential that ends in its head, an nn.Linear, not Tanh"):
        method(nn.Tanh(), inner_lr=0.1)


def test_a_tied_head_starts_from_the_mean_of_its_rows():
    learner, batch = ANIL(_mlp(), inner_lr=0.3, tied_head=True, loss_fn=mse), _rows()
    start, head = learner.start(), learner.net[2]
    for row in range(WAYS):
        torch.testing.assert_close(start["weight"][row], head.weight.mean(0))
        torch.testing.assert_close(start["bias"][row], head.bias.mean())
    assert not torch.allclose(head.weight[0], head.weight[1])
    learner.meta_backward(batch, regression)
    for gradient in (head.weight.grad, head.bias.grad[:, None]):  # that of the mean, in equal shares
        assert gradient.abs().min() > 1e-5
        torch.testing.assert_close(gradient, gradient[:1].expand_as(gradient))
    tied = copy.deepcopy(learner)
    tied.net[2].weight.data, tied.net[2].bias.data = (value.detach().clone() for value in start.values())
    torch.testing.assert_close(tied(batch), learner(batch))
    torch.testing.assert_close(tied.replace(tied_head=False)(batch), learner(batch))


def test_to_cross_entropy_a_tied_head_is_an_empty_one():
    """A row that all classes share shifts all logits alike, before the inner steps and after: only the body learns."""
    learner, batch = ANIL(_mlp(), inner_lr=0.3, inner_steps=3, tied_head=True), _rows()
    empty = copy.deepcopy(learner)
    for value in empty.head.parameters():
        value.data.zero_()
    torch.testing.assert_close(learner(batch).softmax(-1), empty(batch).softmax(-1), rtol=1e-10, atol=1e-12)
    learner.meta_backward(batch, classification)
    assert learner.head.weight.grad.abs().max() < 1e-14 < 1e-3 < learner.net[0].weight.grad.abs().max()


def test_meta_sgd_with_one_rate_for_all_is_maml():
    batch = _rows()
    learner, maml = MetaSGD(_mlp(), inner_lr=0.3), MAML(_mlp(), inner_lr=0.3)
    learner.meta_backward(batch, classification)
    maml.meta_backward(batch, classification)
    for ours, theirs in zip(learner.net.parameters(), maml.net.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-14)


def test_gradient_of_a_learned_rate_in_closed_form():
    """After one step θ' = θ - α∘g, so dL_query/dα = -g ∘ ∇L_query(θ')."""
    batch = _rows(1)
    learner = MetaSGD(_mlp(), inner_lr=0.3)
    learner.meta_backward(batch, classification)
    net, (task,) = _mlp(), _singly(batch)
    F.cross_entropy(net(task.support.x), task.support.y).backward()
    inner = [p.grad.clone() for p in net.parameters()]
    with torch.no_grad():
        for p, g in zip(net.parameters(), inner, strict=True):
            p -= 0.3 * g
            p.grad = None
    F.cross_entropy(net(task.query.x), task.query.y).backward()
    for alpha, g, p in zip(learner.alpha, inner, net.parameters(), strict=True):
        torch.testing.assert_close(alpha.grad, -g * p.grad, rtol=1e-10, atol=1e-14)


def test_protomaml_without_steps_is_a_protonet():
    batch = _images()
    maml, protonet = ProtoMAML(_conv(None), inner_lr=0.1, inner_steps=0).eval(), ProtoNet(_conv(None)).eval()
    outputs = (learner(batch, batch_norm="running").log_softmax(-1) for learner in (maml, protonet))
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    two = Task(*(half._replace(y=rows(half.y.argmax(-1).clamp(max=1))) for half in batch))
    assert maml(two).shape[-1] == 2  # ways are the task's


def test_context_parameters_start_at_zero_and_alone_are_adapted():
    learner, batch = CAVIA(_mlp(6), context=2, inner_lr=0.5), _rows()
    adapted = learner.adapt(next(_singly(batch)).support)
    assert list(adapted) == ["context"] and adapted["context"].abs().min() > 0
    blank = torch.cat([batch.query.x, torch.zeros(*batch.query.x.shape[:2], 2)], -1)
    torch.testing.assert_close(learner.replace(inner_steps=0)(batch), learner.net(blank))
    images = CAVIA(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, WAYS)).double(), context=2, inner_lr=1)
    assert images(_images()).shape == (3, 6, WAYS)
    with pytest.raises(ValueError, match="context=0 must be at least 1"):
        CAVIA(_mlp(6), context=0, inner_lr=0.5)


# Reptile


def _by_class(support: Examples) -> Examples:
    """The examples sorted by class, of which minibatches take every so-manieth."""
    order = support.y.argmax(-1).argsort(stable=True)
    return Examples(support.x[order], support.y[order])


def _trained(net: nn.Module, x: Tensor, y: Tensor, *, adam: bool, lr: float, steps: int, batches: int) -> list[Tensor]:
    """A plain training loop with torch's own optimiser."""
    net = copy.deepcopy(net)
    optimizer = (
        torch.optim.Adam(net.parameters(), lr, betas=(0.0, 0.999)) if adam else torch.optim.SGD(net.parameters(), lr)
    )
    for step in range(steps):
        part = slice(step % batches, None, batches)
        optimizer.zero_grad()
        F.cross_entropy(net(x[part]), y[part]).backward()
        optimizer.step()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("inner_optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("tasks", [1, 3], ids=["serial", "batched"])
def test_reptile_moves_by_its_definition(tasks, inner_optimizer, mapping):
    batch, adam = _rows(tasks), inner_optimizer == "adam"
    lr = 0.01 if adam else 0.3
    learner = Reptile(
        _mlp(), inner_lr=lr, inner_steps=5, batch_size=3, inner_optimizer=inner_optimizer, mapping=mapping
    )
    ends = [
        _trained(_mlp(), x, y, adam=adam, lr=lr, steps=5, batches=2)
        for x, y in (_by_class(task.support) for task in _singly(batch))
    ]
    judged = learner.meta_backward(batch, classification)
    for i, p in enumerate(learner.parameters()):
        expected = p - torch.stack([end[i] for end in ends]).mean(0)
        torch.testing.assert_close(p.grad, expected.detach(), rtol=1e-9, atol=1e-12)
    learner.meta_backward(batch, classification)  # accumulates
    torch.testing.assert_close(p.grad, 2 * expected.detach(), rtol=1e-9, atol=1e-12)
    loss = F.cross_entropy(judged.outputs.flatten(0, 1), batch.query.y.flatten(0, 1))
    torch.testing.assert_close(judged.losses.mean(), loss)


def test_adams_second_moment_goes_on_from_task_to_task():
    """As in the paper's code: the weights are put back after a task, the state of the optimiser is not."""
    learner = Reptile(_mlp(), inner_lr=0.01, inner_steps=2, batch_size=3, keep_moments=True)
    net = _mlp()
    optimizer = torch.optim.Adam(net.parameters(), 0.01, betas=(0.0, 0.999))
    start = [p.detach().clone() for p in net.parameters()]
    for task in range(3):
        x, y = _by_class(next(_singly(_rows(1, seed=task))).support)
        for step in range(2):
            optimizer.zero_grad()
            F.cross_entropy(net(x[step::2]), y[step::2]).backward()
            optimizer.step()
        learner.zero_grad()
        learner.meta_backward(_rows(1, seed=task), classification)
        for before, after, p in zip(start, net.parameters(), learner.parameters(), strict=True):
            torch.testing.assert_close(p.grad, before - after.detach(), rtol=1e-9, atol=1e-12)
            after.data.copy_(before)
    fresh, again = (Reptile(_mlp(), inner_lr=0.01, inner_steps=2, batch_size=3, keep_moments=k) for k in (False, True))
    for learner in (fresh, again):
        learner.meta_backward(_rows(1), classification)
    assert not list(fresh.buffers())
    steps, moments = again.begin()[1]
    assert steps == 2 and all(moment.any() for moment in moments.values())


@pytest.mark.parametrize("mapping", MAPPINGS)
def test_random_minibatches_take_each_example_once_a_pass(mapping):
    learner = Reptile(_mlp(), inner_lr=0.3, inner_steps=6, batch_size=2, shuffle=True, inner_optimizer="sgd")
    learner.mapping, batch = mapping, _rows()
    ends = []
    for task in _singly(batch):
        parts, net = list(learner.stream(task.support)), _mlp()
        passes = [torch.cat([part.x for part in parts[i : i + 3]]) for i in (0, 3)]
        for seen in passes:
            torch.testing.assert_close(seen.sort(0).values, task.support.x.sort(0).values)
        assert not torch.equal(*passes)
        optimizer = torch.optim.SGD(net.parameters(), 0.3)
        for part in parts:
            assert len(part.x) == 2
            optimizer.zero_grad()
            F.cross_entropy(net(part.x), part.y).backward()
            optimizer.step()
        ends.append([p.detach() for p in net.parameters()])
    learner.meta_backward(batch, classification)
    for i, p in enumerate(learner.parameters()):
        expected = p - torch.stack([end[i] for end in ends]).mean(0)
        torch.testing.assert_close(p.grad, expected.detach(), rtol=1e-9, atol=1e-12)


def test_random_minibatches_are_not_balanced():
    tasks = ClassificationTasks(torch.randn(100, 2), torch.arange(5).repeat(20), ways=5, shots=10, queries=1)
    learner = Reptile(mlp(2, 5), inner_lr=0.1, inner_steps=5, shuffle=True)
    counts = torch.stack(
        [part.y.sum(0) for task in _singly(tasks.sample(20, seeded(0))) for part in learner.stream(task.support)]
    )
    assert (counts.sum(1) == 10).all() and (counts == 2).float().mean() < 0.6  # balanced, all would be
    torch.testing.assert_close(counts.mean(0), torch.full((5,), 2.0))


def test_flattened_features_are_those_of_strides():
    net = conv4(1, 5, filters=4, flatten=True)
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 5)
    assert net[-1].in_features == 16 and conv4(1, flatten=True)(torch.rand(1, 1, 28, 28)).shape == (1, 256)
    assert conv4(3, 5, filters=4, image_size=84, flatten=True)(torch.rand(1, 3, 84, 84)).shape == (1, 5)  # 6 × 6


def test_one_outer_step_of_one_goes_to_the_mean_of_the_trained_networks():
    tasks = sinusoid(shots=10)
    learner = Reptile(mlp(1, 8, 1), inner_lr=0.02, inner_steps=4, inner_optimizer="sgd", loss_fn=mse)
    ends = [learner.adapt(task.support)[0] for task in _singly(tasks.sample(3, seeded(0, 0, 0)))]
    meta_train(learner, tasks, iterations=1, meta_batch=3, optimizer=torch.optim.SGD, outer_lr=1.0, progress=False)
    for name, value in learner.net.named_parameters():
        torch.testing.assert_close(value.detach(), torch.stack([end[name] for end in ends]).mean(0))


def test_reptile_keeps_running_statistics():
    learner, batch = Reptile(_conv(), inner_lr=0.1, inner_steps=2, batch_size=6, inner_optimizer="sgd"), _images()
    learner.meta_backward(batch, classification)
    assert (learner.net[1].running_mean != 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 and test_batch_size=0 must be at least 1"),
        ({"test_batch_size": -1}, "batch_size=10 and test_batch_size=-1 must be at least 1"),
        ({"inner_optimizer": "adamw"}, "inner_optimizer must be 'adam' or 'sgd', not 'adamw'"),
    ],
    ids=str,
)
def test_bad_reptiles_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Reptile(_mlp(), inner_lr=0.1, inner_steps=1, **settings)


# MAML++


def test_mamlpp_with_every_part_left_out_is_maml():
    batch = _images()
    learner = MAMLPlusPlus(_conv(), inner_lr=0.1, inner_steps=3, learned_rates=False, per_step_norms=False)
    maml = MAML(_conv(), inner_lr=0.1, inner_steps=3)
    assert _relative(_gradient(learner, batch), _gradient(maml, batch)) < 1e-12
    torch.testing.assert_close(learner(batch), maml(batch))
    for policy in ("episode", "support", "running", "one_query"):
        torch.testing.assert_close(learner(batch, batch_norm=policy), maml(batch, batch_norm=policy))


def test_weights_of_the_steps_anneal_to_the_last():
    learner = MAMLPlusPlus(_mlp(), inner_lr=0.1, inner_steps=4, multi_step_until=8)
    expected = {0: [0.25] * 4, 4: [0.125] * 3 + [0.625], 8: [0.0] * 3 + [1.0], 20: [0.0] * 3 + [1.0]}
    for updates, weights in expected.items():
        learner.updates.fill_(updates)
        torch.testing.assert_close(learner.step_weights(), torch.tensor(weights))


def test_derivatives_are_of_first_order_at_first():
    batch, gradients = _rows(), {}
    settings = {"inner_lr": 0.3, "inner_steps": 2}
    learner = MAMLPlusPlus(_mlp(), **settings, learned_rates=False, first_order_until=2)
    for update in range(3):
        assert learner.updates.item() == update
        gradients[update] = _gradient(learner, batch)
    first, second = (_gradient(MAML(_mlp(), **settings, first_order=order), batch) for order in (True, False))
    assert _relative(gradients[0], first) < 1e-12 and _relative(gradients[1], first) < 1e-12
    assert _relative(gradients[2], second) < 1e-12 and _relative(first, second) > 1e-3


def test_each_state_of_the_inner_loop_has_its_statistics():
    learner, batch = MAMLPlusPlus(_conv(), inner_lr=0.3, inner_steps=2), _images()
    norms = [*(norms[0] for norms in learner.norms), learner.net[1]]
    assert len(norms) == 3 and not any("1." in name for name in learner.start())
    seen = {}
    for name, x in (("support", batch.support.x), ("query", batch.query.x)):
        h = learner.net[0](x.flatten(0, 1)).unflatten(0, (3, 6))
        seen[name] = h.mean((1, 3, 4)).mean(0)  # at the initial weights
    learner.meta_backward(batch, classification)
    torch.testing.assert_close(norms[0].running_mean, 0.1 * seen["support"].detach(), rtol=1e-9, atol=1e-12)
    assert len({tuple(norm.running_mean.tolist()) for norm in norms}) == 3
    # The policy "running" uses them, each at its own step.
    before = learner.eval()(batch, batch_norm="running")
    for state in range(3):
        changed = copy.deepcopy(learner)
        (changed.norms[state][0] if state < 2 else changed.net[1]).running_var *= 4
        assert (changed(batch, batch_norm="running") - before).abs().max() > 1e-3
        torch.testing.assert_close(changed(batch, batch_norm="transductive"), learner(batch))


def test_more_steps_at_test_use_the_last_rates():
    learner, batch = MAMLPlusPlus(_conv(), inner_lr=0.3, inner_steps=2, test_steps=4).eval(), _images()
    learner.alpha.data[1] *= 2
    assert [learner.rates_of(step)["0.weight"].item() for step in range(4)] == pytest.approx([0.3, 0.6, 0.6, 0.6])
    outputs = learner(batch)
    assert outputs.shape == (3, 6, WAYS) and (outputs - learner.replace(test_steps=2)(batch)).abs().max() > 1e-6
    with pytest.raises(ValueError, match="inner_steps=0 must be at least 1"):
        MAMLPlusPlus(_mlp(), inner_lr=0.1, inner_steps=0)


def test_mamlpp_resumes_in_the_midst_of_its_annealing(tmp_path):
    tasks, states = sinusoid(), []
    settings = {"inner_steps": 2, "multi_step_until": 4, "first_order_until": 5, "loss_fn": mse}
    for stops in ((8,), (3, 8)):
        torch.manual_seed(0)
        learner = MAMLPlusPlus(mlp(1, 8, 1), inner_lr=0.01, **settings)
        for stop in stops:
            path = tmp_path / f"{len(stops)}.pt"
            meta_train(learner, tasks, iterations=stop, checkpoint=path, progress=False)
        states.append(learner.state_dict())
    assert states[0]["updates"].item() == 8
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# iMAML


def _regression(tasks: int = 3) -> Task:
    x = torch.randn(tasks, 16, 2, dtype=torch.float64, generator=seeded(2))
    y = x.sin().sum(-1, keepdim=True) * torch.linspace(0.5, 1.5, tasks).view(-1, 1, 1)
    return Task(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


def _implicit(mapping="vmap", **settings) -> IMAML:
    torch.manual_seed(0)
    net = mlp(2, 3, 1, activation=nn.Tanh).double()
    settings = {"inner_lr": 0.2, "inner_steps": 3, "strength": 2.0, "cg_steps": 13} | settings
    return IMAML(net, loss_fn=mse, mapping=mapping, **settings)


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("pull_back", [None, 0.4], ids=["proximal term", "pulled back"])
@pytest.mark.parametrize("steps", [1, 3])
def test_implicit_gradient_is_the_dense_one(steps, pull_back, mapping):
    """(I + H/λ)⁻¹ g with the whole Hessian, at the weights where the inner loop happened to stop."""
    learner, batch = (
        _implicit(mapping, inner_steps=steps, pull_back=pull_back, strength=4.0, cg_steps=30),
        _regression(),
    )
    gradient, expected = _gradient(learner, batch, regression), []
    names = [(name, p.shape) for name, p in learner.net.named_parameters()]

    def loss(flat: Tensor, x: Tensor, y: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for _, shape in names])
        params = {name: part.view(shape) for (name, shape), part in zip(names, parts, strict=True)}
        return F.mse_loss(functional_call(learner.net, params, (x,)), y)

    for (support_x, support_y), (query_x, query_y) in _singly(batch):
        theta = nn.utils.parameters_to_vector(learner.parameters()).detach()
        phi = theta
        for _ in range(steps):
            proximal = 4.0 * (phi - theta) if pull_back is None else 0.0
            phi = phi - 0.2 * (torch.func.grad(loss)(phi, support_x, support_y) + proximal)
        if pull_back is not None:
            phi = theta + 0.6 * (phi - theta)
        matrix = torch.eye(len(phi), dtype=phi.dtype) + jacrev(jacrev(loss))(phi, support_x, support_y) / 4.0
        assert torch.linalg.eigvalsh(matrix).min() > 0
        expected.append(torch.linalg.solve(matrix, torch.func.grad(loss)(phi, query_x, query_y)))
    assert _relative(gradient, torch.stack(expected).mean(0)) < 1e-8


def test_in_evaluation_nothing_is_pulled_back():
    learner, batch = _implicit(pull_back=0.2).eval(), _regression()
    plain = MAML(learner.net, inner_lr=0.2, inner_steps=3, loss_fn=mse).eval()
    torch.testing.assert_close(learner(batch), plain(batch))
    assert not torch.allclose(learner.train()(batch), plain(batch))


@pytest.mark.slow
def test_implicit_gradient_is_the_slope_where_the_inner_problem_is_solved(slopes):
    learner, batch = _implicit(inner_steps=400, cg_steps=30), _regression()
    gradient, directions = _gradient(learner, batch, regression), _directions(learner)
    assert _relative(directions @ gradient, slopes(learner, batch, directions, regression)) < 1e-6
    early = _implicit(inner_steps=1, cg_steps=30)
    gradient = _gradient(early, batch, regression)
    assert _relative(directions @ gradient, slopes(early, batch, directions, regression)) > 1e-3


def test_memory_does_not_grow_with_inner_steps():
    batch = sinusoid().sample(4, seeded(0))

    def peak(method, steps: int, **settings) -> int:
        learner = method(mlp(1, 40, 40, 1), inner_lr=0.01, inner_steps=steps, loss_fn=mse, **settings)
        learner.meta_backward(batch, regression)  # what is made once and kept is not counted
        return peak_memory(lambda: learner.meta_backward(batch, regression))

    assert peak(IMAML, 16) == peak(IMAML, 2)
    assert peak(MAML, 16) > 3 * peak(MAML, 2)


def test_peak_memory_is_the_worst_moment():
    def compute():
        a = torch.ones(1000, 250)  # 1 MB
        b = a + 1
        del a
        return b + 1

    assert 2_000_000 <= peak_memory(compute) < 2_010_000


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_eigenvalues():
    basis = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=seeded(0))).Q
    matrix = basis @ torch.diag(torch.tensor([1.0, 1, 4, 4, 9, 9], dtype=torch.float64)) @ basis.T
    b = torch.randn(6, dtype=torch.float64, generator=seeded(1))
    exact = torch.linalg.solve(matrix, b)

    def solved(steps: int) -> Tensor:
        start = {"a": b[:2], "b": b[2:]}

        def product(v):
            return dict(zip(("a", "b"), (matrix @ torch.cat([v["a"], v["b"]])).split([2, 4]), strict=True))

        return torch.cat(list(conjugate_gradients(product, start, steps).values()))

    assert _relative(solved(3), exact) < 1e-12 < 1e-3 < _relative(solved(2), exact)
    assert _relative(solved(50), exact) < 1e-12  # nothing is left to correct, and nothing breaks


def test_negative_curvature_falls_back_on_the_first_order():
    b = {"w": torch.tensor([1.0, 2.0])}
    assert torch.equal(conjugate_gradients(lambda v: {"w": -v["w"]}, b, 5)["w"], b["w"])
    zero = conjugate_gradients(lambda v: v, {"w": torch.zeros(2)}, 5)["w"]
    assert torch.equal(zero, torch.zeros(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": 0.0}, "strength must be positive, not 0.0"),
        ({"cg_steps": 0}, "cg_steps must be at least 1, not 0"),
        ({"pull_back": 1.0}, "pull_back must be at least 0 and less than 1, not 1.0"),
    ],
    ids=str,
)
def test_bad_implicit_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        _implicit(**settings)


# All of them learn.

_REGRESSORS = {
    "FOMAML": (lambda: MAML(mlp(1, 40, 40, 1), inner_lr=0.02, first_order=True, loss_fn=mse), {}),
    "Meta-SGD": (lambda: MetaSGD(mlp(1, 40, 40, 1), inner_lr=0.02, loss_fn=mse), {}),
    "BOIL": (lambda: BOIL(mlp(1, 40, 40, 1), inner_lr=0.02, loss_fn=mse), {}),
    "ANIL": (lambda: ANIL(mlp(1, 40, 40, 1), inner_lr=0.02, inner_steps=3, loss_fn=mse), {}),
    "CAVIA": (lambda: CAVIA(mlp(5, 40, 40, 1), context=4, inner_lr=1.0, loss_fn=mse), {}),
    "MAML++": (lambda: MAMLPlusPlus(mlp(1, 40, 40, 1), inner_lr=0.02, inner_steps=2, loss_fn=mse), {}),
    "iMAML": (lambda: IMAML(mlp(1, 40, 40, 1), inner_lr=0.02, inner_steps=16, strength=0.5, loss_fn=mse), {}),
    "Reptile": (
        lambda: Reptile(mlp(1, 40, 40, 1), inner_lr=0.02, inner_steps=8, inner_optimizer="sgd", loss_fn=mse),
        {"optimizer": torch.optim.SGD, "outer_lr": 1.0, "decay": "linear"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", _REGRESSORS)
def test_learns_to_fit_sinusoids_better_than_their_mean(kind):
    """No single function does better than the mean over tasks; a learner must use the support set to beat it."""
    tasks = sinusoid(shots=10, queries=20)
    torch.manual_seed(0)
    build, outer = _REGRESSORS[kind]
    learner = build()
    settings = {"outer_lr": 3e-3} | outer
    meta_train(learner, tasks, iterations=300, meta_batch=10, progress=False, **settings)
    batch = tasks.sample(2_000, seeded(9))
    x, y = (part.flatten() for part in batch.query)
    features = torch.stack([x.sin(), x.cos()], -1)  # the mean over amplitudes and phases lies in their span
    fit = torch.linalg.lstsq(features, y[:, None]).solution
    best_single = F.mse_loss(features @ fit, y[:, None]).item()
    score = evaluate(learner, tasks, episodes=300, seed=1)
    assert score.mean + score.ci95 < 0.85 * best_single


@pytest.mark.slow
def test_protomaml_learns_new_classes():
    generator = seeded(0)
    centres = torch.zeros(60, 1, 16)
    centres[..., :4] = 3 * torch.randn(60, 1, 4, generator=generator)
    noise = torch.randn(60, 20, 16, generator=generator) * torch.tensor([0.5] * 4 + [3.0] * 12)
    data = ClassificationTasks(
        (centres + noise).flatten(0, 1), torch.arange(60).repeat_interleave(20), ways=5, shots=1, queries=5
    )
    train, _, test = data.split_classes((0.5, 0.2, 0.3))
    torch.manual_seed(0)
    learner = ProtoMAML(mlp(16, 32, 8), inner_lr=0.01)
    before = evaluate(learner, test, episodes=200)
    meta_train(learner, train, iterations=200, meta_batch=8, outer_lr=3e-3, progress=False)
    after = evaluate(learner, test, episodes=200)
    assert after.mean - after.ci95 > before.mean + before.ci95 + 0.15
