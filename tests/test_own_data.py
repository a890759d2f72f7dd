"""Data sets, sizes and methods of one's own."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset
from torchvision.datasets import ImageFolder

from mlcore import (
    MAML,
    ClassificationTasks,
    Examples,
    HardTasks,
    NearestNeighbour,
    ProtoNet,
    RecordedTasks,
    SoftKMeans,
    SupervisedTasks,
    Task,
    evaluate,
    meta_train,
    mlp,
    rows,
    seeded,
)
from mlcore.datasets import sinusoid
from mlcore.learners.metric import class_means
from mlcore.objective import mse
from mlcore.tasks.lazy import OnDisk, labels_of

ROOT = Path(__file__).parents[1]


class Items(Dataset):
    """Twelve items of three classes; it notes how often each was read, and iteration would never end."""

    def __init__(self, change=lambda i, x, y: (x, y), count=12):
        self.change, self.count, self.seen = change, count, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.seen.append(i)
        return self.change(i, torch.full((2,), float(i)), i % 3)


def tasks_of(dataset, **settings) -> ClassificationTasks:
    return ClassificationTasks(dataset, **{"ways": 2, "shots": 1, "queries": 1} | settings)


def folder(path: Path, shades: dict[str, int], count: int = 3) -> ImageFolder:
    """Images of one shade for each class."""
    for name, shade in shades.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (6, 6), shade).save(path / name / f"{i}.png")
    return ImageFolder(path)


# Datasets.


@pytest.mark.parametrize("lazy", [False, True])
def test_a_dataset_is_as_long_as_it_says(lazy):
    dataset = Items()
    tasks = tasks_of(dataset, lazy=lazy)
    assert len(tasks) == 12 and tasks.class_sizes == {0: 4, 1: 4, 2: 4}
    if not lazy:
        assert dataset.seen == list(range(12)) and torch.equal(tasks.x[:, 0], torch.arange(12.0))


def test_what_can_only_be_gone_through_is():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(torch.ones(2) * i, "ab"[i % 2]) for i in range(6)])

    assert tasks_of(Stream()).class_sizes == {"a": 3, "b": 3}
    with pytest.raises(TypeError, match="reads items by number, which Stream cannot do"):
        OnDisk(Stream())


def broken(i, x, y):
    if i == 5:
        raise OSError("truncated file")
    return x, y


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (broken, ValueError, r"item 5 of the dataset cannot be read \(OSError: truncated file\)"),
        (lambda i, x, y: (x, y) if i < 7 else x, TypeError, "item 7 of the dataset is a Tensor, not a pair"),
        (lambda i, x, y: (x, y, i), TypeError, "item 0 of the dataset is 3 things, not a pair"),
        (lambda i, x, y: {"image": x, "label": y}, TypeError, "item 0 of the dataset is a dict, not a pair"),
        (lambda i, x, y: (x[: 1 + (i < 4)], y), ValueError, r"item 4 has shape \[1\], but that of item 0 \[2\]; add a"),
        (lambda i, x, y: (x.long() if i == 2 else x, y), ValueError, "item 2 is torch.int64, but that of item 0"),
        (lambda i, x, y: (x / (i != 3), y), ValueError, "example 3 holds a number that is not finite"),
        (lambda i, x, y: (object(), y), TypeError, "the example of item 0 is a object, not a tensor, an array or an"),
        (lambda i, x, y: (x, y if i < 8 else "c"), TypeError, "all strings, but that of example 8 is 'c'"),
    ],
)
def test_what_is_wrong_with_an_item_is_said_with_its_number(change, error, message):
    with pytest.raises(error, match=message):
        tasks_of(Items(change))


def test_an_empty_dataset_is_named():
    for lazy in (False, True):
        with pytest.raises(ValueError, match="the dataset is empty"):
            tasks_of(Items(count=0), lazy=lazy)


@pytest.mark.slow
def test_reading_holds_the_data_once():
    script = """
        import resource
        import torch, torchvision
        from torch.utils.data import Dataset
        from mlcore import ClassificationTasks

        class Floats(Dataset):
            def __len__(self):
                return 2_000
            def __getitem__(self, i):
                return torch.full((3, 100, 100), float(i)), i % 10

        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        before = peak()
        tasks = ClassificationTasks(Floats())
        print((peak() - before) / (4 * tasks.x.numel()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.6


def test_examples_may_be_arrays_and_labels_numpys():
    tasks = tasks_of(Items(lambda i, x, y: (x.double().numpy(), np.int64(y))))
    assert tasks.x.dtype == torch.float32 and tasks.classes == [0, 1, 2]


@pytest.mark.parametrize("lazy", [False, True])
def test_class_names_survive_subsets_and_joined_folders(tmp_path, lazy):
    pets, sea = folder(tmp_path / "a", {"cat": 10, "dog": 20}), folder(tmp_path / "b", {"dog": 30, "fish": 40})
    part = tasks_of(Subset(pets, [0, 1, 3, 4, 5]), lazy=lazy)
    assert part.class_sizes == {"cat": 2, "dog": 3}
    joined = tasks_of(ConcatDataset([pets, Subset(sea, [5, 4, 0])]), lazy=lazy)
    assert joined.class_sizes == {"cat": 3, "dog": 4, "fish": 2}
    pictures = (255 * joined.examples(joined.codes())[:, 0, 0, 0]).round().int().tolist()
    assert pictures == [10] * 3 + [20] * 3 + [30] + [40] * 2

    class Inverted(Subset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return Image.eval(image, lambda shade: 255 - shade), label

        def __getitems__(self, indices):
            return [self[i] for i in indices]

    inverted = tasks_of(Inverted(pets, [0, 1, 3, 4]), lazy=lazy)  # what a subset does to its items is done
    assert inverted.classes == ["cat", "dog"] and inverted.examples(inverted.codes()).min() == (255 - 20) / 255


def test_a_label_that_has_no_name_is_refused():
    dataset = Items()
    dataset.classes = ["a", "b"]
    with pytest.raises(ValueError, match="item 2 of the dataset has label 2, but the dataset names 2 classes"):
        tasks_of(dataset)


def test_small_classes_are_left_out_when_asked():
    labels = ["a"] * 2 + ["b"] * 5 + ["c"] * 1 + ["d"] * 3 + ["e"] * 4
    x = torch.arange(15.0)[:, None]
    with pytest.raises(
        ValueError, match=r"class 'c' has only 1 examples; .* leave out 2 small classes: drop_small=True"
    ):
        ClassificationTasks(x, labels, ways=2, shots=1, queries=2)
    tasks = ClassificationTasks(x, labels, ways=2, shots=1, queries=2, drop_small=True)
    assert tasks.class_sizes == {"b": 5, "d": 3, "e": 4}
    assert set(tasks.sample(50, seeded(0)).query.x.unique().tolist()) <= set(range(2, 7)) | set(range(8, 15))
    assert tasks.replace(queries=3).classes == ["b", "e"] and tasks.classes == ["b", "d", "e"]
    with pytest.raises(ValueError, match="ways=2, but there are only 1 classes, without the 2 that are too small"):
        tasks.replace(queries=4)
    refused = ClassificationTasks(x[2:7].repeat(2, 1), ["a", "b"] * 5, ways=2, shots=1, queries=2)
    with pytest.raises(ValueError, match="drop_small=True"):
        refused.replace(queries=9)


# Data that stay on disk.


@pytest.mark.parametrize("workers", [None, 2])
def test_lazy_tasks_are_the_same_tasks(tmp_path, workers):
    pets = folder(tmp_path, {"cat": 10, "dog": 20, "fish": 30}, count=4)
    eager, lazy = tasks_of(pets), tasks_of(pets, lazy=True, workers=workers)
    for change in ({}, {"rotations": True}, {"shots": 2}):
        one, other = (tasks.replace(**change).sample(5, seeded(3)) for tasks in (eager, lazy))
        assert torch.equal(one.support.x, other.support.x) and torch.equal(one.query.x, other.query.x)
        assert torch.equal(one.query.y, other.query.y)
    train, test = tasks_of(pets, lazy=True).with_rotated_classes().split_classes((0.5, 0.5))
    assert len(train.classes) == len(test.classes) == 6 and train.x is test.x
    scores = [evaluate(NearestNeighbour(), tasks, episodes=20).mean for tasks in (eager, lazy)]
    assert scores[0] == scores[1] == 1
    minibatch = SupervisedTasks(lazy, batch_size=7).sample(1, seeded(0))
    assert torch.equal(minibatch.query.x, SupervisedTasks(eager, batch_size=7).sample(1, seeded(0)).query.x)
    assert repr(lazy) == repr(eager)
    moved = lazy.to("cpu")
    assert moved.x is not lazy.x and torch.equal(moved.sample(1, seeded(0)).query.x, lazy.sample(1, seeded(0)).query.x)


def test_an_item_is_read_when_an_episode_asks_for_it():
    dataset = Items()
    dataset.targets = [i % 3 for i in range(12)]  # as torchvision's datasets list them
    tasks = tasks_of(dataset, lazy=True)
    assert dataset.seen == [0]  # for its shape
    batch = tasks.sample(1, seeded(0))
    asked = torch.cat([batch.support.x, batch.query.x], 1)[0, :, 0].int().tolist()
    assert sorted(dataset.seen[1:]) == sorted(asked) and len(asked) == 4
    unlisted = Items()
    assert tasks_of(unlisted, lazy=True).classes == [0, 1, 2] and unlisted.seen == [*range(12), 0]
    named = ClassificationTasks(Items(), ["a", "b", "c", "a"] * 3, lazy=True, ways=2, queries=1)  # labels of one's own
    assert named.classes == ["a", "b", "c"]


def test_listed_labels_go_through_what_the_dataset_does_to_them(tmp_path):
    pets = folder(tmp_path, {"cat": 10, "dog": 20})
    renamed = ImageFolder(tmp_path, target_transform=lambda label: f"class {label}")
    assert labels_of(Subset(pets, [5, 0])) == ["dog", "cat"]
    assert labels_of(ConcatDataset([Subset(renamed, [0]), pets])) == ["class 0", *["cat"] * 3, *["dog"] * 3]


def test_lazy_items_are_checked_as_they_come():
    dataset = Items()
    dataset.targets = [(i + 1) % 3 for i in range(12)]
    with pytest.raises(ValueError, match=r"item \d+ has label \d, but the dataset's list of labels says \d"):
        tasks_of(dataset, lazy=True).sample(4, seeded(0))
    late = Items(lambda i, x, y: (x / (i != 7), y))
    late.targets = [i % 3 for i in range(12)]
    with pytest.raises(ValueError, match="example 7 holds a number that is not finite"):
        tasks_of(late, lazy=True).sample(20, seeded(0))
    with pytest.raises(TypeError, match="x must be one, not Tensor"):
        ClassificationTasks(torch.zeros(12, 2), [0, 1] * 6, lazy=True)
    with pytest.raises(ValueError, match="workers=2 read a dataset that stays on disk; add lazy=True"):
        tasks_of(Items(), workers=2)
    with pytest.raises(ValueError, match="workers must be at least 1, not 0"):
        tasks_of(Items(), workers=0, lazy=True)


# Recordings.


def test_a_task_is_a_recording():
    x = torch.arange(6.0)[:, None, None] * 100 + torch.arange(20.0)[:, None]
    tasks = RecordedTasks(x, -x, shots=3, queries=4)
    batch = tasks.sample(200, seeded(0))
    assert batch.support.x.shape == (200, 3, 1) and batch.query.y.shape == (200, 4, 1)
    for half in batch:
        assert torch.equal(half.y, -half.x)
    drawn = torch.cat([batch.support.x, batch.query.x], 1)[..., 0]
    assert (drawn // 100 == drawn[:, :1] // 100).all()
    assert all(len(task.unique()) == 7 for task in drawn)
    assert (drawn[:, 0] // 100).long().bincount(minlength=6).min() > 15
    assert torch.equal(tasks.sample(3, seeded(5)).query.x, tasks.sample(3, seeded(5)).query.x)
    assert repr(tasks) == "RecordedTasks(6 recordings of 20 rows; shots=3, queries=4)"
    assert tasks.replace(shots=1).to("meta").sample(2, seeded(0)).support.x.shape == (2, 1, 1)
    score = evaluate(MAML(mlp(1, 4, 1), inner_lr=1e-6, loss_fn=mse), tasks, episodes=5)
    assert score.metric == "mse"


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (torch.zeros(3, 9), torch.zeros(3, 9, 1), ValueError, r"must be \[recordings, n, \*input\]"),
        (torch.zeros(3, 9, 1), torch.zeros(3, 8, 1), ValueError, r"must be \[recordings, n, \*input\]"),
        (torch.zeros(3, 9, 1), torch.zeros(3, 9, 1).long(), TypeError, "targets must be floats, not torch.int64"),
        (torch.zeros(3, 9, 1), torch.full((3, 9, 1), torch.nan), ValueError, "y of recording 0 holds a number that is"),
        (torch.zeros(3, 7, 1), torch.zeros(3, 7, 1), ValueError, r"5 \+ 3 = 8, but a recording has only 7 rows"),
    ],
)
def test_bad_recordings_are_named(x, y, error, message):
    with pytest.raises(error, match=message):
        RecordedTasks(x, y, shots=5, queries=(1, 3))


# Ways and shots that vary.


def clusters(**sizes) -> ClassificationTasks:
    labels = torch.arange(12).repeat_interleave(12)
    x = torch.randn(12, 4, generator=seeded(0))[labels] + 0.7 * torch.randn(144, 4, generator=seeded(1))
    return ClassificationTasks(x, labels, **{"queries": 3} | sizes)


def test_a_range_draws_one_size_for_a_batch():
    tasks = clusters(ways=(3, 10), shots=(1, 5))
    assert not tasks.one_shape and clusters().one_shape
    seen = set()
    for seed in range(200):
        batch = tasks.sample(2, seeded(seed))
        ways = batch.support.y.shape[-1]
        seen.add((ways, batch.support.x.shape[1] // ways))
        assert batch.query.x.shape == (2, 3 * ways, 4)
        counts = batch.support.y.sum(1)
        assert (counts == counts[0, 0]).all()
    assert {ways for ways, _ in seen} == set(range(3, 11)) and {shots for _, shots in seen} == set(range(1, 6))
    assert torch.equal(tasks.sample(2, seeded(199)).query.x, batch.query.x)


def test_evaluation_takes_tasks_of_many_shapes_singly():
    tasks = clusters().replace(ways=(3, 10), shots=(1, 5))
    for learner in (ProtoNet(nn.Flatten()), MAML(mlp(4, 10), inner_lr=0.1)):
        score = evaluate(learner, tasks, episodes=40)
        assert torch.equal(evaluate(learner, tasks, episodes=20).per_task, score.per_task[:20])
        with torch.no_grad():
            alone = [learner.eval().judged(tasks.numbered(range(i, i + 1), 0), tasks.objective) for i in range(40)]
        expected = torch.cat([judged.scores["accuracy"] for judged in alone]).double()
        torch.testing.assert_close(score.per_task, expected)
        assert score.mean == pytest.approx(expected.mean().item())
    with pytest.raises(ValueError, match="are no batch; let the distribution say one_shape = False"):
        tasks.numbered(range(20), 0)


@pytest.mark.slow
def test_training_on_ranges():
    torch.manual_seed(0)
    learner = MAML(mlp(4, 10), inner_lr=0.1)  # ten outputs, of which a task of three ways uses the first three
    tasks = clusters(ways=(3, 10), shots=(1, 5))
    before = evaluate(learner, tasks.replace(ways=3, shots=5), episodes=50).mean
    meta_train(learner, tasks, iterations=40, val=tasks, val_every=20, val_episodes=10, outer_lr=1e-2, progress=False)
    assert evaluate(learner, tasks.replace(ways=3, shots=5), episodes=50).mean > before + 0.1


def test_regression_sizes_vary_too():
    tasks = sinusoid(shots=(2, 20), queries=5)
    sizes = {tasks.sample(1, seeded(i)).support.x.shape[1] for i in range(300)}
    assert sizes == set(range(2, 21)) and not tasks.one_shape
    learner = MAML(mlp(1, 4, 1), inner_lr=0.01, loss_fn=mse)
    assert len(evaluate(learner, tasks, episodes=10).per_task) == 10
    recorded = RecordedTasks(torch.zeros(3, 9, 1), torch.zeros(3, 9, 1), shots=(1, 4), queries=2)
    assert len(evaluate(learner, recorded, episodes=10).per_task) == 10


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"shots": (5, 1)}, r"shots=\(5, 1\) is no range; give the least and the most, such as shots=\(1, 5\)"),
        ({"shots": (0, 3)}, r"shots must be at least 1, and whole, not \(0, 3\)"),
        ({"shots": (1, 2, 3)}, r"shots=\(1, 2, 3\) is no range"),
        ({"ways": (2, 13)}, "ways=13, but there are only 12 classes"),
        ({"shots": (1, 10)}, r"10 \+ 3 = 13, but class 0 has only 12"),
    ],
)
def test_bad_ranges_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        clusters(**sizes)
    with pytest.raises(ValueError, match=message):
        clusters().replace(**sizes)


def test_hard_tasks_want_one_size():
    with pytest.raises(ValueError, match="hard tasks need one size of ways, shots and queries"):
        HardTasks(clusters(shots=(1, 2)))


# A method that sees all queries.


def test_soft_k_means_is_the_papers_formula():
    generator = seeded(0)
    support_x, x = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (6, 5))
    y = rows(torch.tensor([0, 1, 2, 0, 1, 1])).double()
    means = class_means(support_x, y)
    share = (-torch.cdist(x, means).square()).softmax(-1)
    refined = torch.stack(
        [
            (sum(y[i, k] * support_x[i] for i in range(6)) + sum(share[j, k] * x[j] for j in range(5)))
            / (y[:, k].sum() + share[:, k].sum())
            for k in range(3)
        ]
    )
    expected = -torch.cdist(x, refined).square()
    task = Task(Examples(support_x[None], y[None]), Examples(x[None], torch.zeros(1, 5, 3)))
    torch.testing.assert_close(SoftKMeans(nn.Flatten())(task)[0], expected)
    torch.testing.assert_close(SoftKMeans(nn.Flatten(), steps=0)(task), ProtoNet(nn.Flatten())(task))
    with pytest.raises(ValueError, match="steps=-1 must not be negative"):
        SoftKMeans(nn.Flatten(), steps=-1)


