"""Sampling, by its properties: what must hold for every draw, and what must be said of bad input."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.datasets import ImageFolder

from mlcore.datasets import sinusoid
from mlcore.tasks import (
    ClassificationTasks,
    Examples,
    FixedTasks,
    HardTasks,
    RegressionTasks,
    SupervisedTasks,
    Task,
    Tasks,
    failures,
    group_of,
    rows,
    seeded,
)

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a machine may be busy


def numbered(counts, **sizes):
    """Examples that are their own row number, `counts[c]` of class c, shuffled so that classes interleave."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=seeded(1))]
    numbers = torch.arange(len(labels), dtype=torch.float64)[:, None]
    return ClassificationTasks(numbers, labels, **sizes), labels


def each_task(batch):
    """For each task, its support and query inputs and labels."""
    return zip(batch.support.x, batch.support.y.argmax(-1), batch.query.x, batch.query.y.argmax(-1), strict=True)


def same(a, b):
    return all(torch.equal(x, y) for one, two in zip(a, b, strict=True) for x, y in zip(one, two, strict=True))


@settings(PATIENT, max_examples=60)
@given(
    counts=st.lists(st.integers(4, 9), min_size=3, max_size=8),
    ways=st.integers(1, 3),
    shots=st.integers(1, 2),
    queries=st.integers(1, 2),
    n_tasks=st.integers(1, 5),
    seed=st.integers(0, 2**32),
)
def test_every_episode_is_one(counts, ways, shots, queries, n_tasks, seed):
    tasks, labels = numbered(counts, ways=ways, shots=shots, queries=queries)
    batch = tasks.sample(n_tasks, seeded(seed))
    assert batch.count == n_tasks and batch.support.x.shape == (n_tasks, ways * shots, 1)
    assert batch.query.y.shape == (n_tasks, ways * queries, ways)
    for support_x, support_y, query_x, query_y in each_task(batch):
        drawn = torch.cat([support_x, query_x]).flatten().long().tolist()
        assert len(set(drawn)) == len(drawn), "an example was drawn twice"
        assert support_y.bincount().tolist() == [shots] * ways
        assert query_y.bincount().tolist() == [queries] * ways
        drawn = labels[drawn]
        local = torch.cat([support_y, query_y])
        of_label = [set(drawn[local == way].tolist()) for way in range(ways)]
        assert all(len(classes) == 1 for classes in of_label), "a label stands for one class"
        assert len(set.union(*of_label)) == ways, "and different labels for different classes"


def test_sampling_is_a_function_of_the_generator():
    tasks, _ = numbered([6] * 10, ways=3, shots=1, queries=2)
    first, again, other = (tasks.sample(4, seeded(*key)) for key in ((0, 3), (0, 3), (0, 4)))
    assert same(first, again)
    assert not torch.equal(first.support.x, other.support.x)


def test_shuffling_moves_the_rows_of_an_episode_and_nothing_else():
    tasks, _ = numbered([6] * 10, ways=3, shots=2, queries=3)
    batch, codes = tasks.sample(40, seeded(7)), tasks.draw(40, seeded(7))
    for half, ordered in zip(batch, tasks.episodes(codes), strict=True):
        labels = half.y.argmax(-1)
        assert torch.equal(labels.sort(1).values, ordered.y.argmax(-1))
        assert set(half.y.unique().tolist()) == {0.0, 1.0} and (half.y.sum(-1) == 1).all() and half.y.shape[-1] == 3
        for task in range(40):
            pairs = zip(half.x[task].flatten().tolist(), labels[task].tolist(), strict=True)
            expected = zip((ordered.x[task] // 4).tolist(), ordered.y[task].argmax(-1).tolist(), strict=True)
            assert sorted(pairs) == sorted(expected)
    # The next thing drawn from the generator does not depend on the shuffling either.
    sampled, drawn = seeded(7), seeded(7)
    tasks.sample(40, sampled), tasks.draw(40, drawn)
    assert torch.equal(sampled.get_state(), drawn.get_state())


def test_the_place_of_a_row_says_nothing_of_its_class():
    tasks, _ = numbered([6] * 10, ways=3, shots=1, queries=1)
    batch = tasks.sample(3_000, seeded(0))
    for half in batch:
        counts = half.y.sum(0)  # [place, class]
        assert (counts - 1_000).abs().max() < 5 * (3_000 * 2 / 9) ** 0.5  # five standard deviations
    # Support set and query set are shuffled apart.
    agree = (batch.support.y.argmax(-1) == batch.query.y.argmax(-1)).all(1).double().mean()
    assert abs(agree - 1 / 6) < 5 * (1 / 6 * 5 / 6 / 3_000) ** 0.5


def test_rows_are_one_hot_and_refuse_what_is_no_label():
    assert rows(torch.tensor([[0, 2], [1, 0]])).tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0]]]
    assert rows(torch.tensor([1]), 3).tolist() == [[0, 1, 0]] and rows(torch.tensor([1]), 3).is_floating_point()
    assert rows(torch.zeros(2, 0, dtype=torch.int64), 4).shape == (2, 0, 4)
    for labels, ways, message in (
        ([0, 2], None, r"each with an example, not \[0, 2\]; number the classes from 0"),
        ([0, 3], 3, "labels must be 0 to 2, not 3"),
        ([-1, 1], 3, "labels must be 0 to 2, not -1"),
    ):
        with pytest.raises(ValueError, match=message):
            rows(torch.tensor(labels), ways)


