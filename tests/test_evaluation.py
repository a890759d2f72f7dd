"""A score is a mean and an interval over a list of tasks that a seed fixes."""

import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlcore import MAML, ClassificationTasks, Learner, Score, Task, conv4, evaluate, meta_train, mlp, seeded
from mlcore.datasets.sinusoid import sinusoid
from mlcore.evaluation import score_tasks


def _tasks() -> ClassificationTasks:
    x = torch.randn(40, 1, 16, 16, generator=seeded(0))
    return ClassificationTasks(x, torch.arange(8).repeat(5), ways=3, shots=1, queries=4)


def _learner(**options) -> MAML:
    torch.manual_seed(0)
    return MAML(conv4(outputs=3, filters=4, image_size=16), inner_lr=0.1, **options).double()


class Doubles:
    """A distribution in float64 that remembers how often it was asked."""

    def __init__(self, tasks):
        self.tasks, self.seeds = tasks, []

    def sample(self, n_tasks, generator):
        self.seeds.append(generator.initial_seed())
        assert n_tasks == 1
        batch = self.tasks.sample(n_tasks, generator)
        return Task(*(part.double() if part.is_floating_point() else part for part in batch))


def test_a_longer_list_begins_with_the_shorter():
    learner, tasks = _learner(), Doubles(_tasks())
    whole = evaluate(learner, tasks, episodes=70).per_task
    # 70 is more than are adapted at once, and 45 ends in the middle of such a group.
    assert torch.equal(evaluate(learner, tasks, episodes=45).per_task, whole[:45])
    assert len(whole.unique()) > 3
    assert len(set(tasks.seeds[:70])) == 70 and tasks.seeds[:45] == tasks.seeds[70:]


