"""Kinds of meta-learning that the package has no learner for, each in a few lines in its words, and each learns."""

import math
from collections.abc import Callable
from functools import partial
from itertools import repeat

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from mlcore import MAML, ClassificationTasks, Learner, Metric, Objective, ProtoNet, Score, evaluate, meta_train, mlp
from mlcore.datasets import sinusoid
from mlcore.learners.metric import squared_distances
from mlcore.objective import hits, mse
from mlcore.tasks import Examples, Task, Tasks, rows, seeded

pytestmark = pytest.mark.slow


class Drawn(Tasks):
    """A distribution from a function of a number of tasks and a generator."""

    def __init__(self, draw: Callable[[int, torch.Generator], Task], objective: Objective) -> None:
        self.draw, self.objective = draw, objective

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        return self.draw(n_tasks, generator)


def learns(build: Callable[[], Learner], train: Tasks, test: Tasks | None = None, **training) -> Score:
    """Train, and see that the score is better by more than chance; the score after."""
    torch.manual_seed(0)
    learner, test = build(), train if test is None else test
    before = evaluate(learner, test, episodes=100, progress=False)
    meta_train(learner, train, **{"meta_batch": 16, "outer_lr": 3e-3, "progress": False} | training)
    after = evaluate(learner, test, episodes=100, progress=False)
    gain = (after.per_task - before.per_task).reshape(100, -1).mean(1)
    gain = gain if after.metrics[after.metric].higher_is_better else -gain
    assert gain.mean() > 4 * gain.std() / 10, f"{before} before, {after} after"  # four standard errors
    return after


def clusters() -> tuple[ClassificationTasks, ClassificationTasks]:
    """Classes that differ in 4 of 16 features, and noise in the others; 40 to train on, 20 to test."""
    labels = torch.arange(60).repeat_interleave(20)
    centres = F.pad(3 * torch.randn(60, 4, generator=seeded(0)), (0, 12))
    noise = torch.tensor([0.5] * 4 + [3.0] * 12) * torch.randn(1200, 16, generator=seeded(1))
    train, test = ClassificationTasks(centres[labels] + noise, labels, shots=2, queries=5).split_classes((2 / 3, 1 / 3))
    return train, test


# Few-shot classification, by comparison and by gradient steps.


@pytest.mark.parametrize(
    "build", [lambda: ProtoNet(mlp(16, 32, 16)), lambda: MAML(mlp(16, 32, 5), inner_lr=0.5)], ids=["protonet", "maml"]
)
def test_few_shot_classification(build):
    assert learns(build, *clusters(), iterations=100).mean > 0.6


# Conditional and latent neural processes (Garnelo et al., 2018, a and b): a prediction is a distribution.


class NeuralProcess(Learner):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = mlp(2, 64, 64, 64), mlp(65, 64, 64, 2)

    def update(self, state, data):
        return self.encoder(torch.cat([data.x, data.y], -1)).mean(0)

    def predict(self, state, x):
        mean, width = self.decoder(torch.cat([x, state.expand(len(x), -1)], -1)).chunk(2, -1)
        return mean, 0.1 + 0.9 * F.softplus(width)


class LatentNeuralProcess(NeuralProcess):
    def __init__(self):
        super().__init__()
        self.posterior = nn.Linear(64, 128)

    def latent(self, data):
        mean, width = self.posterior(super().update((), data)).chunk(2, -1)
        return mean, 0.1 + 0.9 * width.sigmoid()

    def update(self, state, data):
        return self.latent(data)

    def predict(self, state, x):
        return super().predict(state[0], x)

    def loss(self, state, outputs, query, objective):
        """Minus the evidence lower bound: the latent is drawn from what the queries say, too."""
        (mean0, width0), (mean1, width1) = state, self.latent(query)
        drawn = mean1 + width1 * torch.randn_like(width1)
        divergence = (width1 / width0).square() / 2 + ((mean1 - mean0) / width0).square() / 2 - 0.5
        divergence = (divergence + (width0 / width1).log()).sum()
        return objective.loss(super().predict(drawn, query.x), query.y) + divergence / len(query.x)


