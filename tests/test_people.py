"""People and machines as tasks: tables by group, a population whose best answer is known, three real data sets."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from mlcore import MAML, Alpaca, Examples, GroupedTasks, ProtoNet, evaluate, seeded
from mlcore.datasets import PopulationTasks, load, parkinsons, population, tennessee
from mlcore.datasets.movielens import film_means, movielens, parts_of_users, read_movielens
from mlcore.datasets.parkinsons import Recordings, visits
from mlcore.datasets.tennessee import TwoRuns, summaries, whitening
from mlcore.densities import Gaussian, either
from mlcore.objective import mse


def _table(counts=(4, 9, 6), **settings) -> GroupedTasks:
    who = np.repeat(["a", "b", "c"], counts)
    rows = np.arange(len(who), dtype=np.float32)
    return GroupedTasks(rows[:, None], rows, who, **{"shots": 2, "queries": 2} | settings)


def _group_of(x, counts=(4, 9, 6)):
    return np.searchsorted(np.cumsum(counts), x.numpy().ravel(), side="right")


# Tables by group.


def test_a_task_is_of_one_group_and_its_rows_are_distinct():
    task = _table().sample(200, seeded(0))
    x = torch.cat([task.support.x, task.query.x], 1)[..., 0]
    assert all(len(set(_group_of(row))) == 1 for row in x)
    assert all(len(row.unique()) == 4 for row in x)
    assert torch.equal(x[..., None], torch.cat([task.support.y, task.query.y], 1))
    share = np.bincount([_group_of(row)[0] for row in x]) / 200
    assert np.abs(share - 1 / 3).max() < 0.12  # groups are equally likely, whatever their rows


def test_equal_generators_give_equal_tasks_and_ranges_vary():
    tasks = _table(shots=(1, 2))
    again = [tasks.sample(3, seeded(i)).support.x for i in (5, 5)]
    assert torch.equal(*again) and not tasks.one_shape
    assert {tasks.sample(1, seeded(i)).support.x.shape[1] for i in range(20)} == {1, 2}


def test_with_dates_nobody_learns_from_the_future():
    when = -np.arange(19.0)  # the table's last rows are the earliest
    for tasks in (_table(when=when), _table(when=when).once_each().replace(queries=20)):
        for i in range(3):
            task = tasks.numbered(range(i, i + 1), 0)
            assert task.support.x.min() > task.query.x.max()
    once = _table(when=when).once_each().numbered(range(1), 0)
    assert once.support.x[0, :, 0].tolist() == [3, 2]  # the first two of group a


def test_each_group_once_with_all_its_other_rows():
    tasks = _table().once_each().replace(queries=20)
    assert tasks.size == 3 and not tasks.one_shape and _table().once_each().one_shape
    parts = [tasks.numbered(range(i, i + 1), 0) for i in range(3)]
    assert [part.query.x.shape[1] for part in parts] == [2, 7, 4]
    for i, part in enumerate(parts):
        x = torch.cat([part.support.x, part.query.x], 1)
        assert len(x.unique()) == (4, 9, 6)[i] and set(_group_of(x)) == {i}

    class Zero(Alpaca):
        def predict(self, state, x):
            return super().predict(state, x)._replace(mean=0 * x)

    score = evaluate(Zero(nn.Identity(), features=1), tasks.replace(queries=20)._with(objective=either))
    assert len(score.per_task) == 3


def test_parts_share_no_group_and_lose_none():
    parts = _table().split((1 / 3, 1 / 3, 1 / 3), seed=1)
    assert sorted(name for part in parts for name in part.groups) == ["a", "b", "c"]
    assert sorted(torch.cat([part.rows() for part in parts]).tolist()) == list(range(19))
    assert set(_group_of(_table().select(["b"]).sample(9, seeded(0)).query.x)) == {1}
    assert _table().to("cpu").replace(shots=1).shots == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _table(shots=3), r"group 'a' has 4 rows, but shots \+ queries = 5; lower them"),
        (lambda: _table(shots=20, drop_small=True), r"no group has shots \+ queries rows"),
        (lambda: _table(when=[1.0, 2.0]), r"need an entry for every row.*when 2"),
        (lambda: _table().select(["z"]), "there is no group 'z'; choose among 'a', 'b', 'c'"),
        (lambda: _table().split((0.5, 0.2)), "shares must sum to 1"),
        (lambda: _table().split((0.9, 0.1)), "leave a part"),
        (lambda: _table().once_each().replace(shots=4), r"group 'a' has 4 rows, but shots \+ 1 query = 5"),
        (lambda: GroupedTasks(np.array([[np.nan]], "float32"), [1.0], ["a"]), "x of row 0 .* not finite"),
    ],
)
def test_bad_tables_are_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_integer_targets_are_refused():
    with pytest.raises(TypeError, match=r"y must be floats, not torch\.int64"):
        GroupedTasks(torch.ones(4, 1), torch.ones(4).long(), [1, 1, 1, 1], shots=1, queries=1)


def test_small_groups_can_be_left_out():
    assert _table(shots=4, drop_small=True).groups == ["b", "c"]


# A population whose best answer is known.


def test_the_exact_answer_is_the_posterior_mean_and_its_error_is_as_bayes_rule_says():
    people = PopulationTasks(noise=0.4, shots=6, queries=30)
    exact = people.exact()
    task = people.sample(1, seeded(3))
    phi, new = people.tastes(task.support.x[0]), people.tastes(task.query.x[0])
    cov = people.root @ people.root.T
    gain = cov @ phi.T @ torch.linalg.inv(phi @ cov @ phi.T + 0.16 * torch.eye(6))
    w = people.mean + gain @ (task.support.y[0] - phi @ people.mean)
    said = exact.predict(exact.adapt(Examples(task.support.x[0], task.support.y[0])), task.query.x[0])
    torch.testing.assert_close(said.mean, new @ w, atol=1e-5, rtol=1e-5)
    many = people.sample(800, seeded(4))
    outputs = exact.eval()(many)
    claimed, found = outputs.scale.square().mean(), (outputs.mean - many.query.y).square().mean()
    assert abs(claimed / found - 1) < 0.05


def test_meta_training_has_nothing_to_change_in_the_exact_answer():
    people = population(shots=5, queries=10)
    batch, steepness = people.sample(1_000, seeded(0)), []
    for noise in (people.noise, 2 * people.noise):
        learner = people.exact().requires_grad_(True)
        with torch.no_grad():
            learner.log_noise.fill_(math.log(noise))
        learner.meta_loss(batch, people.objective).backward()
        steepness.append(torch.cat([p.grad.flatten() for p in learner.parameters()]).norm())
    assert steepness[0] < 0.1 * steepness[1]


def test_a_population_needs_noise():
    with pytest.raises(ValueError, match="noise=0 must be positive"):
        population(noise=0)


@pytest.mark.parametrize("steps", [1, 4])
def test_maml_on_one_weight_is_a_shrunken_mean(steps):
    net, y = nn.Linear(1, 1, bias=False).double(), torch.randn(5, 1).double()
    learner = MAML(net, inner_lr=0.07, inner_steps=steps, loss_fn=mse)
    x, m = torch.ones_like(y), net.weight.item()
    said = learner.predict(learner.adapt(Examples(x, y)), x[:1]).item()
    assert said == pytest.approx(m + (1 - 0.86**steps) * (y.mean().item() - m), abs=1e-12)


def test_distributions_and_numbers_are_judged_by_one_objective():
    y, mean = torch.randn(6, 1), torch.randn(6, 1)
    normal = Gaussian(mean, torch.full_like(mean, 0.3))
    for name, value in {"mae": (mean - y).abs().mean(), "mse": (mean - y).square().mean()}.items():
        assert either.metrics[name].of(normal, y) == either.metrics[name].of(mean, y) == value
    assert either.loss(mean, y) == mse(mean, y)
    assert either.loss(normal, y) == -normal.log_density(y).mean()
    with pytest.raises(ValueError, match=r"predicts targets \[6\]"):
        either.metrics["mae"].of(mean[:, 0], y)


# Classes known across runs.


def test_support_and_queries_come_from_different_runs():
    first, second = torch.zeros(6, 8, 2), torch.ones(6, 9, 2)
    first[..., 1] = second[..., 1] = torch.arange(6.0)[:, None]
    task = TwoRuns(first, second, ways=4, shots=3, queries=5).sample(50, seeded(0))
    assert task.support.x.shape == (50, 12, 2) and task.query.x.shape == (50, 20, 2)
    assert (task.support.x[..., 0] == 0).all() and (task.query.x[..., 0] == 1).all()
    for half, count in ((task.support, 3), (task.query, 5)):
        assert (half.y.sum(1) == count).all()
    for support, query, ys, yq in zip(
        task.support.x[..., 1], task.query.x[..., 1], task.support.y.argmax(-1), task.query.y.argmax(-1), strict=True
    ):
        for way in range(4):  # one class behind each label, the same in both runs
            assert len({*support[ys == way].tolist(), *query[yq == way].tolist()}) == 1
    learner = ProtoNet(nn.Identity())
    assert evaluate(learner, TwoRuns(first, second, shots=1, queries=5), episodes=20, progress=False).mean == 1


@pytest.mark.parametrize(("sizes", "message"), [({"ways": 7}, "ways=7"), ({"shots": 9}, "shots=9")])
def test_runs_refuse_sizes_that_do_not_fit(sizes, message):
    with pytest.raises(ValueError, match=message):
        TwoRuns(torch.zeros(6, 8, 2), torch.ones(6, 10, 2), **sizes)


def test_whitening_makes_euclid_of_mahalanobis():
    """With classes of one covariance, by Mahalanobis' distance in numpy; a large ridge leaves Euclid's."""
    one = torch.randn(1, 40, 4, generator=seeded(0), dtype=torch.float64)
    one = one @ torch.randn(4, 4, generator=seeded(1), dtype=torch.float64)
    centres = torch.randn(5, 1, 4, generator=seeded(2), dtype=torch.float64)
    turn = whitening(one + centres, ridge=0.0)
    covariance = np.cov(one[0].numpy().T, ddof=0)
    inverse = np.linalg.inv(covariance) * covariance.trace() / 4
    np.testing.assert_allclose((turn @ turn.T).numpy(), inverse, rtol=1e-8)
    strong = whitening(one + centres, ridge=1e6)
    torch.testing.assert_close(
        strong @ strong.T, (strong @ strong.T)[0, 0] * torch.eye(4).double(), atol=1e-8, rtol=1e-4
    )


def test_no_class_decides_the_units_alone():
    """A class that swings a thousand times as far weighs as much as any other."""
    z = torch.randn(3, 50, 4, generator=seeded(0), dtype=torch.float64) * torch.tensor([1.0, 2.0, 1.0, 0.5])
    louder = z * torch.tensor([1.0, 1.0, 1000.0])[:, None, None]
    torch.testing.assert_close(whitening(louder), whitening(z))


def test_windows_of_a_run_are_summed_up():
    run = np.arange(50.0)[:, None] * np.array([[1.0, 0.0]])
    means = summaries(run)
    assert means.shape == (4, 4) and means[:, 0].tolist() == [9.5, 19.5, 29.5, 39.5]
    assert means[0, 2].item() == pytest.approx(math.log(math.sqrt((20**2 - 1) / 12) + 0.1), abs=1e-5)


# The real tables, where they are.


def test_visits_are_means_of_a_days_recordings():
    day = np.array([1.0, 1.1, 8.0, 1.0])
    made = Recordings(np.array([1, 1, 1, 2]), day, np.zeros((4, 2)), np.eye(4, 16), day * 2, day * 3)
    seen = visits(made)
    assert seen.patient.tolist() == [1, 1, 2] and seen.day.tolist() == pytest.approx([1.05, 8, 1])
    assert seen.total.tolist() == pytest.approx([3.15, 24, 3]) and seen.voice[0, :2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("load_it", "folder"), [(movielens, "movielens_small"), (parkinsons, "parkinsons"), (tennessee, "tep")]
)
def test_absent_and_damaged_tables_are_reported(tmp_path, load_it, folder):
    with pytest.raises(FileNotFoundError, match=f"{folder}.*MLCORE_DATA"):
        load_it(root=tmp_path)
    (tmp_path / folder).mkdir()
    for name in ("ratings.csv", "movies.csv", "parkinsons_updrs.csv"):
        (tmp_path / folder / name).write_text("a,b,c,d\n1,2,3,4\n", encoding="utf-8")
    (tmp_path / folder / "tep.npz").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="get it again"):
        load_it(root=tmp_path)


@pytest.mark.usefixtures("needs_tables")
def test_movielens_parts_share_no_user_and_a_film_mean_leaves_the_rating_out():
    ratings = read_movielens()
    parts = parts_of_users(ratings)
    assert [len(part) for part in parts] == [390, 98, 122] and len(set(np.concatenate(parts))) == 610
    mean, others = film_means(ratings, parts[0])
    row = np.flatnonzero(np.isin(ratings.user, parts[0]))[100]
    rest = (ratings.film == ratings.film[row]) & np.isin(ratings.user, parts[0])
    rest[row] = False
    everywhere = ratings.stars[np.isin(ratings.user, parts[0])].mean()
    assert others[row] == rest.sum()
    assert mean[row] == pytest.approx((ratings.stars[rest].sum() + 3 * everywhere) / (rest.sum() + 3))
    train, val, test = load("movielens", shots=10)
    assert test.size == 122 and train.size is None and not set(train.groups) & set(val.groups)
    assert train.sample(2, seeded(0)).support.x.shape == (2, 10, 22)


@pytest.mark.usefixtures("needs_tables")
def test_parkinsons_is_read_whole():
    trial = parkinsons()
    assert trial.voice.shape == (5_875, 16) and (np.diff(trial.patient) >= 0).all()
    assert len(visits(trial).day) == 990


@pytest.mark.usefixtures("needs_tables")
def test_the_plants_faults_are_apart():
    train, val, test = tennessee(whiten=True)
    assert [len(part.first) for part in (train, val, test)] == [10, 5, 6]
    raw, _, _ = tennessee()
    size = (raw.first - raw.first.mean(1, keepdim=True)).square().mean((1, 2))[:, None, None]
    inside = (train.first - train.first.mean(1, keepdim=True)) / size.sqrt()
    assert inside.square().mean() < 1  # the ridge leaves it below one
