"""Learners that read a support set in one pass, and the exact answers beside which they are set."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, ExpSineSquared, Matern
from torch.func import grad

from mlcore import (
    CNP,
    AttentiveCNP,
    Examples,
    GaussianProcess,
    InContext,
    LinearAttention,
    PriorFitted,
    Task,
    TransformerNP,
    classification,
    evaluate,
    regression,
    seeded,
)
from mlcore.datasets import gaussian_process, linear_regression, tables
from mlcore.datasets.gaussian_process import GaussianProcessTasks, Hyperparameters
from mlcore.datasets.linear_regression import LinearRegressionTasks
from mlcore.datasets.tables import standardised
from mlcore.densities import Bars, Gaussian, Mixture, coverage, density, error_of_mean, log_likelihood
from mlcore.kernels import KERNELS, matern52, periodic, rbf
from mlcore.learners.attentive_cnp import Memory
from mlcore.nets.transformer import Attention

DOUBLE = torch.float64


def one(task: Task) -> Task:
    """The first task of a batch, in double precision."""
    return task.each(lambda tensor: tensor[0].double())


# Densities.


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_densities_integrate_to_one_and_agree_with_torchs(scale):
    y = torch.linspace(-40, 40, 40_001, dtype=DOUBLE)[:, None]
    gaussian = Gaussian(torch.full_like(y, 0.7), torch.full_like(y, scale))
    torch.testing.assert_close(gaussian.log_density(y), torch.distributions.Normal(0.7, scale).log_prob(y)[:, 0])
    weights = torch.tensor([0.2, 0.8], dtype=DOUBLE)
    parts = (weights.log(), torch.tensor([-1.0, 2.0], dtype=DOUBLE), torch.tensor([0.5, scale], dtype=DOUBLE))
    mixture = Mixture(*(part.expand(len(y), 2) for part in parts))
    for outputs in (gaussian, mixture):
        p = outputs.log_density(y).exp()
        assert abs(torch.trapezoid(p, y[:, 0]) - 1) < 1e-8
        mean = torch.trapezoid(p * y[:, 0], y[:, 0])
        assert abs(outputs.mean[0] - mean) < 1e-8
        assert abs(outputs.scale[0] ** 2 - torch.trapezoid(p * (y[:, 0] - mean) ** 2, y[:, 0])) < 1e-7


def test_of_all_gaussians_the_one_with_a_mixtures_moments_is_nearest():
    parts = torch.tensor([0.3, 0.7]).log(), torch.tensor([-1.0, 1.5]), torch.tensor([0.4, 0.8])
    mixture = Mixture(*(part.double().expand(200_001, 2) for part in parts))
    y = torch.linspace(-20, 20, 200_001, dtype=DOUBLE)[:, None]
    p, best = mixture.log_density(y).exp(), mixture.gaussian()

    def expected(mean: float, factor: float) -> float:
        return torch.trapezoid(p * Gaussian(best.mean + mean, best.scale * factor).log_density(y), y[:, 0]).item()

    top = expected(0, 1)
    assert all(
        expected(mean, factor) < top for mean in (-0.1, 0, 0.1) for factor in (0.9, 1, 1.1) if mean or factor != 1
    )
    below = [expected(0, factor) for factor in (1, 1.2, 1.5, 2)]  # under a floor the best scale is the floor
    assert below == sorted(below, reverse=True)


def test_samples_and_quantiles_are_of_the_density():
    outputs = Gaussian(torch.full((50_000, 1), -0.5), torch.full((50_000, 1), 1.5))
    y = outputs.sample(seeded(0))
    for p in (0.05, 0.5, 0.9):
        assert abs((y < outputs.quantile(p)).float().mean() - p) < 5 * math.sqrt(p * (1 - p) / 50_000)
    assert abs(coverage(outputs, y) - 0.9) < 0.01
    assert abs(error_of_mean(outputs, y) - 1.5**2) < 0.1


def bars(n: int, *, seed: int = 0) -> Bars:
    """A density of nine uneven bars, the same for each of n targets."""
    borders = torch.tensor([-3.0, -2.2, -1.0, -0.5, 0.0, 0.1, 0.7, 1.0, 1.6, 3.0], dtype=DOUBLE)
    return Bars(torch.randn(9, generator=seeded(seed), dtype=DOUBLE).expand(n, 9), borders)


def test_bars_integrate_to_one_and_have_their_own_moments():
    y = torch.linspace(-15, 15, 300_001, dtype=DOUBLE)[:, None]
    outputs = bars(len(y))
    p, y = outputs.log_density(y).exp(), y[:, 0]
    assert abs(torch.trapezoid(p, y) - 1) < 1e-4  # of steps as wide as this, at the borders
    mean = torch.trapezoid(p * y, y)
    assert abs(outputs.mean[0] - mean) < 1e-3
    assert abs(outputs.scale[0] ** 2 - torch.trapezoid(p * (y - mean) ** 2, y)) < 1e-3
    far = Bars(torch.zeros(2, 9), outputs.borders.float()).log_density(torch.tensor([[-30.0], [30.0]]))
    assert far.isfinite().all()


def test_samples_and_quantiles_of_bars_are_of_the_density():
    outputs = bars(50_000)
    y = outputs.sample(seeded(0))
    grid = torch.linspace(-15, 15, 50_000, dtype=DOUBLE)
    below = torch.cumulative_trapezoid(outputs.log_density(grid[:, None]).exp(), grid)
    for p in (0.001, 0.05, 0.5, 0.9, 0.999):
        assert abs((y < outputs.quantile(p)).double().mean() - p) < 5 * math.sqrt(p * (1 - p) / 50_000)
        at = torch.searchsorted(grid, outputs.quantile(p)[0]).item()
        assert abs(below[at - 1] - p) < 2e-3
    assert abs(y.mean() - outputs.mean[0, 0]) < 5 * outputs.scale[0, 0] / math.sqrt(50_000)


def test_bars_have_right_gradients_and_equal_shares():
    y = torch.tensor([[-4.0], [-0.7], [0.05], [2.5]], dtype=DOUBLE)
    logits = torch.randn(4, 9, generator=seeded(1), dtype=DOUBLE, requires_grad=True)
    borders = bars(1).borders.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda *parts: Bars(*parts).log_density(y), (logits, borders))
    together = torch.vmap(lambda a, b: Bars(a, borders).log_density(b))(logits[:, None], y[:, None])
    torch.testing.assert_close(together[:, 0], Bars(logits, borders).log_density(y))
    drawn = torch.randn(10_000, 1, generator=seeded(2))
    counts = torch.histogram(drawn, Bars.borders_of(drawn, 20)).hist
    assert (counts - 500).abs().max() <= 2
    with pytest.raises(ValueError, match=r"bars must be at least 3, two of which are tails, not 2"):
        Bars.borders_of(drawn, 2)
    with pytest.raises(ValueError, match=r"9 targets do not part into 5 bars; give more of them, or fewer"):
        Bars.borders_of(torch.zeros(9), 5)


def test_what_is_no_density_or_does_not_fit_is_refused():
    with pytest.raises(TypeError, match=r"a likelihood needs a learner that predicts a distribution.*not Tensor"):
        log_likelihood(torch.zeros(3, 1), torch.zeros(3, 1))
    outputs = Gaussian(torch.zeros(3, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"predicts targets \[3, 1\] but the task has \[3, 2\]"):
        log_likelihood(outputs, torch.zeros(3, 2))


def test_a_scale_stays_above_its_floor():
    raw = torch.linspace(-50, 50, 100).view(-1, 1).repeat(1, 2)
    assert Gaussian.of(raw, 0.1).scale.min() >= 0.1
    with pytest.raises(ValueError, match=r"floor must be at least 0 and less than 1, not 1.5"):
        Gaussian.of(raw, 1.5)
    assert 0 < Gaussian.of(raw).scale.min() < 1e-3


# Gaussian processes.


REFERENCES = {
    "rbf": (rbf, lambda length, period: RBF(length)),
    "matern52": (matern52, lambda length, period: Matern(length, nu=2.5)),
    "periodic": (periodic, lambda length, period: ExpSineSquared(length, period)),
}


@pytest.mark.parametrize("kernel", REFERENCES)
def test_the_posterior_is_scikit_learns(kernel):
    ours, theirs = REFERENCES[kernel]
    length, scale, noise, period = 0.4, 0.7, 0.1, 0.35
    task = one(gaussian_process(kernel, shots=8, queries=20).sample(1, seeded(3)))
    learner = GaussianProcess(
        ours, length=(length, length), scale=(scale, scale), noise=noise, period=torch.tensor(period, dtype=DOUBLE)
    )
    outputs = learner.predict(learner.adapt(task.support), task.query.x)
    covariance = ConstantKernel(scale**2) * theirs(length, period)
    reference = GaussianProcessRegressor(covariance, alpha=noise**2, optimizer=None).fit(*task.support)
    mean, spread = reference.predict(task.query.x, return_std=True)
    np.testing.assert_allclose(outputs.mean[:, 0], mean.ravel(), atol=1e-9)
    np.testing.assert_allclose(outputs.scale[:, 0], np.sqrt(spread**2 + noise**2), atol=1e-9)


def test_unknown_hyperparameters_are_weighed_by_their_evidence():
    """The same mixture, by scikit-learn's marginal likelihood at every point of a small grid."""
    task = one(gaussian_process(shots=6, queries=10).sample(1, seeded(1)))
    learner = GaussianProcess(rbf, length=(0.1, 0.6), scale=(0.1, 1.0), noise=0.05, points=4)
    state = learner.adapt(task.support)
    evidence, means = torch.zeros(4, 4, dtype=DOUBLE), torch.zeros(4, 4, 10, dtype=DOUBLE)
    for i, length in enumerate(learner.lengths):
        for j, scale in enumerate(learner.scales):
            covariance = ConstantKernel(scale.item() ** 2) * RBF(length.item())
            reference = GaussianProcessRegressor(covariance, alpha=0.05**2, optimizer=None).fit(*task.support)
            evidence[i, j] = reference.log_marginal_likelihood_value_
            means[i, j] = torch.from_numpy(reference.predict(task.query.x).ravel())
    weights = evidence.flatten().softmax(0).view(4, 4)
    torch.testing.assert_close(state.log_weights.exp(), weights, rtol=1e-6, atol=1e-9)
    expected = (weights[..., None] * means).sum((0, 1))
    torch.testing.assert_close(learner.predict(state, task.query.x).mean[:, 0], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_bayes_is_calibrated_and_nobody_who_knows_less_is_better():
    tasks = gaussian_process()
    bayes = evaluate(GaussianProcess.of(tasks), tasks, episodes=300, progress=False)
    wrong = GaussianProcess(rbf, length=(0.3, 0.6), scale=(0.1, 1.0), noise=0.02)
    gap = bayes.per_task - evaluate(wrong, tasks, episodes=300, progress=False).per_task
    gap = gap.clamp(-1, 1)  # some tasks lose tens of nats, and would widen the interval
    assert gap.mean() > 3 * gap.std() / math.sqrt(300)
    assert abs(bayes["coverage"].mean - 0.9) < 3 * bayes["coverage"].ci95


@pytest.mark.slow
def test_a_finer_grid_changes_nothing_that_a_table_prints():
    tasks = gaussian_process()
    coarse, fine = (
        evaluate(GaussianProcess.of(tasks, points=points), tasks, episodes=20, progress=False).per_task
        for points in (40, 120)
    )
    assert abs((coarse - fine).mean()) < 0.002


def test_draws_have_the_covariance_of_their_kernel():
    tasks = gaussian_process("matern52", length=(0.5, 0.5), scale=(0.8, 0.8), noise=0.1)
    x = torch.tensor([-0.5, 0.0, 0.9]).view(1, 3, 1).expand(40_000, -1, -1)
    y = tasks.values(x, seeded(0))[..., 0].double()
    expected = 0.64 * matern52(x[0] - x[0].mT, torch.tensor(0.5)) + 0.01 * torch.eye(3)
    torch.testing.assert_close(y.T @ y / len(y), expected.double(), atol=0.02, rtol=0)


def test_an_oracle_is_told_what_a_sample_was_drawn_with(monkeypatch):
    tasks = gaussian_process("periodic")
    seen, draw = [], tasks.hyperparameters
    monkeypatch.setattr(tasks, "hyperparameters", lambda *arguments: seen.append(draw(*arguments)) or seen[-1])
    told, task = tasks.oracle(2, seeded(4)), tasks.sample(2, seeded(4))
    assert isinstance(told, Hyperparameters) and told.length.shape == (2, 1, 1)
    assert all(torch.equal(a, b) for a, b in zip(told, seen[1], strict=True))
    known = GaussianProcessTasks("rbf", length=(0.3, 0.3), scale=(0.5, 0.5)).oracle(3, seeded(4))
    assert known.length.eq(0.3).all() and known.scale.eq(0.5).all()
    points = task.support.x.shape[1] + task.query.x.shape[1]
    assert points <= 49 and task.query.x.shape[1] >= 3


@pytest.mark.parametrize("seed", range(30))
def test_there_are_never_too_many_points(seed):
    task = gaussian_process().sample(1, seeded(seed))
    shots, queries = task.support.x.shape[1], task.query.x.shape[1]
    assert 3 <= shots <= 46 and queries >= 3 and shots + queries <= 49


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "linear"}, "kernel must be one of rbf, matern52, periodic, not 'linear'"),
        ({"length": (0.6, 0.1)}, r"length=\(0.6, 0.1\) must be two positive numbers, the smaller one first"),
        ({"noise": 0}, "noise=0 must be positive"),
        ({"shots": 40, "queries": 20}, "shots=40 and queries=20 are more than points=49"),
    ],
)
def test_processes_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        gaussian_process(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"noise": 0.0}, "noise=0.0 must be positive"), ({"length": (0.5, 0.1)}, "length=.* the smaller one first")],
)
def test_a_learner_of_no_process_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GaussianProcess(rbf, **{"length": (0.1, 0.6), "scale": (0.1, 1.0), "noise": 0.02} | settings)