def test_every_integer_of_a_seed_counts():
    keys = [(), (0,), (0, 0), (0, 0, 0), (1,), (1, 0), (0, 1), (2**32,), (2**32 - 1, 2**32 - 1), (-1,)]
    assert len({seeded(*key).initial_seed() for key in keys}) == len(keys)
    assert seeded(np.int64(3), 4).initial_seed() == seeded(3, 4).initial_seed()
    with pytest.raises(TypeError):
        seeded(0.5)


def test_moving_the_data_does_not_move_the_draw():
    tasks, _ = numbered([6] * 10, ways=3, shots=1, queries=2)
    moved = tasks.to("meta")
    assert moved.x.device.type == "meta" and tasks.x.device.type == "cpu"
    here, there = seeded(0), seeded(0)
    expected, batch = tasks.sample(4, here), moved.sample(4, there)
    assert batch.support.x.device.type == "meta" and batch.support.x.shape == expected.support.x.shape
    assert torch.equal(here.get_state(), there.get_state()), "the same random numbers were used, on the CPU"


def test_classes_and_examples_are_equally_likely():
    tasks, labels = numbered([5] * 8, ways=2, shots=1, queries=1)
    drawn = tasks.sample(4_000, seeded(0)).support.x.flatten().long()
    by_class, by_row = labels[drawn].bincount(minlength=8), drawn.bincount(minlength=40)
    assert (by_class - 1_000).abs().max() < 5 * (1_000 * 7 / 8) ** 0.5  # five standard deviations
    assert (by_row - 200).abs().max() < 5 * (200 * 39 / 40) ** 0.5


def test_rotations_turn_each_class_by_one_angle():
    corner = torch.zeros(4, 4)
    corner[0, 1] = 1  # four different pictures under the four turns
    x = corner.expand(60, 1, 4, 4).clone()
    tasks = ClassificationTasks(x, torch.arange(10).repeat_interleave(6), ways=5, shots=2, queries=3, rotations=True)
    turned = {k: corner.rot90(k, (-2, -1)) for k in range(4)}
    seen = set()
    for support_x, support_y, query_x, query_y in each_task(tasks.sample(20, seeded(0))):
        for way in range(5):
            images = torch.cat([support_x[support_y == way], query_x[query_y == way]])[:, 0]
            angles = {k for image in images for k, picture in turned.items() if torch.equal(image, picture)}
            assert len(angles) == 1
            seen |= angles
    assert seen == {0, 1, 2, 3}
    assert torch.equal(tasks.replace(rotations=False).sample(1, seeded(0)).query.x[0, 0, 0], corner)


def test_bytes_become_floats():
    tasks = ClassificationTasks(torch.full((8, 1, 2, 2), 255, dtype=torch.uint8), [0, 1] * 4, ways=2, queries=1)
    assert torch.equal(tasks.sample(1, seeded(0)).query.x, torch.ones(1, 2, 1, 2, 2))


@pytest.mark.parametrize("labels", [["b", "a", "c"] * 4, np.array([7, 3, 9] * 4), torch.tensor([7, 3, 9] * 4)])
def test_labels_may_be_words_or_any_integers(labels):
    tasks = ClassificationTasks(torch.randn(12, 2), labels, ways=3, queries=2)
    assert tasks.classes in (["a", "b", "c"], [3, 7, 9])
    assert len(tasks) == 12


