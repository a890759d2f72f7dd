"""Meta-transfer learning: the scaled and shifted family, its gradients, fine-tuning, and the hard-task meta-batch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torchvision.models import resnet18

import mlcore.distributed
from mlcore import (
    Baseline,
    ClassificationTasks,
    Examples,
    FineTune,
    HardTasks,
    MetaTransfer,
    SupervisedTasks,
    Task,
    Tasks,
    changeable,
    classification,
    conv4,
    evaluate,
    merged,
    meta_train,
    resnet12,
    seeded,
)
from mlcore.datasets import glyphs
from mlcore.nets import BatchNorm, statistics_from
from mlcore.objective import accuracy_by_class
from mlcore.tasks import failures

WAYS = 3


def _smooth(outputs: int = 5) -> nn.Sequential:
    """Smooth features of 7 × 7 images, with a norm that has nothing left at its default."""
    torch.manual_seed(0)
    norm = BatchNorm(2)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    for tensor in (norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    layers = [nn.Conv2d(1, 2, 3), norm, nn.Softplus(), nn.Conv2d(2, 2, 3, bias=False), nn.Softplus(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(18, outputs)).double()


def _resnet18() -> nn.Module:
    net = resnet18()
    net.fc = nn.Identity()
    return net


BACKBONES = {
    "conv4": (lambda: conv4(3, filters=8), 8),
    "resnet12": (lambda: resnet12(filters=(4, 8, 16, 32)), 32),
    "torchvision's ResNet-18": (_resnet18, 512),
}


def _backbone(name: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    build, features = BACKBONES[name]
    net = build()
    net(torch.randn(16, 3, 32, 32))  # running statistics of their own
    return net.eval(), features


def _batch(n_tasks: int = 2, seed: int = 0, size: tuple[int, ...] = (1, 7, 7), dtype=torch.float64) -> Task:
    x = torch.randn(n_tasks, 12, *size, dtype=dtype, generator=seeded(seed))
    y = torch.eye(WAYS, dtype=dtype).repeat(4, 1).expand(n_tasks, -1, -1)
    return Task(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


def _one(batch: Task, number: int = 0) -> Task:
    """A task of a batch, without the tasks dimension."""
    return batch.each(lambda tensor: tensor[number])


def _disturb(learner: nn.Module) -> None:
    """Move all that may change, so that nothing is at its start."""
    for parameter in learner.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=seeded(1), dtype=parameter.dtype)


@pytest.mark.parametrize("name", BACKBONES)
def test_scale_one_and_shift_zero_are_the_pretrained_network_to_the_bit(name):
    net, _ = _backbone(name)
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(changeable(net, "scale_shift")(x), net(x))


@pytest.mark.parametrize("name", BACKBONES)
def test_one_scale_a_kernel_and_one_shift_a_filter(name):
    net, _ = _backbone(name)
    convolutions = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    kernels = sum(conv.in_channels * conv.out_channels for conv in convolutions)
    filters = sum(conv.out_channels for conv in convolutions)
    changing = [p for p in changeable(net, "scale_shift").parameters() if p.requires_grad]
    assert sum(p.numel() for p in changing) == kernels + filters
    assert not any(p.requires_grad for p in changeable(net, "nothing").parameters())
    assert all(p.requires_grad for p in changeable(net, "weights").parameters())


def test_scaling_and_shifting_is_what_the_equation_says():
    conv = nn.Conv2d(3, 5, 3, stride=2, padding=1).double()
    ours = changeable(conv, "scale_shift")
    _disturb(ours)
    scale, shift = ours.parametrizations.weight[0].scale, ours.parametrizations.bias[0].shift
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=seeded(2))
    kernels = [F.conv2d(x[:, [c]], conv.weight[:, [c]], stride=2, padding=1) * scale[:, c, 0, 0].view(1, -1, 1, 1)
               for c in range(3)]  # fmt: skip
    expected = sum(kernels) + (conv.bias + shift).view(1, -1, 1, 1)
    torch.testing.assert_close(ours(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", BACKBONES)
def test_merged_convolutions_are_plain_and_the_same_function(name):
    net, _ = _backbone(name)
    ours = changeable(net, "scale_shift")
    _disturb(ours)
    plain, x = merged(ours), torch.randn(4, 3, 32, 32)
    assert not any("parametrizations" in key for key in plain.state_dict())
    with torch.no_grad():
        before, after = ours(x), plain(x)
        assert not torch.allclose(after, net(x), rtol=1e-3)
        assert (after - before).abs().max() <= 1e-6 * before.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("change", ["nothing", "weights", "scale_shift"])
def test_meta_training_moves_what_may_change_and_nothing_else_by_one_bit(name, change):
    net, features = _backbone(name)
    learner = MetaTransfer(net, ways=WAYS, features=features, change=change, inner_steps=2)
    before = copy.deepcopy(learner.state_dict())
    free = {n for n, p in learner.named_parameters() if p.requires_grad}

    class Images(Tasks):
        objective = classification

        def sample(self, n_tasks, generator):
            return _batch(n_tasks, seed=generator.initial_seed() % 1000, size=(3, 32, 32), dtype=torch.float32)

    meta_train(learner, Images(), iterations=2, meta_batch=2, outer_lr=1e-2, progress=False)
    for key, value in learner.state_dict().items():
        assert torch.equal(value, before[key]) == (key not in free), key


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", ["running", "transductive"])
@pytest.mark.parametrize("change", ["nothing", "weights", "scale_shift"])
def test_the_meta_gradient_is_that_of_finite_differences(change, batch_norm):
    settings = {"change": change, "batch_norm": batch_norm, "inner_lr": 0.3, "inner_steps": 3}
    learner = MetaTransfer(_smooth(), ways=WAYS, features=5, **settings).double()
    _disturb(learner)
    free = {n: p.detach().requires_grad_() for n, p in learner.named_parameters() if p.requires_grad}
    assert len(free) == {"nothing": 2, "weights": 9, "scale_shift": 6}[change]
    batch = _batch()

    def loss(*values):
        outputs = functional_call(learner, dict(zip(free, values, strict=True)), (batch,))
        return F.cross_entropy(outputs.flatten(0, 1), batch.query.y.flatten(0, 1))

    torch.autograd.gradcheck(loss, tuple(free.values()), eps=1e-6, atol=1e-8, rtol=1e-5)


def test_one_step_from_an_empty_head_is_the_closed_form():
    learner = MetaTransfer(_smooth(), ways=WAYS, features=5, change="nothing", inner_lr=0.3, inner_steps=1).double()
    z, y = torch.randn(6, 5, dtype=torch.float64), torch.eye(WAYS).double().repeat(2, 1)
    head = learner.update(learner.begin(), Examples(z, y))  # the softmax of zeros is 1 / N everywhere
    torch.testing.assert_close(head["weight"], 0.3 * (y - 1 / WAYS).T @ z / 6)
    torch.testing.assert_close(head["bias"], 0.3 * (y - 1 / WAYS).mean(0))


def test_the_released_code_mirrors_the_support_set_in_evaluation_and_adds_the_losses():
    sizes = {"ways": WAYS, "features": 5, "change": "nothing", "batch_norm": "transductive"}
    learner = MetaTransfer(_smooth(), **sizes, inner_lr=0.1, inner_steps=2, test_steps=4, mirror=True).double()
    batch = _batch(1)
    support, query = _one(batch)
    weight, bias = (torch.zeros(WAYS, n, dtype=torch.float64, requires_grad=True) for n in (5, 1))
    with statistics_from("batch"):
        z, at = (learner.net(x).detach() for x in (torch.cat([support.x, support.x.flip(3)]), query.x))
    for _ in range(4):
        losses = F.cross_entropy(z @ weight.T + bias.T, support.y.repeat(2, 1), reduction="none")
        steps = torch.autograd.grad(losses.sum() / len(support.x), (weight, bias))
        weight, bias = weight - 0.1 * steps[0], bias - 0.1 * steps[1]
    with torch.no_grad():
        torch.testing.assert_close(learner.eval()(batch)[0], at @ weight.T + bias.T)
    plain = MetaTransfer(_smooth(), **sizes, inner_lr=0.1, inner_steps=2).double()
    torch.testing.assert_close(learner.train()(batch), plain(batch))  # in meta-training it does not


def test_mirror_images_take_part_whatever_normalises():
    x = torch.randn(60, 1, 7, 7, generator=seeded(0))
    tasks = ClassificationTasks(x, torch.arange(12).repeat(5), ways=3, shots=2, queries=2)
    settings = {"ways": 3, "features": 5, "change": "nothing", "inner_lr": 0.5, "inner_steps": 3}
    learner = MetaTransfer(_smooth().float(), **settings, mirror=True).eval()
    score = evaluate(learner, tasks, episodes=20)
    batch = tasks.numbered(range(20), seed=0)
    with torch.no_grad():
        outputs = learner(batch)
    right = (outputs.argmax(-1) == batch.query.y.argmax(-1)).double().mean(1)
    torch.testing.assert_close(score.per_task, right)


def test_a_random_head_is_glorots():
    torch.manual_seed(0)
    learner = MetaTransfer(conv4(filters=64), ways=5, features=64, random_head=True)
    assert learner.head["weight"].std().item() == pytest.approx((2 / 69) ** 0.5, rel=0.1)
    assert not learner.head["bias"].any()


def test_fine_tuning_the_head_alone_is_meta_transfer_before_any_training():
    sizes = {"ways": WAYS, "features": 5, "change": "nothing"}
    tuned = FineTune(_smooth(), **sizes, lr=0.3, steps=4).double().eval()
    transferred = MetaTransfer(_smooth(), **sizes, inner_lr=0.3, inner_steps=4).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(tuned(_batch()), transferred(_batch()), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("change", ["weights", "scale_shift"])
def test_fine_tuning_is_gradient_descent_on_the_support_set(change):
    learner = FineTune(_smooth(), ways=WAYS, features=5, change=change, lr=0.2, steps=3).double().eval()
    batch, twin = _batch(1), copy.deepcopy(learner.net).eval()
    before = copy.deepcopy(learner.state_dict())
    free = [p for p in twin.parameters() if p.requires_grad]
    descent = torch.optim.SGD(free, lr=0.2)
    support, query = _one(batch)
    with statistics_from("running"):
        for _ in range(3):
            descent.zero_grad()
            F.cross_entropy(twin(support.x), support.y).backward()
            descent.step()
        expected = twin(query.x).detach()
    with torch.no_grad():
        torch.testing.assert_close(learner(batch)[0], expected, rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[key]) for key, value in learner.state_dict().items())


def test_layers_limit_what_changes():
    net, _ = _backbone("resnet12")
    free = {n for n, p in changeable(net, "weights", layers=("block4",)).named_parameters() if p.requires_grad}
    assert free and all(name.startswith("block4.") for name in free)
    scaled = changeable(net, layers=("block3", "block4"))
    free = {name for name, p in scaled.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in free} == {"block3", "block4"}


def test_an_image_has_one_embedding_in_training_too():
    learner = MetaTransfer(_smooth(), ways=WAYS, features=5, inner_steps=2).double().train()
    batch = _batch()
    x = torch.cat([batch.query.x[:, :-1], 5 * batch.query.x[:, -1:]], 1)
    other = batch._replace(query=batch.query._replace(x=x))
    torch.testing.assert_close(learner(other)[:, :-1], learner(batch)[:, :-1], rtol=1e-10, atol=1e-10)
    for policy in ("transductive", "running"):  # named, a policy means in training what it means in evaluation
        torch.testing.assert_close(
            learner.train()(batch, batch_norm=policy), learner.eval()(batch, batch_norm=policy), rtol=1e-10, atol=1e-10
        )


@pytest.mark.slow
def test_it_learns_to_transfer():
    """Features pre-trained on some alphabets, scaled and shifted, know others better; the chance is 20 %."""
    train, _, test = glyphs(ways=5, shots=1, queries=5)
    torch.manual_seed(0)
    baseline = Baseline(conv4(1, filters=16), classes=len(train.classes), features=16)
    meta_train(baseline, SupervisedTasks(train, batch_size=64), iterations=150, meta_batch=1, progress=False)
    learner = MetaTransfer(baseline.net, ways=5, features=16, inner_lr=2.0, inner_steps=5)
    before = evaluate(learner, test, episodes=200)
    meta_train(learner, train, iterations=100, meta_batch=4, outer_lr=1e-2, progress=False)
    after = evaluate(learner, test, episodes=200)
    assert before.mean > 0.3
    assert after.mean - after.ci95 > before.mean + before.ci95


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: changeable(conv4(), "scale"), "change must be one of nothing, weights, scale_shift, not 'scale'"),
        (lambda: changeable(conv4(), layers=("layer4",)), "no module 'layer4'; at its top there are block1, block2"),
        (lambda: changeable(nn.Linear(2, 2)), "no nn.Conv2d to scale and shift"),
        (lambda: MetaTransfer(conv4(), ways=5, features=64, inner_lr=0), "inner_lr must be positive, not 0"),
        (lambda: MetaTransfer(conv4(), ways=5, features=64, batch_norm="batch"), "batch_norm must be one of .*'batch'"),
        (lambda: MetaTransfer(conv4(), ways=5, features=64, inner_steps=0), "inner_steps=0 .* must be at least 1"),
        (lambda: MetaTransfer(conv4(), ways=2, features=64)(_batch(size=(1, 28, 28), dtype=torch.float32)),
         r"gives outputs \[6, 2\] but the task needs \[6, 3\]"),
    ],
    ids=["change", "layer", "no convolution", "rate", "policy", "steps", "ways"],
)  # fmt: skip
def test_mistakes_are_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The hard-task meta-batch.


def _numbered(classes: int = 10, **sizes: int) -> ClassificationTasks:
    """Examples that are their class's number."""
    y = torch.arange(classes).repeat(6)
    return ClassificationTasks(y[:, None].float(), y, **({"ways": 3, "shots": 2, "queries": 2} | sizes))