def test_a_period_must_be_named():
    with pytest.raises(ValueError, match="a periodic kernel has a period for every task; name one"):
        GaussianProcess.of(gaussian_process("periodic"))


def test_kernels_are_one_at_no_distance():
    for kernel in KERNELS.values():
        assert kernel(torch.zeros(1), torch.tensor(0.3), torch.tensor(0.2)) == 1
    with pytest.raises(ValueError, match="a periodic kernel needs a period"):
        periodic(torch.zeros(1), torch.tensor(0.3))


# Neural processes.


@pytest.mark.parametrize("portions", [1, 2, 5])
def test_a_support_set_may_come_in_portions(portions):
    torch.manual_seed(0)
    learner, task = CNP(width=8).double(), one(gaussian_process(shots=10, queries=4).sample(1, seeded(0)))
    state = learner.begin()
    for x, y in zip(task.support.x.chunk(portions), task.support.y.chunk(portions), strict=True):
        state = learner.update(state, Examples(x, y))
    at_once = learner.predict(learner.adapt(task.support), task.query.x)
    torch.testing.assert_close(learner.predict(state, task.query.x), at_once)


@pytest.mark.parametrize("build", [CNP, AttentiveCNP, TransformerNP])
def test_none_of_them_can_count(build):
    """Means and softmax attention do not change when every support point comes twice; Bayes' rule does."""
    torch.manual_seed(0)
    learner, task = build().double(), one(gaussian_process(shots=6, queries=5).sample(1, seeded(2)))
    twice = Examples(*(part.repeat(2, 1) for part in task.support))
    once, again = (learner.predict(learner.adapt(support), task.query.x) for support in (task.support, twice))
    torch.testing.assert_close(once, again, rtol=1e-12, atol=1e-12)
    exact = GaussianProcess(rbf, length=(0.3, 0.3), scale=(1.0, 1.0), noise=0.3)
    once, again = (exact.predict(exact.adapt(support), task.query.x).scale for support in (task.support, twice))
    assert (again < once).all() and (once - again).max() > 0.01