def test_queries_help_to_find_prototypes_and_the_gradient_is_right():
    tasks = clusters(shots=1, queries=10)
    plain, refined = (evaluate(learner(nn.Flatten()), tasks) for learner in (ProtoNet, SoftKMeans))
    gain = refined.per_task - plain.per_task
    assert gain.mean() > 4 * gain.std() / 600**0.5
    torch.manual_seed(0)
    learner = SoftKMeans(mlp(4, 3, activation=nn.Tanh).double(), steps=2)
    task = tasks.sample(2, seeded(0)).each(torch.Tensor.double)
    loss = learner.meta_loss(task, tasks.objective)
    loss.backward()
    weight, step = learner.net[0].weight, 1e-6
    with torch.no_grad():
        weight[0, 0] += step
        higher = learner.meta_loss(task, tasks.objective)
    assert ((higher - loss) / step).item() == pytest.approx(weight.grad[0, 0].item(), rel=1e-3)


def test_a_fitted_transductive_model_answers_queries_together():
    learner, x = SoftKMeans(nn.Flatten()), torch.randn(8, 4, generator=seeded(0))
    model = learner.fit(x[:3], ["a", "b", "c"])
    assert not torch.allclose(model.outputs(x[3:])[:1], model.outputs(x[3:4]))


# A method of one's own.


