"""Attacks: exact where the smallest change is known, inside their bounds everywhere, and never a help."""

import copy
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mlcore import MAML, ClassificationTasks, Examples, ProtoNet, Ridge, Task, evaluate, meta_train, rows, seeded
from mlcore.adversaries import Adversarial, Noise, attack, linear_radius
from mlcore.learner import Judged
from mlcore.learners.metric import class_means
from mlcore.objective import classification


def linear_learner(seed: int, ways: int = 2) -> tuple[ProtoNet, Task]:
    """Class means on a linear map of 12 pixels, and a task whose pixels are far from their range's ends."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).double()
    x = 0.5 + 0.2 * (torch.rand(1, 10 * ways, 1, 3, 4).double() - 0.5)
    y = rows(torch.arange(ways).repeat(10)).double()[None]
    return ProtoNet(net), Task(
        Examples(x[:, : 2 * ways], y[:, : 2 * ways]), Examples(x[:, 2 * ways :], y[:, 2 * ways :])
    )


def radii(learner: ProtoNet, task: Task) -> torch.Tensor:
    weight = next(learner.net.parameters())
    with torch.no_grad():
        prototypes = class_means(task.support.x[0].flatten(1) @ weight.mT, task.support.y[0])
        return linear_radius(weight, prototypes, task.query.x[0], task.query.y[0])


def right(learner: ProtoNet, task: Task) -> torch.Tensor:
    with torch.no_grad():
        return learner.eval()(task).argmax(-1)[0] == task.query.y[0].argmax(-1)


@pytest.mark.parametrize("seed", range(3))
def test_linear_radius_is_where_the_decision_flips(seed):
    learner, task = linear_learner(seed)
    radius, at_first = radii(learner, task), right(learner, task)
    assert torch.equal(radius > 0, at_first) and at_first.any()
    for i in at_first.nonzero()[:, 0].tolist():
        alone = task._replace(query=Examples(task.query.x[:, i : i + 1], task.query.y[:, i : i + 1]))
        for factor, holds in ((0.999, True), (1.001, False)):
            eps = factor * radius[i].item()
            pgd = attack(learner, alone, classification, eps=eps, steps=10, generator=seeded(seed))
            fgsm = attack(learner, alone, classification, eps=eps, steps=1)
            assert right(learner, pgd).item() is right(learner, fgsm).item() is holds


def test_linear_radius_of_many_classes_is_to_the_nearest_boundary():
    learner, task = linear_learner(1, ways=4)
    weight, x, y = next(learner.net.parameters()).detach(), task.query.x[0], task.query.y[0]
    prototypes = class_means(task.support.x[0].flatten(1) @ weight.mT, task.support.y[0])

    def distance(x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ weight.mT - prototypes[:, None]).square().sum(-1)  # [ways, n]

    for i, radius in enumerate(linear_radius(weight, prototypes, x, y)):
        if radius < 0:
            continue
        truth = y[i].argmax()
        # By a second route: each rival's own worst corner of the ball.
        corners = [x[i] - radius * ((prototypes[truth] - c) @ weight).sign().view(x[i].shape) for c in prototypes]
        gaps = [distance(corner[None])[k, 0] - distance(corner[None])[truth, 0] for k, corner in enumerate(corners)]
        others = torch.stack([gap for k, gap in enumerate(gaps) if k != truth])
        assert others.min().abs() < 1e-12 and (others > -1e-12).all()


@cache
def images() -> ClassificationTasks:
    """Eight noisy patterns of near-binary pixels."""
    generator = seeded(7)
    patterns = (torch.rand(8, 1, 1, 8, 8, generator=generator) > 0.5).float()
    x = (patterns + 0.4 * torch.randn(8, 8, 1, 8, 8, generator=generator)).clamp(0, 1)
    return ClassificationTasks(x.flatten(0, 1), torch.arange(8).repeat_interleave(8), ways=3, shots=1, queries=2)


def small_net(*head: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), *head)


LEARNERS = {
    "protonet": lambda: ProtoNet(small_net()),
    "ridge": lambda: Ridge(small_net()),
    "maml": lambda: MAML(small_net(nn.Linear(64, 3)), inner_lr=0.5),
}


def made(name: str) -> ProtoNet | Ridge | MAML:
    torch.manual_seed(0)
    return LEARNERS[name]()


@settings(deadline=None, max_examples=8)
@given(
    eps=st.floats(0, 1),
    steps=st.integers(1, 3),
    half=st.sampled_from(["query", "support"]),
    start=st.sampled_from([None, 0, 1]),
    name=st.sampled_from([*LEARNERS]),
)
def test_attacks_stay_in_the_ball_and_in_the_pixel_range(eps, steps, half, start, name):
    task = images().sample(2, seeded(1))
    generator = None if start is None else seeded(start)
    found = attack(
        made(name), task, classification, eps=eps, steps=steps, half=half, rows=slice(1, 3), generator=generator
    )
    x, clean = getattr(found, half).x, getattr(task, half).x
    assert x.min() >= 0 and x.max() <= 1 and (x - clean).abs().max() <= eps + 1e-6
    assert torch.equal(x[:, :1], clean[:, :1]) and torch.equal(x[:, 3:], clean[:, 3:])
    other = "support" if half == "query" else "query"
    assert getattr(found, other) is getattr(task, other)


@pytest.mark.parametrize("name", LEARNERS)
def test_without_epsilon_training_and_scores_are_those_of_the_learner(name):
    plain, wrapped = made(name), Adversarial(made(name), eps=0.0, steps=2)
    training = {"iterations": 2, "meta_batch": 2, "seed": 3, "progress": False}
    one, other = (meta_train(learner, images(), **training) for learner in (plain, wrapped))
    assert one.loss == other.loss
    for name, value in plain.state_dict().items():
        assert torch.equal(value, wrapped.state_dict()[f"learner.{name}"])
    scores = [evaluate(learner, images(), episodes=4, progress=False).per_task for learner in (plain, wrapped)]
    assert torch.equal(*scores)


@pytest.mark.parametrize("name", LEARNERS)
def test_an_attack_never_helps_and_leaves_the_learner_as_it_was(name):
    learner = made(name)
    meta_train(learner, images(), iterations=5, meta_batch=4, outer_lr=1e-2, progress=False)
    before = copy.deepcopy(learner.state_dict())
    clean = evaluate(learner, images(), episodes=12, progress=False).per_task
    for eps in (0.01, 0.3):
        robust = evaluate(Adversarial(learner, eps=eps, steps=3), images(), episodes=12, progress=False).per_task
        assert (robust <= clean).all()
    assert robust.mean() < clean.mean()
    assert learner.training and all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_more_steps_find_a_larger_loss():
    learner = made("protonet")
    meta_train(learner, images(), iterations=20, meta_batch=4, outer_lr=1e-2, progress=False)
    task = images().sample(16, seeded(5))

    def judged(task: Task) -> Judged:
        return learner.eval().judged(task, classification)

    found = [judged(attack(learner, task, classification, eps=0.2, steps=steps)) for steps in (1, 4, 16)]
    accuracies = [judged(task).scores["accuracy"].mean(), *(f.scores["accuracy"].mean() for f in found)]
    assert accuracies[0] > accuracies[1] > accuracies[2] >= accuracies[3]
    wider = [judged(attack(learner, task, classification, eps=eps, steps=8)).losses.mean() for eps in (0.05, 0.1, 0.3)]
    assert judged(task).losses.mean() < wider[0] < wider[1] < wider[2]


def test_poison_follows_the_gradient_through_the_class_means():
    """To first order in a support image of class a: s falls by (2/K) (z - c_a)·A δ for a query of that class."""
    learner, task = linear_learner(2)
    weight, eps = next(learner.net.parameters()).detach(), 1e-7
    one = Task(task.support, Examples(task.query.x[:, :1], task.query.y[:, :1]))  # the first query is of class 0
    poisoned = attack(learner, one, classification, eps=eps, steps=1, half="support", rows=slice(0, 1))

    def embed(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ weight.mT

    prototypes = class_means(embed(one.support.x[0]), one.support.y[0])
    slope = (embed(one.query.x[0]) - prototypes[0]) @ weight  # of the logit of class 0, times K / 2
    change = (poisoned.support.x - one.support.x)[0]
    assert torch.equal(change[0].flatten().sign(), -slope[0].sign()) and not change[1:].any()


def test_poison_goes_through_mamls_step():
    """The first step on a support image has the signs of finite differences of the loss after adaptation."""
    learner, eps = made("maml").double(), 1e-7
    grey = images().sample(1, seeded(2)).each(lambda tensor: 0.2 + 0.6 * tensor.double())
    task = grey._replace(
        support=Examples(grey.support.x, grey.support.y.round()), query=Examples(grey.query.x, grey.query.y.round())
    )
    found = attack(learner, task, classification, eps=eps, steps=1, half="support", rows=slice(0, 1))
    signs = (found.support.x - task.support.x)[0, 0, 0].sign()
    for i, j in ((0, 0), (3, 4), (6, 2)):
        losses = []
        for step in (1e-4, -1e-4):
            x = task.support.x.clone()
            x[0, 0, 0, i, j] += step
            moved = task._replace(support=Examples(x, task.support.y))
            with torch.no_grad():
                losses.append(learner.eval().judged(moved, classification).losses.item())
        assert abs(losses[0] - losses[1]) > 1e-9 and signs[i, j] == (1 if losses[0] > losses[1] else -1)


def test_adversarial_training_moves_the_weights_of_the_learner_it_holds():
    learner = made("protonet")
    before = copy.deepcopy(learner.state_dict())
    both = Adversarial(learner, eps=0.1, steps=1, halves=("support", "query"))
    meta_train(both, images(), iterations=1, meta_batch=2, progress=False)
    moved = [name for name, value in learner.state_dict().items() if not torch.equal(value, before[name])]
    assert any("running" in name for name in moved) and any("weight" in name for name in moved)
    assert Adversarial(both, eps=0.3, steps=1).learner is learner


def test_noise_stays_in_the_range_and_is_for_training_alone():
    x = torch.rand(5, 1, 4, 4)
    noisy = Noise(0.2)(x)
    assert 0.1 < (noisy - x).abs().max() <= 0.2 + 1e-6 and noisy.min() >= 0 and noisy.max() <= 1
    assert torch.equal(Noise(0.2).eval()(x), x)


def test_errors_name_the_value_and_the_fix():
    task, learner = images().sample(1, seeded(0)), made("protonet")
    with pytest.raises(ValueError, match=r"eps=-0\.1 must not be negative"):
        attack(learner, task, classification, eps=-0.1, steps=3)
    with pytest.raises(ValueError, match="steps=0 must be at least 1; for no attack set eps=0"):
        Adversarial(learner, eps=0.1, steps=0)
    with pytest.raises(ValueError, match="there is no half 'both' of a task to attack; choose 'query' or 'support'"):
        Adversarial(learner, eps=0.1, steps=1, halves=("both",))  # pyright: ignore[reportArgumentType]
    bright = task.each(lambda tensor: tensor * 255)
    with pytest.raises(ValueError, match=r"inputs lie between 0 and 255, but must be pixels in \[0, 1\]; rescale"):
        attack(learner, bright, classification, eps=0.1, steps=1)


class Threshold(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 0.5).to(x)


def test_a_layer_without_a_gradient_is_named_and_no_robustness():
    learner = ProtoNet(nn.Sequential(Threshold(), small_net()))
    with pytest.raises(ValueError, match=r"no gradient reaches the pixels.*let it through"):
        attack(learner, images().sample(1, seeded(0)), classification, eps=0.1, steps=1)