def test_uniform_attention_is_a_mean():
    torch.manual_seed(0)
    attention = Attention(6, 2).double()
    values = torch.randn(1, 5, 6, dtype=DOUBLE)
    queries = torch.randn(1, 3, 6, dtype=DOUBLE)
    seen = attention(queries, torch.ones(1, 5, 6, dtype=DOUBLE), values)
    same = attention(queries, torch.ones(1, 1, 6, dtype=DOUBLE), values.mean(1, keepdim=True))
    torch.testing.assert_close(seen, same)


def test_attention_is_torchs():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2).double(), torch.nn.MultiheadAttention(8, 2, batch_first=True).double()
    theirs.load_state_dict(ours.state_dict())
    queries, keys, values = (torch.randn(2, n, 8, dtype=DOUBLE) for n in (3, 5, 5))
    torch.testing.assert_close(ours(queries, keys, values), theirs(queries, keys, values)[0])


def test_a_memory_holds_a_key_and_a_value_for_every_point():
    state = AttentiveCNP(width=16).adapt(Examples(torch.randn(7, 1), torch.randn(7, 1)))
    assert isinstance(state, Memory) and state.keys.shape == state.values.shape == (7, 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build", [lambda: CNP(width=6), lambda: AttentiveCNP(width=8, heads=2), lambda: TransformerNP(width=8, layers=2)]
)
def test_gradients_of_likelihoods_are_their_finite_differences(build, differences_agree):
    torch.manual_seed(0)
    learner, tasks = build().double(), gaussian_process(shots=4, queries=3)
    batch = tasks.sample(2, seeded(0)).each(lambda tensor: tensor.double())
    learner.meta_backward(batch, density)
    differences_agree(learner, lambda: learner.meta_loss(batch, density), atol=1e-7)