def test_labels_of_a_dataset_may_be_words_but_not_fractions():
    class Words(Dataset):
        def __getitem__(self, i):
            return torch.tensor([float(i)]), ["cat", "dog"][range(4)[i] % 2]

    assert ClassificationTasks(Words(), ways=2, queries=1).classes == ["cat", "dog"]
    with pytest.raises(TypeError, match="labels must be integers or strings, not float"):
        ClassificationTasks(TensorDataset(torch.randn(4, 1), torch.tensor([0.2, 0.7, 1.2, 1.7])), ways=2, queries=1)


def test_a_dataset_brings_its_labels(tmp_path):
    x, y = torch.randn(12, 3), torch.arange(3).repeat(4)
    from_dataset = ClassificationTasks(TensorDataset(x, y), ways=3, queries=1).sample(2, seeded(0))
    from_tensors = ClassificationTasks(x, y, ways=3, queries=1).sample(2, seeded(0))
    assert torch.equal(from_dataset.query.x, from_tensors.query.x)

    for name, shade in (("cat", 0), ("dog", 255)):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("L", (6, 6), shade).save(tmp_path / name / f"{i}.png")
    tasks = ClassificationTasks(ImageFolder(tmp_path), ways=2, queries=2)
    assert tasks.class_sizes == {"cat": 3, "dog": 3}
    assert ClassificationTasks(ImageFolder(tmp_path, target_transform=str), ways=2, queries=2).classes == ["0", "1"]
    batch = tasks.sample(5, seeded(0))
    assert batch.query.x.shape == (5, 4, 3, 6, 6)
    # A dog is white wherever it is drawn, so each label has one shade throughout its episode.
    for support_x, support_y, query_x, query_y in each_task(batch):
        for way in range(2):
            shades = torch.cat([support_x[support_y == way], query_x[query_y == way]]).unique()
            assert len(shades) == 1


