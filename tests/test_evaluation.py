"""A score is a mean and an interval over a list of tasks that a seed fixes."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from mlcore import (
    MAML,
    ClassificationTasks,
    Examples,
    FixedTasks,
    Learner,
    Metric,
    Objective,
    ProtoNet,
    Score,
    Task,
    Tasks,
    classification,
    conv4,
    evaluate,
    mean_interval,
    meta_train,
    mlp,
    regression,
    rows,
    seeded,
)
from mlcore.datasets.sinusoid import sinusoid
from mlcore.objective import accuracy, cross_entropy, hits, mse

ERROR = Metric(lambda outputs, y: 1 - accuracy(outputs, y), higher_is_better=False)


def _tasks() -> ClassificationTasks:
    x = torch.randn(40, 1, 16, 16, generator=seeded(0))
    return ClassificationTasks(x, torch.arange(8).repeat(5), ways=3, shots=1, queries=4)


def _learner(**options) -> MAML:
    torch.manual_seed(0)
    return MAML(conv4(outputs=3, filters=4, image_size=16), inner_lr=0.1, **options).double()


class Doubles(Tasks):
    """A distribution in float64 that remembers how often it was asked."""

    def __init__(self, tasks):
        self.tasks, self.seeds, self.objective = tasks, [], tasks.objective

    def sample(self, n_tasks, generator):
        self.seeds.append(generator.initial_seed())
        assert n_tasks == 1
        return self.tasks.sample(n_tasks, generator).each(torch.Tensor.double)


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
        hits = learner(task, batch_norm=batch_norm)[0].argmax(-1) == task.query.y[0].argmax(-1)
        assert value.item() == hits.sum().item() / 12


@pytest.mark.parametrize("n", [2, 3, 600])
def test_mean_and_interval(n):
    values = torch.rand(n, dtype=torch.float64, generator=seeded(n))
    score, array = Score({"accuracy": values}, classification.metrics), values.numpy()
    assert score.mean == pytest.approx(np.mean(array), rel=1e-14)
    assert score.ci95 == pytest.approx(1.96 * np.std(array, ddof=1) / math.sqrt(n), rel=1e-14)


def test_printed():
    values = torch.tensor([0.9, 1.0, 0.95, 0.85], dtype=torch.float64)
    assert str(Score({"accuracy": values}, classification.metrics)) == "92.50 ± 6.33 % (4 tasks)"
    assert str(Score({"error": values}, {"error": ERROR})) == "92.50 ± 6.33 % error (4 tasks)"
    assert str(Score({"mse": values}, regression.metrics)) == "0.925 ± 0.063 MSE (4 tasks)"
    assert str(Score({"mse": values}, regression.metrics, diverged=2)) == "0.925 ± 0.063 MSE (4 tasks, 2 diverged)"
    assert repr(Score({"mse": values}, regression.metrics)) == "Score(0.925 ± 0.063 MSE (4 tasks))"


def test_accuracy_and_error_by_hand():
    outputs = torch.tensor([[[2.0, 1.0], [0.0, 1.0]], [[3.0, 1.0], [4.0, 1.0]]])
    labels = torch.tensor([[0, 1], [1, 0]])
    assert [accuracy(*task).item() for task in zip(outputs, rows(labels), strict=True)] == [1.0, 0.5]
    assert [mse(task, torch.zeros(2, 2)).item() for task in outputs] == [6 / 4, 27 / 4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_answer_that_is_not_a_number_is_wrong(bad):
    outputs = torch.tensor([[bad, 1.0], [1.0, bad], [1.0, 0.0], [1.0, 0.0]])
    y = rows(torch.tensor([0, 0, 0, 1]))
    assert hits(outputs, y).tolist() == [0, 0, 1, 0] and accuracy(outputs, y).item() == 0.25


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
    expected = [bool((batch.query.x[..., 0, 0] <= -1).any()) for batch in batches]
    assert 0 < score.diverged == sum(expected) < 40
    assert evaluate(_learner(), tasks, episodes=3).diverged == 0


def test_regression_is_scored_by_squared_error():
    torch.manual_seed(0)
    learner, tasks = MAML(mlp(1, 8, 1), inner_lr=0.01, loss_fn=mse).double(), Doubles(sinusoid(queries=7))
    score = evaluate(learner, tasks, episodes=33)
    assert score.metric == "mse"
    for seed, value in zip(list(tasks.seeds), score.per_task, strict=True):
        task = tasks.sample(1, torch.Generator().manual_seed(seed))
        expected = (learner(task) - task.query.y).square().mean()
        assert value.item() == pytest.approx(expected.item(), rel=1e-12)


def test_a_score_minus_another_is_taken_task_by_task():
    a, b = torch.tensor([0.9, 0.7, 0.8, 0.6]), torch.tensor([0.8, 0.5, 0.8, 0.3])
    mine, theirs = (Score({"accuracy": values}, dict(classification.metrics)) for values in (a, b))
    half = 1.96 * (a - b).std().item() / 2
    difference = mine - theirs
    assert difference.mean == pytest.approx(0.15) and difference.ci95 == pytest.approx(half)
    assert str(difference) == f"+15.00 ± {100 * half:.2f} points of accuracy (4 tasks)"
    errors = [Score({"mse": values}, dict(regression.metrics)) for values in (b, a)]
    assert str(errors[0] - errors[1]) == f"-0.150 ± {half:.3f} of mse (4 tasks)"


def test_scores_of_other_tasks_have_no_difference():
    def of(n, metrics):
        return Score(dict.fromkeys(metrics, torch.rand(n)), dict(metrics))

    with pytest.raises(ValueError, match=r"accuracy on 4 tasks and accuracy on 5 have none; score both learners on"):
        _ = of(4, classification.metrics) - of(5, classification.metrics)
    with pytest.raises(ValueError, match="accuracy on 4 tasks and mse on 4"):
        _ = of(4, classification.metrics) - of(4, regression.metrics)


def test_examples_that_an_embedding_cannot_take_are_refused_in_one_sentence():
    x, y = torch.rand(60, 3, 28, 28, dtype=torch.float64), torch.arange(60) // 6
    tasks = ClassificationTasks(x, y, ways=5, shots=1, queries=3)
    with pytest.raises(TypeError, match=r"the examples are torch.float64 but .*; convert: x.to\(torch.float32\)"):
        evaluate(ProtoNet(conv4(3, filters=4)), tasks, episodes=2)
    with pytest.raises(ValueError, match=r"an example has shape \[3, 28, 28\], but .* needs images \[1 channel"):
        evaluate(
            ProtoNet(conv4(1, filters=4)), ClassificationTasks(x.float(), y, ways=5, shots=1, queries=3), episodes=2
        )


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
        (_learner(), (_tasks(), _tasks()), r"tasks must be Tasks, .* FixedTasks\(task, objective\) .*, not tuple"),
        (_learner(), _tasks().sample(2, seeded(0)), "tasks must be Tasks, .*, not Task"),
    ],
)
def test_other_things_are_refused(learner, tasks, message):
    for judge in (evaluate, partial(meta_train, iterations=1)):
        with pytest.raises(TypeError, match=message):
            judge(learner, tasks)


def test_a_learner_without_parameters_is_scored_too():
    class NearestPixels(Learner):
        def update(self, state, data):
            return data

        def predict(self, state, x):
            return -torch.cdist(x, state.x) @ state.y

    x = torch.arange(4.0).repeat_interleave(5)[:, None] + 0.01 * torch.randn(20, 1, generator=seeded(0))
    tasks = ClassificationTasks(x, torch.arange(4).repeat_interleave(5), ways=3, queries=2)
    assert evaluate(NearestPixels(), tasks, episodes=5).mean == 1.0


@pytest.mark.parametrize("shape", [(1, 4, 2), (1, 4, 1)])
def test_outputs_of_another_width_than_the_targets_are_refused(shape):
    """Where torch would broadcast one column against another."""
    x, y = torch.randn(2, 4, 1), torch.randn(2, *shape[1:])
    tasks = FixedTasks(Task(Examples(x, y), Examples(x, y)), regression)
    learner = MAML(mlp(1, 4, 3 - shape[-1]), inner_lr=0.1, inner_steps=0)
    message = rf"gives outputs \[4, {3 - shape[-1]}\] but the targets are \[4, {shape[-1]}\]; build it with outputs"
    with pytest.raises(ValueError, match=message) as error:
        evaluate(learner, tasks)
    assert "\n" not in str(error.value) and str(error.value).count(".") == 1


def test_fewer_outputs_than_ways_are_refused():
    learner = MAML(conv4(outputs=2, filters=4, image_size=16), inner_lr=0.1, inner_steps=0)
    with pytest.raises(ValueError, match=r"gives outputs \[12, 2\] but the task needs \[12, 3\]; build the network"):
        evaluate(learner, _tasks(), episodes=2)


def test_several_metrics_are_reported_at_once():
    tasks = _tasks()
    each = Metric(lambda outputs, y: hits(outputs, y)[:4], percent=False)  # several numbers a task
    tasks.objective = Objective(cross_entropy, {"error": ERROR, "accuracy": Metric(accuracy), "hits": each})
    score = evaluate(_learner().float(), tasks, episodes=40)
    assert score.metric == "error" and list(score.values) == ["error", "accuracy", "hits"]
    torch.testing.assert_close(score.per_task, 1 - score["accuracy"].per_task)
    alone = evaluate(_learner().float(), _tasks(), episodes=40)
    assert torch.equal(score["accuracy"].per_task, alone.per_task) and str(score["accuracy"]) == str(alone)
    assert score["hits"].per_task.shape == (40, 4)
    of_task = score["hits"].per_task.mean(1)
    assert score["hits"].mean == pytest.approx(of_task.mean().item())
    # The tasks are the sample, not the numbers that each of them gives.
    assert score["hits"].ci95 == pytest.approx(1.96 * of_task.std().item() / math.sqrt(40))
    with pytest.raises(KeyError, match="there is no metric 'iou'; choose among error, accuracy, hits"):
        score["iou"]


def test_fixed_tasks_are_evaluated_in_their_order():
    learner, batch = _learner(), _tasks().sample(70, seeded(5)).each(torch.Tensor.double)
    tasks = FixedTasks(batch)
    expected = learner.eval().judged(batch, classification).scores["accuracy"]
    whole = evaluate(learner, tasks)
    assert torch.equal(whole.per_task, expected) and len(expected.unique()) > 3
    assert torch.equal(evaluate(learner, tasks, seed=9).per_task, expected)
    assert torch.equal(evaluate(learner, tasks, episodes=45).per_task, expected[:45])
    with pytest.raises(ValueError, match="episodes=71, but there are only 70 tasks; lower episodes, or leave it out"):
        evaluate(learner, tasks, episodes=71)


def test_what_a_learner_draws_by_itself_depends_on_seed_and_tasks_alone():
    class Guess(Learner):
        def update(self, state, data):
            return data.y.shape[-1]

        def predict(self, state, x):
            return torch.randn(len(x), state)

    learner = Guess()
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = evaluate(learner, _tasks(), episodes=40)
    assert torch.equal(torch.random.get_rng_state(), before), "the caller's own stream is left alone"
    torch.rand(7)
    again, fewer, other = (evaluate(learner, _tasks(), **o) for o in ({"episodes": 40}, {"episodes": 32}, {"seed": 1}))
    assert torch.equal(first.per_task, again.per_task) and torch.equal(first.per_task[:32], fewer.per_task)
    assert not torch.equal(first.per_task, other.per_task[:40])


def test_a_shared_embedding_changes_no_score():
    """A metric learner embeds each distinct image once: the same as embedding every task by itself."""
    torch.manual_seed(0)
    learner, tasks = ProtoNet(conv4(filters=4, image_size=16)), _tasks()
    once = evaluate(learner, tasks, episodes=40)
    each = evaluate(learner, tasks.replace(augment=lambda image: image), episodes=40)
    assert torch.equal(once.per_task, each.per_task) and len(once.per_task.unique()) > 3


def test_the_interval_of_few_draws_is_students():
    values = torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
    mean, half = mean_interval(values)
    assert torch.equal(mean, torch.tensor([2.0, 20.0]))
    torch.testing.assert_close(half, 4.3027 / 3**0.5 * torch.tensor([1.0, 10.0]), rtol=1e-4, atol=0)
    across, wide = mean_interval(values.T.numpy(), dim=1)
    np.testing.assert_allclose(across, mean)
    np.testing.assert_allclose(wide, half, rtol=1e-6)
    many = np.random.default_rng(0).normal(size=10_000)
    assert mean_interval(many)[1] == pytest.approx(1.96 * many.std() / 100, rel=1e-3)


@pytest.mark.parametrize(("n", "said"), [(0, "there are none"), (1, "there is one")])
def test_one_draw_has_no_interval(n, said):
    with pytest.raises(ValueError, match=f"at least two draws, and {said}"):
        mean_interval(torch.ones(n))