# Linear attention.


@pytest.mark.parametrize("layers", [1, 2, 5, 20])
def test_layers_of_linear_attention_are_steps_of_gradient_descent(layers):
    task = one(linear_regression(4, shots=7, queries=3).sample(1, seeded(0)))
    learner = LinearAttention.descent(4, layers=layers, rate=0.2).double()
    x, y = task.support
    gradient = grad(lambda w: (x @ w - y).square().sum() / (2 * len(x)))
    w = torch.zeros(4, 1, dtype=DOUBLE)
    for _ in range(layers):
        w = w - float(torch.tensor(0.2)) * gradient(w)  # the rate as the layer holds it
    torch.testing.assert_close(learner.predict(learner.adapt(task.support), task.query.x), task.query.x @ w)


def test_the_best_single_step_has_the_loss_of_the_closed_form():
    """Half the squared error of one step on 10 points of 10 dimensions, as von Oswald et al. (2023) draw it."""
    tasks = linear_regression(10, uniform=True, shots=10, queries=1)
    variance, fourth, n, d = 1 / 12, 1 / 80, 10, 10
    c = n * (fourth + (d - 1) * variance**2) + n * (n - 1) * variance**2
    rate = n * variance / c  # of the sum of squares
    closed = d * variance / 2 * (1 - (n * variance) ** 2 / c)
    assert abs(closed - 0.206229) < 1e-6
    learner = LinearAttention.descent(10, rate=n * rate).eval()
    errors = evaluate(learner, tasks, episodes=4_000, progress=False).per_task / 2
    assert abs(errors.mean() - closed) < 3 * errors.std() / math.sqrt(4_000)