def _answers(batch: Task, wrong: set[int]) -> torch.Tensor:
    """Logits that are right but for the queries of the classes given."""
    bad = torch.tensor([[int(x) in wrong for x in task[:, 0]] for task in batch.query.x])
    return torch.where(bad[..., None], batch.query.y.roll(1, -1), batch.query.y)


def _tell(hard: HardTasks, batch: Task, outputs: torch.Tensor) -> None:
    """Report the outputs on a batch, as training does."""
    metrics = hard.objective.metrics.items()
    tasks = list(zip(outputs, batch.query.y, strict=True))
    hard.feedback({name: torch.stack([metric.of(*task) for task in tasks]) for name, metric in metrics})


def _classes(batch: Task) -> set[int]:
    return set(batch.support.x.flatten().long().tolist())


def _in_order(task: Task) -> list[int]:
    """The classes of one task in the order drawn, which is that of their labels."""
    order = task.support.y.argmax(-1).argsort(stable=True)
    return task.support.x[order, 0].long().tolist()[::2]


def test_the_failure_is_the_class_of_lowest_accuracy():
    asked = torch.eye(3)[torch.tensor([[0, 0, 1, 1, 2, 2], [2, 1, 0, 2, 1, 0]])]
    said = torch.eye(3)[torch.tensor([[0, 0, 1, 2, 0, 1], [2, 1, 1, 2, 1, 2]])]
    assert failures(torch.stack([accuracy_by_class(*task) for task in zip(said, asked, strict=True)])).tolist() == [
        2,
        0,
    ]
    assert failures(torch.tensor([[0.5, 0.25, 0.25], [1, 1, 1]])).tolist() == [1, 0]  # the first of those that tie