@pytest.mark.slow
def test_a_metric_learner_is_one_file_and_one_line(tmp_path):
    shutil.copytree(ROOT / "mlcore", tmp_path / "mlcore", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "mlcore" / "learners" / "city_block.py").write_text(
        textwrap.dedent(
            '''
            """Prototypes by the city-block distance."""

            from mlcore.learners.metric import MetricLearner, class_means


            class CityBlock(MetricLearner):
                """Classify by Σ |z - c_k|."""

                def update(self, state, data):
                    return class_means(data.x, data.y)

                def predict(self, state, x):
                    return -(x[:, None] - state).abs().sum(-1)
            '''
        )
    )
    with (tmp_path / "mlcore" / "learners" / "__init__.py").open("a") as file:
        file.write("from mlcore.learners.city_block import CityBlock as CityBlock\n")
    script = """
        import torch
        from mlcore import AdaptedModel, CityBlock, ClassificationTasks, evaluate, meta_train, mlp, seeded

        torch.manual_seed(0)
        labels = torch.arange(12).repeat_interleave(12)
        x = torch.randn(12, 4, generator=seeded(0))[labels] + 0.5 * torch.randn(144, 4, generator=seeded(1))
        tasks, learner = ClassificationTasks(x, labels, queries=3), CityBlock(mlp(4, 8))
        before = evaluate(learner, tasks, episodes=50, batch_norm="support").mean
        meta_train(learner, tasks, iterations=30, outer_lr=1e-2, progress=False)
        assert evaluate(learner, tasks, episodes=50, progress=False).mean > before + 0.05
        model = learner.fit(x[:24], labels[:24])
        assert model.predict(x[:2]) == [0, 0], model.predict(x[:2])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