# Learning in context.


def test_one_pass_answers_for_every_length_of_the_context():
    torch.manual_seed(0)
    learner, task = InContext(3, width=16, layers=3).double(), one(linear_regression(3, shots=6).sample(1, seeded(0)))
    (x, y), state = task.support, learner.adapt(task.support)
    along = learner.along(state)
    for k in range(6):
        shorter = learner.adapt(Examples(x[:k], y[:k]))
        torch.testing.assert_close(learner.predict(shorter, x[k : k + 1]), along[k : k + 1])
    expected = torch.cat([(along - y), learner.predict(state, task.query.x) - task.query.y]).square().mean()
    outputs = learner.predict(state, task.query.x)
    torch.testing.assert_close(learner.loss(state, outputs, task.query, regression), expected)


def test_lengths_of_the_context_are_weighed():
    torch.manual_seed(0)
    plain = InContext(3, width=16, layers=2).double()
    task = one(linear_regression(3, shots=2, queries=2).sample(1, seeded(0)))
    state = plain.adapt(task.support)
    outputs = plain.predict(state, task.query.x)
    errors = torch.cat([plain.along(state) - task.support.y, outputs - task.query.y]).square()[:, 0]

    def loss(*weights):
        torch.manual_seed(0)
        learner = InContext(3, width=16, layers=2, weights=weights).double()
        return learner.loss(learner.adapt(task.support), outputs, task.query, regression)

    torch.testing.assert_close(loss(1.0, 2.0, 5.0), (errors * torch.tensor([1.0, 2.0, 5.0, 5.0])).sum() / 13)
    torch.testing.assert_close(loss(1.0, 1.0, 1.0, 9.0), plain.loss(state, outputs, task.query, regression))
    with pytest.raises(ValueError, match="weights for 0 to 1 points cannot weigh a support set of 2"):
        loss(1.0, 1.0)
    torch.manual_seed(0)
    evaluated = InContext(3, width=16, layers=2, weights=[1.0]).double().eval()  # on longer sets than it trained for
    torch.testing.assert_close(
        evaluated.loss(state, outputs, task.query, regression), plain.loss(state, outputs, task.query, regression)
    )