def test_the_seed_names_the_list():
    learner, tasks = _learner(), Doubles(_tasks())
    first, again, other = (evaluate(learner, tasks, episodes=20, seed=seed).per_task for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not set(tasks.seeds[:20]) & set(tasks.seeds[40:])


def test_every_learner_meets_the_same_tasks():
    tasks = Doubles(_tasks())
    evaluate(_learner(), tasks, episodes=20)
    evaluate(_learner(inner_steps=3, mapping="loop").train(), tasks, episodes=20, batch_norm="support")
    assert tasks.seeds[:20] == tasks.seeds[20:]


@pytest.mark.parametrize("batch_norm", ["transductive", "support", "running", "one_query"])
def test_scores_are_those_of_each_task_alone(batch_norm):
    learner, tasks = _learner(test_steps=2), Doubles(_tasks())
    score = evaluate(learner, tasks, episodes=40, batch_norm=batch_norm)
    learner.eval()
    for seed, value in zip(list(tasks.seeds), score.per_task, strict=True):
        task = tasks.sample(1, torch.Generator().manual_seed(seed))
        hits = learner(task, batch_norm=batch_norm)[0].argmax(-1) == task.query_y[0]
        assert value.item() == hits.sum().item() / 12


@pytest.mark.parametrize("n", [2, 3, 600])
def test_mean_and_interval(n):
    values = torch.rand(n, dtype=torch.float64, generator=seeded(n))
    score, array = Score(values, "accuracy"), values.numpy()
    assert score.mean == pytest.approx(np.mean(array), rel=1e-14)
    assert score.ci95 == pytest.approx(1.96 * np.std(array, ddof=1) / math.sqrt(n), rel=1e-14)


def test_printed():
    values = torch.tensor([0.9, 1.0, 0.95, 0.85], dtype=torch.float64)
    assert str(Score(values, "accuracy")) == "92.50 ± 6.33 % (4 tasks)"
    assert str(Score(values, "mse")) == "0.925 ± 0.063 MSE (4 tasks)"
    assert str(Score(values, "mse", diverged=2)) == "0.925 ± 0.063 MSE (4 tasks, 2 diverged)"


def test_accuracy_and_error_by_hand():
    outputs = torch.tensor([[[2.0, 1.0], [0.0, 1.0]], [[3.0, 1.0], [4.0, 1.0]]])
    values, metric = score_tasks(outputs, torch.tensor([[0, 1], [1, 0]]))
    assert (values.tolist(), metric) == ([1.0, 0.5], "accuracy")
    values, metric = score_tasks(outputs, torch.zeros(2, 2, 2))
    assert (values.tolist(), metric) == ([6 / 4, 27 / 4], "mse")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_that_is_not_a_number_is_wrong(bad):
    outputs = torch.tensor([[[bad, 1.0], [1.0, bad], [1.0, 0.0], [1.0, 0.0]]])
    values, _ = score_tasks(outputs, torch.tensor([[0, 0, 0, 1]]))
    assert values.tolist() == [0.25]


class Exploding(nn.Module):
    """Divides by zero for images whose first pixel is below -1."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(256, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.linear(x) / (x[:, :1] > -1).double()


def test_tasks_that_diverge_are_counted():
    learner, tasks = MAML(Exploding(), inner_lr=0.1, inner_steps=0).double(), Doubles(_tasks())
    score = evaluate(learner, tasks, episodes=40)
    batches = [tasks.sample(1, torch.Generator().manual_seed(seed)) for seed in tasks.seeds[:40]]
    expected = [bool((batch.query_x[..., 0, 0] <= -1).any()) for batch in batches]
    assert 0 < score.diverged == sum(expected) < 40
    assert evaluate(_learner(), tasks, episodes=3).diverged == 0


def test_regression_is_scored_by_squared_error():
    torch.manual_seed(0)
    learner, tasks = MAML(mlp(1, 8, 1), inner_lr=0.01, loss_fn=F.mse_loss).double(), Doubles(sinusoid(queries=7))
    score = evaluate(learner, tasks, episodes=33)
    assert score.metric == "mse"
    for seed, value in zip(list(tasks.seeds), score.per_task, strict=True):
        task = tasks.sample(1, torch.Generator().manual_seed(seed))
        expected = (learner(task) - task.query_y).square().mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_norm", ["transductive", "support", "running", "one_query"])
def test_the_learner_is_left_as_it_was(training, batch_norm):
    learner = _learner().train(training)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    score = evaluate(learner, Doubles(_tasks()), episodes=3, batch_norm=batch_norm)
    assert all(module.training is training for module in learner.modules())
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    assert not score.per_task.requires_grad


def test_the_mode_is_restored_after_an_error():
    learner = _learner().train()
    with pytest.raises(ValueError, match="batch_norm must be one of"):
        evaluate(learner, Doubles(_tasks()), episodes=3, batch_norm="none")
    assert learner.training


def test_dropout_is_off():
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(256, 3))
    learner = MAML(net, inner_lr=0.1)
    first, again = (evaluate(learner, _tasks(), episodes=5).per_task for _ in range(2))
    assert torch.equal(first, again)


def test_one_episode_gives_no_interval():
    with pytest.raises(ValueError, match="1 task gives no interval"):
        evaluate(_learner(), _tasks(), episodes=1)


@pytest.mark.parametrize(
    ("learner", "tasks", "message"),
    [
        (nn.Linear(2, 3), _tasks(), r"learner must be a Learner, such as ProtoNet\(net\), not Linear"),
        (_learner(), (_tasks(), _tasks()), "tasks must be a Task or sample them, .*, not tuple"),
    ],
)
def test_other_things_are_refused(learner, tasks, message):
    for judge in (evaluate, partial(meta_train, iterations=1)):
        with pytest.raises(TypeError, match=message):
            judge(learner, tasks)


def test_a_learner_without_parameters_is_scored_too():
    class NearestPixels(Learner):
        def adapt(self, support_x, support_y):
            return support_x, support_y

        def predict(self, adapted, query_x):
            support_x, support_y = adapted
            return -torch.cdist(query_x, support_x) @ support_y

    x = torch.arange(4.0).repeat_interleave(5)[:, None] + 0.01 * torch.randn(20, 1, generator=seeded(0))
    tasks = ClassificationTasks(x, torch.arange(4).repeat_interleave(5), ways=3, queries=2)
    assert evaluate(NearestPixels(torch.nn.Identity()), tasks, episodes=5).mean == 1.0