def test_hard_tasks_are_made_of_exactly_the_classes_that_failed():
    hard, wrong = HardTasks(_numbered()), {1, 4, 7, 8}
    expected: set[int] = set()
    phases = []
    for i in range(60):
        was_hard = hard.hard
        batch = hard.sample(2, seeded(i))
        phases.append(was_hard)
        if was_hard:
            assert _classes(batch) <= expected and len(expected) >= 3
        else:
            if i and phases[-2]:
                expected = set()  # a new round
            for task in range(2):
                in_order = _in_order(_one(batch, task))
                # Where several fail, the first drawn; where none does, the first too, since all are perfect.
                expected.add(next((c for c in in_order if c in wrong), in_order[0]))
        _tell(hard, batch, _answers(batch, wrong))
    assert sum(phases) > 10
    # As many hard meta-batches as random ones in each round that is complete.
    rounds = "".join("h" if was_hard else "r" for was_hard in phases).replace("hr", "h r").split()
    assert all(part.count("h") == part.count("r") for part in rounds[:-1]) and len(rounds) > 3


def test_the_record_counts_failures_among_random_tasks():
    hard = HardTasks(_numbered())
    appearances, failed = torch.zeros(10, dtype=torch.int64), torch.zeros(10, dtype=torch.int64)
    for i in range(30):
        random = not hard.hard
        batch = hard.sample(1, seeded(i))
        if random:
            appearances[list(_classes(batch))] += 1
            failed[[7] if 7 in _classes(batch) else [_in_order(_one(batch))[0]]] += 1
        _tell(hard, batch, _answers(batch, {7}))
    assert torch.equal(hard.seen, appearances) and torch.equal(hard.failed, failed)
    assert hard.failed[7] == hard.seen[7] > 0