def test_weights_from_a_list_and_new_ones():
    few = LinearRegressionTasks(3, different=2, shots=4, queries=4)
    x, y = few.sample(50, seeded(0)).support
    w = torch.linalg.lstsq(x, y).solution[..., 0]
    assert len(w.mul(1e3).round().unique(dim=0)) == 2
    again = linear_regression(3, different=2, shots=4, queries=4).sample(50, seeded(0)).support.y
    assert torch.equal(again, y)
    x, y = linear_regression(3, shots=4).sample(50, seeded(0)).support
    assert len(torch.linalg.lstsq(x, y).solution[..., 0].mul(1e3).round().unique(dim=0)) == 50
    with pytest.raises(ValueError, match="different must be at least 1, not 0"):
        linear_regression(3, different=0)


# Prior-fitted networks.


def small(**settings) -> PriorFitted:
    torch.manual_seed(0)
    return PriorFitted(width=8, heads=2, layers=2, hidden=6, **settings).double()


@pytest.mark.parametrize("ways", [2, 3])
def test_tables_are_what_they_say(ways):
    task = tables((3, 5), ways=ways, shots=(40, 60), queries=30).sample(50, seeded(0))
    assert task.support.x.shape[1] in range(40, 61) and task.support.x.shape[2] in range(3, 6)
    x, y = (torch.cat(parts, 1) for parts in zip(*task, strict=True))
    assert torch.allclose(x.mean(1), torch.zeros(50, x.shape[2]), atol=1e-4)
    spread = x.square().mean(1).sqrt()
    assert ((spread - 1).abs() < 1e-3).logical_or(spread == 0).all()
    assert (y.sum(-1) == 1).all() and y.shape[-1] == ways
    assert y.mean(1).min() > 0.25 / (1.25 * ways) - 0.05  # no class is very rare