def nll(outputs: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    mean, width = outputs
    return (((y - mean) / width).square() / 2 + width.log() + math.log(2 * math.pi) / 2).mean()


def inside(outputs: tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    mean, width = outputs
    return ((y - mean).abs() < 1.96 * width).to(y.dtype).mean()


@pytest.mark.parametrize("build", [NeuralProcess, LatentNeuralProcess])
def test_neural_processes(build):
    tasks = sinusoid(shots=(5, 15), queries=20)
    tasks.objective = Objective(nll, {"nll": Metric(nll, False, False), "inside": Metric(inside)})
    after = learns(build, tasks, iterations=150, outer_lr=1e-3)
    assert 0.8 < after["inside"].mean <= 1


# Memories: one that is written to, example by example; and one that is the sequence so far.


class WrittenMemory(Learner):
    """Fast weights with the delta rule (Schlag et al., 2021)."""

    def __init__(self, ways=5):
        super().__init__()
        self.ways, self.net, self.key, self.rate = ways, mlp(16, 32, 32), nn.Linear(32, 32), nn.Linear(32, 1)

    def begin(self):
        return self.key.weight.new_zeros(32, self.ways)

    def stream(self, support):
        return (Examples(x, y) for x, y in zip(support.x, support.y, strict=True))

    def update(self, state, data):
        z = self.net(data.x)
        key = F.normalize(self.key(z), dim=-1)
        return state + self.rate(z).sigmoid() * torch.outer(key, data.y - key @ state)

    def predict(self, state, x):
        return 5 * F.normalize(self.key(self.net(x)), dim=-1) @ state


class Attention(Learner):
    """Keys and values of all examples, as in SNAIL (Mishra et al., 2018)."""

    def __init__(self, ways=5):
        super().__init__()
        self.net, self.key, self.value = mlp(16, 32, 32), nn.Linear(32, 32), nn.Linear(32 + ways, 32)
        self.out = nn.Linear(64, ways)

    def update(self, state, data):
        z = self.net(data.x)
        return self.key(z), self.value(torch.cat([z, data.y], -1))

    def predict(self, state, x):
        (keys, values), z = state, self.net(x)
        return self.out(torch.cat([z, (self.key(z) @ keys.mT).softmax(-1) @ values], -1))


@pytest.mark.parametrize("build", [WrittenMemory, Attention])
def test_memories(build):
    assert learns(build, *clusters(), iterations=150).mean > 0.4


# The support set is an environment (Finn et al., 2017, section 5.3): walk to a hidden goal in the plane.


class PolicyGradient(MAML):
    walkers, steps_of_a_walk, spread = 20, 10, 0.3

    def __init__(self):
        super().__init__(mlp(2, 32, 2, activation=nn.Tanh), inner_lr=0.5, inner_steps=2)

    def walk(self, params, goal):
        """Log-probabilities of the actions, and rewards: [steps, walkers]."""
        place, log_probabilities, rewards = goal.new_zeros(self.walkers, 2), [], []
        for _ in range(self.steps_of_a_walk):
            mean = functional_call(self.net, params, (place,))
            action = (mean + self.spread * torch.randn_like(place)).detach()
            log_probabilities.append(-(action - mean).square().sum(-1) / (2 * self.spread**2))
            place = place + 0.3 * action.clamp(-1, 1)
            rewards.append(-(place - goal).square().sum(-1))
        return torch.stack(log_probabilities), torch.stack(rewards)

    def support_loss(self, state, data):
        log_probabilities, rewards = self.walk(state, data.x)
        to_come = rewards.flip(0).cumsum(0).flip(0)
        return -(log_probabilities * (to_come - to_come.mean(1, keepdim=True))).mean() / 10

    def predict(self, state, x):
        return self.walk(state, x)[1].sum(0)

    def loss(self, state, outputs, query, objective):
        return self.support_loss(state, query)


def goals(n_tasks: int, generator: torch.Generator) -> Task:
    angle = 2 * math.pi * torch.rand(n_tasks, 1, generator=generator)
    goal = Examples(torch.cat([angle.cos(), angle.sin()], -1))
    return Task(goal, goal)


def test_the_support_set_may_be_an_environment():
    returns = Metric(lambda outputs, y: outputs.mean(), percent=False)
    tasks = Drawn(goals, Objective(lambda outputs, y: -outputs.mean(), {"return": returns}))
    learns(PolicyGradient, tasks, iterations=30, meta_batch=20, outer_lr=1e-2)


# Texts: an input has several parts, token ids and a mask.


class BagOfWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(40, 32)

    def forward(self, x):
        ids, mask = x
        return (self.words(ids) * mask[..., None]).sum(-2) / mask.sum(-1, keepdim=True)


def texts(n_tasks: int, generator: torch.Generator) -> Task:
    """Two texts of up to 12 words to learn each of 5 authors from, and 5 to recognise."""
    own, common = 2 * torch.randn(60, 20, generator=seeded(3)), torch.full((60, 20), 2.0)
    chosen = torch.rand(n_tasks, 60, generator=generator).topk(5).indices
    authors = torch.cat([own, common], 1).softmax(-1)[chosen]
    halves = []
    for count in (2, 5):
        labels = torch.arange(5).repeat(count)
        ids = torch.multinomial(authors[:, labels].flatten(0, 1), 12, replacement=True, generator=generator)
        lengths = torch.randint(4, 13, (n_tasks, 5 * count, 1), generator=generator)
        mask = (torch.arange(12) < lengths).float()
        halves.append(Examples((ids.view(n_tasks, -1, 12), mask), rows(labels).expand(n_tasks, -1, -1)))
    return Task(*halves)


def test_an_input_may_have_several_parts():
    tasks = Drawn(texts, ClassificationTasks.objective)
    learns(lambda: ProtoNet(BagOfWords()), tasks, iterations=60)
    learner = ProtoNet(BagOfWords())
    task = tasks.sample(1, seeded(0))
    ids, mask = (part[0] for part in task.support.x)
    assert learner.fit((ids, mask), task.support.y[0].argmax(-1)).outputs((ids, mask)).shape == (10, 5)


# Segmentation: targets are masks, and the best weights are chosen by the intersection over union.


class PixelPrototypes(Learner):
    """One prototype of the foreground, one of the background, as in PANet (Wang et al., 2019)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1))

    def update(self, state, data):
        weights = torch.stack([data.y, 1 - data.y])
        return torch.einsum("knhw,nchw->kc", weights, self.net(data.x)) / weights.sum((1, 2, 3))[:, None]

    def predict(self, state, x):
        z = F.normalize(self.net(x), dim=1)
        front, back = torch.einsum("nchw,kc->knhw", z, F.normalize(state, dim=-1))
        return 5 * (front - back)


def discs(n_tasks: int, generator: torch.Generator) -> Task:
    """Two images of discs of one hue to learn from, three to segment."""
    across = torch.arange(16)
    centre = torch.randint(4, 12, (n_tasks, 5, 2, 1, 1), generator=generator)
    mask = ((across[:, None] - centre[:, :, 0]).square() + (across - centre[:, :, 1]).square() < 10).float()
    hue = torch.randn(n_tasks, 1, 3, 1, 1, generator=generator)
    x = mask[:, :, None] * hue + 0.3 * torch.randn(n_tasks, 5, 3, 16, 16, generator=generator)
    return Task(Examples(x[:, :2], mask[:, :2]), Examples(x[:, 2:], mask[:, 2:]))


def iou(outputs: Tensor, y: Tensor) -> Tensor:
    predicted = (outputs > 0).to(y.dtype)
    both = (predicted * y).sum()
    return both / (predicted.sum() + y.sum() - both)


def test_segmentation_is_validated_by_the_intersection_over_union():
    tasks = Drawn(discs, Objective(F.binary_cross_entropy_with_logits, {"IoU": Metric(iou)}))
    learner = PixelPrototypes()
    history = meta_train(
        learner, tasks, iterations=4, meta_batch=2, val=tasks, val_every=2, val_episodes=4, progress=False
    )
    assert history.metric == "IoU" and max(history.val_mean) == history.val_mean[history.best_iteration // 2 - 1]
    after = learns(PixelPrototypes, tasks, iterations=60, meta_batch=8, val=tasks, val_every=30, val_episodes=20)
    assert str(after).endswith("% IOU (100 tasks)")


# A learned optimiser (Andrychowicz et al., 2016): the task is a problem, the state an iterate and a momentum.


class LearnedOptimiser(Learner):
    def __init__(self):
        super().__init__()
        self.net = mlp(2, 16, 2, activation=nn.Tanh)

    def begin(self):
        return torch.zeros(6), torch.zeros(6)

    def stream(self, support):
        return repeat(support, 10)

    def update(self, state, data):
        iterate, momentum = state
        gradient = grad(lambda x: mse(data.x @ x, data.y))(iterate)
        step, kept = self.net(torch.stack([gradient, momentum], -1)).unbind(-1)
        return iterate - 0.1 * (gradient + step + momentum), 0.9 * momentum + 0.1 * gradient + 0.05 * kept

    def predict(self, state, x):
        return x @ state[0]


def least_squares(n_tasks: int, generator: torch.Generator) -> Task:
    problem = Examples(torch.randn(n_tasks, 8, 6, generator=generator), torch.randn(n_tasks, 8, generator=generator))
    return Task(problem, problem)


def test_a_task_may_be_a_problem_to_solve():
    tasks = Drawn(least_squares, Objective(mse, {"residual": Metric(mse, False, False)}))
    learns(LearnedOptimiser, tasks, iterations=80)


# A stream of sessions, each with a new class; scored after each on the classes seen so far (Tao et al., 2020).


class Incremental(ProtoNet):
    shots = 4

    def begin(self):
        return ()

    def stream(self, support):
        portions = (part.split(self.shots) for part in support)
        return (Examples(x, y) for x, y in zip(*portions, strict=True))

    def update(self, state, data):
        """The prototypes so far, and that of the session's class."""
        return *state, data.x.mean(0)

    def predict(self, state, x):
        """Logits after each session: [sessions, n, classes]."""
        sessions = torch.arange(len(state))
        unseen = (sessions > sessions[:, None])[:, None]
        return torch.where(unseen, -1e9, -squared_distances(x, torch.stack(state)))


def sessions(episodes: ClassificationTasks, n_tasks: int, generator: torch.Generator) -> Task:
    """Episodes whose support sets come class after class."""
    support, query = episodes.sample(n_tasks, generator)
    order = support.y.argmax(-1).argsort(dim=1, stable=True)[..., None]
    return Task(Examples(*(part.gather(1, order.expand_as(part)) for part in support)), query)


def after_each_session(outputs: Tensor, y: Tensor) -> Tensor:
    """The share of right answers among the queries of classes seen so far: [sessions]."""
    seen = (y.argmax(-1) <= torch.arange(len(outputs))[:, None]).to(y.dtype)
    right = torch.stack([hits(logits, y) for logits in outputs])
    return (right * seen).sum(1) / seen.sum(1)


def test_a_metric_may_have_a_time_dimension():
    def loss(outputs, y):
        return F.cross_entropy(outputs[-1], y)

    objective = Objective(loss, {"accuracy after session": Metric(after_each_session)})
    train, test = (Drawn(partial(sessions, part.replace(shots=Incremental.shots)), objective) for part in clusters())
    after = learns(lambda: Incremental(mlp(16, 32, 16)), train, test, iterations=60, meta_batch=8)
    in_time = after.values["accuracy after session"].mean(0)
    assert in_time.shape == (5,) and in_time[0] == 1 and (in_time.diff() < 0).all() and in_time[-1] > 0.6