def test_split_classes_is_disjoint_whole_and_shares_storage():
    tasks, _ = numbered([3] * 50, ways=2, shots=1, queries=1)
    parts = tasks.split_classes((0.64, 0.16, 0.2), seed=5)
    assert [len(part.classes) for part in parts] == [32, 8, 10]
    assert sorted(name for part in parts for name in part.classes) == tasks.classes
    assert all(part.x.data_ptr() == tasks.x.data_ptr() for part in parts)
    assert parts[0].classes != tasks.split_classes((0.64, 0.16, 0.2), seed=6)[0].classes
    drawn = parts[2].sample(50, seeded(0)).support.x.flatten().long()
    assert set(drawn.tolist()) <= set((parts[2].codes() // 4).tolist())


def test_arrays_as_numpy_and_pandas_keep_them_are_taken():
    names = np.array(["a", "b", "a", "b"], dtype=object)
    tasks = ClassificationTasks(np.random.default_rng(0).random((4, 3)), names, ways=2, queries=1)
    assert tasks.classes == ["a", "b"] and tasks.x.dtype == torch.float32


def test_whole_groups_are_on_one_side_of_a_split():
    names = [f"group{i % 10}/class{i}" for i in range(40)]
    tasks = ClassificationTasks(torch.randn(80, 2), names * 2, ways=2, queries=1)
    parts = tasks.split_classes((0.5, 0.2, 0.3), seed=1, whole_groups=True)
    groups = [{group_of(name) for name in part.classes} for part in parts]
    assert [len(found) for found in groups] == [5, 2, 3] and len(set().union(*groups)) == 10
    assert [len(part.classes) for part in parts] == [20, 8, 12]


def test_shards_are_a_meta_batch():
    tasks, _ = numbered([6] * 10, ways=3, shots=1, queries=2)
    batch = tasks.sample(5, seeded(0))
    shards = [batch.shard(part, 2) for part in range(2)]
    assert [shard.count for shard in shards] == [3, 2]
    assert torch.equal(shards[1].query.x, batch.query.x[[1, 3]])


def test_sinusoids_are_sinusoids():
    batch = sinusoid(shots=30, queries=30).sample(50, seeded(0))
    x, y = (
        torch.cat(parts, dim=1).double()
        for parts in ((batch.support.x, batch.query.x), (batch.support.y, batch.query.y))
    )
    basis = torch.cat([x.sin(), x.cos()], dim=-1)  # A sin(x - φ) = A cos φ sin x - A sin φ cos x
    weights = torch.linalg.lstsq(basis, y).solution
    assert torch.allclose(basis @ weights, y, atol=1e-5)
    amplitude, phase = weights.norm(dim=1).flatten(), torch.atan2(-weights[:, 1], weights[:, 0]).flatten()
    assert 0.1 <= amplitude.min() and amplitude.max() <= 5 and amplitude.std() > 1
    assert phase.min() > -1e-5 and phase.max() < torch.pi + 1e-5 and phase.std() > 0.5
    assert x.min() >= -5 and x.max() <= 5


def tasks_of(x, y, **sizes):
    return ClassificationTasks(x, y, **{"ways": 2, "queries": 1} | sizes)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x, y: tasks_of(x, y, ways=5), ValueError, "ways=5, but there are only 3 classes"),
        (lambda x, y: tasks_of(x, y, shots=3, queries=2), ValueError, r"3 \+ 2 = 5, but class 0 has only 4"),
        (lambda x, y: tasks_of(x, y[:-1]), ValueError, "x has 12 examples but y has 11 labels"),
        (lambda x, y: tasks_of(x, y.float()), TypeError, r"not float32; use y.long\(\)"),
        (
            lambda x, y: tasks_of(x, ["a", None] * 6),
            TypeError,
            "integers or all strings, but that of example 1 is None",
        ),
        (lambda x, y: tasks_of(DataLoader(x), None), TypeError, "x is a DataLoader.*give its dataset"),
        (lambda x, y: tasks_of(["fan"] * 12, y), TypeError, "x must hold numbers, each example in the same shape"),
        (lambda x, y: tasks_of([x[0], *x[1:, :1]], y), TypeError, "must have the same shape"),
        (
            lambda x, y: tasks_of(x, y).split_classes((0.5, 0.5), whole_groups=True),
            ValueError,
            "whole_groups=True needs classes named",
        ),
        (lambda x, y: tasks_of(x, y[:, None]), ValueError, r"shape \[n\], not \[12, 1\]"),
        (lambda x, y: tasks_of(x, None), ValueError, "y is missing"),
        (lambda x, y: tasks_of("photos", None), TypeError, r"x='photos' is a path; .* ImageFolder\(path\)"),
        (lambda x, y: tasks_of(TensorDataset(x, y), y), ValueError, "y was given twice"),
        (lambda x, y: tasks_of(x, y, ways=0), ValueError, "ways must be at least 1, and whole, not 0"),
        (lambda x, y: tasks_of(x, y, ways=2.0), ValueError, r"ways must be at least 1, and whole, not 2\.0"),
        (lambda x, y: tasks_of(x / 0, y), ValueError, "example 0 holds a number that is not finite"),
        (lambda x, y: tasks_of(x, y, way=2), TypeError, "way"),
        (lambda x, y: tasks_of(x, y, rotations=True), ValueError, "square images"),
        (lambda x, y: tasks_of(x, y).replace(shot=2), TypeError, "shot"),
        (lambda x, y: tasks_of(x, y).replace(shots=9), ValueError, "9 . 1 = 10"),
        (lambda x, y: tasks_of(x, y).select_classes([0, 8]), ValueError, "no class 8 .* such as 0, 1, 2"),
        (lambda x, y: tasks_of(x, y).select_classes([0, 0]), ValueError, "named twice"),
        (lambda x, y: tasks_of(x, y).split_classes((0.9, 0.1)), ValueError, "fewer than ways=2"),
        (lambda x, y: tasks_of(x, y).split_classes((0.9, 0.3)), ValueError, "sum to at most 1"),
        (lambda x, y: tasks_of(x, y).sample(1, 0), TypeError, "needs a torch.Generator, not 0"),
        (lambda x, y: RegressionTasks(lambda x, g: x, low=1, high=1), ValueError, "low=1 must be less than high=1"),
        (lambda x, y: sinusoid(shots=0), ValueError, "shots must be at least 1, and whole, not 0"),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make(torch.randn(12, 2), torch.arange(3).repeat_interleave(4))


def test_a_column_of_objects_may_hold_integers():
    assert tasks_of(torch.randn(4, 2), np.array([3, 5, 3, 5], dtype=object)).classes == [3, 5]


def test_a_task_moves_whole():
    batch = sinusoid().sample(2, seeded(0)).to("meta")
    assert isinstance(batch, Task) and all(part.device.type == "meta" for half in batch for part in half)


def _grouped(**settings) -> ClassificationTasks:
    """Three alphabets of 6, 5 and 2 letters with 3 drawings each; an example is its own number."""
    names = [f"{group}/{letter}" for group, size in (("A", 6), ("B", 5), ("C", 2)) for letter in range(size)]
    labels = [name for name in names for _ in range(3)]
    return ClassificationTasks(torch.arange(39.0)[:, None], labels, **{"shots": 1, "queries": 1} | settings)


@settings(PATIENT)
@given(ways=st.integers(2, 6), seed=st.integers(0, 2**32))
def test_within_groups_every_episode_is_of_one_group(ways, seed):
    tasks = _grouped(ways=ways, within_groups=True)
    drawn = tasks.draw(8, seeded(seed)) // 4
    groups = torch.bucketize(drawn // 3, torch.tensor([6, 11]), right=True).flatten(1)
    assert (groups == groups[:, :1]).all()
    assert all(len(episode.unique()) == ways for episode in drawn[:, :, 0] // 3)


def test_groups_that_are_large_enough_are_equally_likely():
    drawn = _grouped(ways=5, within_groups=True).draw(2_000, seeded(0)) // 4
    share = (drawn[:, 0, 0] < 18).double().mean()
    assert abs(share - 0.5) < 4 * 0.5 / 2_000**0.5


def test_groups_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="ways=7, but the largest group, 'A', has 6 classes; lower ways"):
        _grouped(ways=7, within_groups=True)
    with pytest.raises(ValueError, match='needs classes named "group/class"'):
        ClassificationTasks(torch.zeros(12, 2), torch.arange(6).repeat(2), shots=1, queries=1, within_groups=True)


def test_turned_classes_are_classes_of_turned_images():
    x = torch.rand(6, 1, 4, 4)
    tasks = ClassificationTasks(x, ["A/a"] * 3 + ["A/b"] * 3, ways=2, shots=1, queries=2).with_rotated_classes()
    assert tasks.classes == ["A/a", "A/b", "A@90/a", "A@90/b", "A@180/a", "A@180/b", "A@270/a", "A@270/b"]
    assert len(tasks) == 24
    for k in range(4):
        alone = tasks.select_classes([f"A@{90 * k}/b" if k else "A/b", "A/a" if k else "A@90/a"])
        assert torch.equal(alone.examples(alone.codes()[:3]), x[3:].rot90(k, (-2, -1)))
    integers = ClassificationTasks(x, torch.tensor([7] * 3 + [9] * 3), ways=2, shots=1, queries=2)
    assert integers.with_rotated_classes().classes[:4] == [7, 9, "7@90", "9@90"]


def test_turning_an_episode_turns_the_turned():
    x = torch.rand(6, 1, 4, 4)
    tasks = ClassificationTasks(x, [0] * 3 + [1] * 3, ways=2, shots=1, queries=2).with_rotated_classes()
    plain, turned = tasks.draw(30, seeded(0)), tasks.replace(rotations=True).draw(30, seeded(0))
    assert torch.equal(plain // 4, turned // 4)
    by = (turned - plain) % 4
    assert (by == by[..., :1]).all() and by.unique().tolist() == [0, 1, 2, 3]


def test_augmentation_is_drawn_from_the_generator_for_each_image():
    x = torch.zeros(40, 1, 6, 6, dtype=torch.uint8)
    tasks = ClassificationTasks(x, torch.arange(40) % 4, ways=3, shots=2, queries=3)
    noisy = tasks.replace(augment=lambda image: image + torch.rand(()))
    before = torch.random.get_rng_state()
    first, again, other = (noisy.sample(2, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.query.x, again.query.x) and not torch.equal(first.query.x, other.query.x)
    values = torch.cat([first.support.x, first.query.x], 1)[..., 0, 0].flatten()
    assert len(values.unique()) == 30


def test_supervised_minibatches_carry_the_labels_of_the_whole_set():
    tasks, labels = numbered([5] * 8, ways=2, shots=1, queries=1)
    some = tasks.select_classes([tasks.classes[i] for i in (6, 1, 3)])
    minibatches = SupervisedTasks(some, batch_size=400)
    batch = minibatches.sample(2, seeded(0))
    assert batch.support.x.shape == (2, 0, 1) and batch.support.y.shape == (2, 0, 3)
    assert batch.query.x.shape == (2, 400, 1) and batch.query.y.argmax(-1).unique().tolist() == [0, 1, 2]
    of_row = labels[batch.query.x.flatten().long()]
    assert torch.equal(torch.tensor([6, 1, 3])[batch.query.y.argmax(-1).flatten()], of_row)
    assert len(batch.query.x.unique()) == 15
    assert torch.equal(batch.query.x, minibatches.sample(2, seeded(0)).query.x)
    with pytest.raises(ValueError, match="batch_size must be at least 1, and whole, not 0"):
        SupervisedTasks(some, batch_size=0)


def _three_tasks() -> FixedTasks:
    """Tasks that are told apart by their numbers: task i holds 10 i and what follows."""
    x = torch.arange(3.0)[:, None, None] * 10 + torch.arange(4.0)[:, None]
    y = rows(torch.tensor([0, 1, 1, 0])).expand(3, 4, 2)
    return FixedTasks(Task(Examples(x[:, :2], y[:, :2]), Examples(x[:, 2:], y[:, 2:])))


def test_fixed_tasks_are_a_list_and_a_distribution():
    tasks = _three_tasks()
    assert tasks.size == 3 and repr(tasks) == "FixedTasks(3 tasks)"
    for seed in (0, 1):  # the list is the same whatever the seed
        assert tasks.numbered(range(1, 3), seed).support.x[:, 0, 0].tolist() == [10, 20]
    first, again = (tasks.sample(200, seeded(3)) for _ in range(2))
    assert same(first, again)
    drawn = (first.support.x[:, 0, 0] / 10).long()
    assert drawn.bincount(minlength=3).min() > 30  # each a third of the time
    assert torch.equal(first.query.x, tasks.task.query.x[drawn])
    assert tasks.to("meta").task.query.y.device.type == "meta" and tasks.to("meta").objective is tasks.objective
    assert tasks.replace() is tasks
    with pytest.raises(TypeError, match="FixedTasks has no shots to replace"):
        tasks.replace(shots=2)
    with pytest.raises(TypeError, match="called on a Task"):
        FixedTasks((1, 2))


def test_a_distribution_without_a_method_says_which():
    with pytest.raises(NotImplementedError, match=r"Tasks must define sample\(n_tasks, generator\)"):
        Tasks().sample(1, seeded(0))
    with pytest.raises(NotImplementedError, match=r"Tasks must define to\(device\)"):
        Tasks().to("cpu")


def test_failures_are_the_least_accurate_classes():
    by_class = torch.tensor([[0.5, 0.25, 1.0], [0.5, 1.0, 0.5]])
    assert failures(by_class).tolist() == [1, 0]  # the first of several that tie


def _told(tasks: HardTasks, worst: int) -> None:
    """Tell that in each of two tasks the class of this label was answered worst."""
    scores = torch.ones(2, tasks.tasks.ways)
    scores[:, worst] = 0.25
    tasks.feedback({"accuracy": scores.mean(1), "accuracy by class": scores})


def test_hard_tasks_keep_their_memory_on_another_device_and_in_a_state():
    plain, _ = numbered([4] * 9, ways=3, shots=1, queries=2)
    tasks = HardTasks(plain, pool=4)
    for i in range(3):
        tasks.sample(2, seeded(i))
        _told(tasks, worst=2)
    moved, restored = tasks.to("meta"), HardTasks(plain, pool=4)
    assert moved.tasks.x.device.type == "meta" and tasks.tasks.x.device.type == "cpu"
    restored.load_state_dict(tasks.state_dict())
    for other in (moved, restored):
        assert other.state_dict() == tasks.state_dict() and other.hard == tasks.hard
    assert same(restored.sample(2, seeded(9)), tasks.sample(2, seeded(9)))


def test_hard_tasks_ask_for_the_accuracy_of_each_class_besides_all_else():
    plain, _ = numbered([4] * 9, ways=3, shots=1, queries=2)
    objective = HardTasks(plain).objective
    assert list(objective.metrics) == ["accuracy", "accuracy by class"] and objective.main == "accuracy"
    assert objective.loss is plain.objective.loss
    outputs = 9.0 * rows(torch.tensor([0, 0, 1, 2, 2, 2]))
    y = rows(torch.tensor([0, 1, 1, 2, 0, 0]))
    assert objective.metrics["accuracy by class"].of(outputs, y).tolist() == pytest.approx([1 / 3, 1 / 2, 1])