def test_tables_depend_on_their_generator_alone_and_have_sizes_that_can_be_replaced():
    tasks = tables(4, shots=20, queries=10)
    torch.testing.assert_close(tasks.sample(3, seeded(1)), tasks.sample(3, seeded(1)))
    assert tasks.one_shape and not tables((2, 8), shots=20, queries=10).one_shape
    assert not tables(4, shots=(10, 20)).one_shape
    assert tasks.replace(shots=7).numbered(range(2), 0).support.x.shape == (2, 7, 4)
    assert repr(tables()) == "TableTasks((2, 8); ways=2, shots=(10, 100), queries=30)"


def test_a_column_is_often_more_than_noise():
    """Nearest neighbours beat the larger class by far, on average over the prior."""
    task = tables(5, shots=200, queries=100).sample(100, seeded(0))
    nearest = torch.cdist(task.query.x, task.support.x).topk(9, largest=False).indices
    labels = task.support.y[..., 1].gather(1, nearest.flatten(1)).view_as(nearest).mean(-1).round()
    right = (labels == task.query.y[..., 1]).float().mean()
    larger = task.query.y.mean(1).amax(-1).mean()
    assert right > larger + 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ways": 1}, "ways must be at least 2, not 1"),
        ({"columns": 0}, "columns must be at least 1"),
        ({"columns": (5, 2)}, r"columns=\(5, 2\) is no range"),
        ({"queries": 0}, "queries must be at least 1"),
    ],
)
def test_tables_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tables(**settings)


def test_constant_columns_are_zero():
    x = torch.stack([torch.full((5,), 3.0), torch.arange(5.0)], 1)
    assert standardised(x)[:, 0].eq(0).all() and abs(standardised(x)[:, 1].std(correction=0) - 1) < 1e-6


@given(st.integers(1, 6), st.integers(2, 9), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_neither_rows_nor_columns_have_an_order_nor_columns_a_unit(columns, n, random):
    learner = small()
    x, labels = torch.randn(n + 3, columns, generator=seeded(n, columns), dtype=DOUBLE), torch.arange(n) % 2
    y, (support, query) = torch.eye(2, dtype=DOUBLE)[labels], x.split([n, 3])
    outputs = learner.predict(learner.adapt(Examples(support, y)), query)
    across, down = random.sample(range(columns), columns), random.sample(range(n), n)
    factor, shift = random.uniform(0.1, 10), random.uniform(-5, 5)
    moved = Examples(factor * support[down][:, across] + shift, y[down])
    again = learner.predict(learner.adapt(moved), factor * query[:, across] + shift)
    torch.testing.assert_close(again, outputs, rtol=1e-8, atol=1e-8)
    alone = learner.predict(learner.adapt(Examples(support, y)), query[1:2])
    torch.testing.assert_close(alone, outputs[1:2], rtol=1e-9, atol=1e-9)  # no query sees another


def test_a_prior_fitted_network_counts_only_if_it_is_told():
    task = one(tables(3, shots=12, queries=5).sample(1, seeded(0)))
    twice = Examples(*(part.repeat(2, 1) for part in task.support))
    for counts in (False, True):
        learner = small(counts=counts)
        once, again = (learner.predict(learner.adapt(support), task.query.x) for support in (task.support, twice))
        assert torch.allclose(once, again, rtol=1e-12, atol=1e-12) is not counts


def test_its_gradients_are_their_finite_differences(differences_agree):
    learner = small()
    batch = tables(3, shots=5, queries=3).sample(2, seeded(1)).each(lambda tensor: tensor.double())
    learner.meta_backward(batch, classification)
    differences_agree(learner, lambda: learner.meta_loss(batch, classification))


def test_tables_of_too_many_classes_are_refused():
    with pytest.raises(ValueError, match="the table has 3 classes but the network knows 2; train one with classes=3"):
        small()(tables(2, ways=3, shots=6, queries=2).sample(1, seeded(0)).each(lambda tensor: tensor.double()))
    with pytest.raises(ValueError, match="classes must be at least 2, not 1"):
        PriorFitted(1)