def test_a_pool_may_hold_more_classes_than_a_task():
    hard, seen = HardTasks(_numbered(), pool=8), set()
    for i in range(200):
        was_hard = hard.hard
        batch = hard.sample(2, seeded(i))
        if was_hard:
            seen |= _classes(batch)
        elif seen:
            break
        _tell(hard, batch, torch.randn(2, 6, 3, generator=seeded(i)))
    assert 8 <= len(seen) <= 9  # the last meta-batch of two tasks may bring one class too many


def test_training_on_hard_tasks_resumes_to_the_same_bits(tmp_path, monkeypatch):
    x = torch.randn(60, 1, 7, 7, generator=seeded(0))
    tasks = ClassificationTasks(x, torch.arange(12).repeat(5), ways=3, shots=2, queries=2)

    def learner():
        return MetaTransfer(_smooth().float(), ways=3, features=5, inner_steps=2)

    options = {"iterations": 20, "meta_batch": 2, "progress": False}
    whole, memory = learner(), HardTasks(tasks)
    meta_train(whole, memory, **options)
    assert memory.failed.sum() > 5
    step, path, steps = torch.optim.Adam.step, tmp_path / "run.pt", []

    def killed(self):
        steps.append(1)
        if len(steps) == 9:
            raise KeyboardInterrupt
        step(self)

    resumed = learner()
    monkeypatch.setattr(torch.optim.Adam, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        meta_train(resumed, HardTasks(tasks), **options, checkpoint=path, checkpoint_every=1)
    monkeypatch.undo()
    again = HardTasks(tasks)
    meta_train(resumed, again, **options, checkpoint=path)
    with pytest.raises(ValueError, match="was trained with hard tasks; go on as it began"):
        meta_train(learner(), tasks, **options, checkpoint=path)
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in resumed.state_dict().items())
    assert again.state_dict() == memory.state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HardTasks(_numbered(), pool=2), "pool=2 classes, but a hard task needs ways=3 of them"),
        (lambda: HardTasks(_numbered(), pool=11), "pool=11 classes, .* and there are 10"),
        (lambda: HardTasks(glyphs()[0].replace(within_groups=True)), "set within_groups=False"),
    ],
    ids=["too few", "too many", "groups"],
)
def test_impossible_pools_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr(mlcore.distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(mlcore.distributed.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(mlcore.distributed.dist, "get_world_size", lambda: 2)
    learner = MetaTransfer(_smooth().float(), ways=3, features=5)
    with pytest.raises(ValueError, match="train on one process, not 2"):
        meta_train(learner, HardTasks(_numbered()), iterations=1, progress=False)
