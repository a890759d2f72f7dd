"""What a learner says of its own ignorance: exact posteriors, ensembles, calibration and rejection."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, WhiteKernel
from torch import nn

from mlcore import Alpaca, EnsembleMAML, Examples, Learner, Ridge, Task, evaluate, mlp, rows, seeded
from mlcore.datasets import NoisySinusoids, noisy_sinusoid, sinusoid
from mlcore.densities import density, negative_log_likelihood
from mlcore.metrics import auroc, brier_score, calibration_error, reliability

DOUBLE = torch.float64


def alpaca(outputs: int = 1) -> Alpaca:
    """In double precision, with a prior that is nothing special."""
    torch.manual_seed(0)
    learner = Alpaca(mlp(2, 6, 4, activation=nn.Tanh), features=4, outputs=outputs, noise=0.3).double()
    nn.init.normal_(learner.mean)
    nn.init.normal_(learner.factor)
    return learner


def points(n: int, outputs: int = 1, seed: int = 1) -> Examples:
    draws = torch.randn(n, 2 + outputs, dtype=DOUBLE, generator=seeded(seed))
    return Examples(draws[:, :2], draws[:, 2:])


# Bayesian linear regression, three ways.


def test_a_ridge_head_is_the_mean_of_a_gaussian_process():
    data, x = points(5, 3), points(7, seed=2).x
    ridge = Ridge(nn.Identity(), scale=1.0).double()
    with torch.no_grad():
        ridge.log_lambda.fill_(math.log(0.7))
        found = ridge.predict(ridge.update((), data), x)
    # Weights a priori of variance σ²/λ, and any σ: here 0.3.
    kernel = 0.3**2 / 0.7 * DotProduct(0.0, "fixed") + WhiteKernel(0.3**2)
    process = GaussianProcessRegressor(kernel, optimizer=None, alpha=0).fit(data.x.numpy(), data.y.numpy())
    np.testing.assert_allclose(found, process.predict(x.numpy()), rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_alpaca_is_a_gaussian_process():
    learner, data, x = alpaca(2), points(5, 2), points(7, seed=2).x
    found = learner.predict(learner.adapt(data), x)
    noise = learner.log_noise.exp().square()
    z, new = learner.net(data.x), learner.net(x)
    prior = noise * learner.factor @ learner.factor.mT  # σ² Λ₀⁻¹
    gram = z @ prior @ z.mT + noise * torch.eye(5, dtype=DOUBLE)
    across = new @ prior @ z.mT
    mean = new @ learner.mean + across @ torch.linalg.solve(gram, data.y - z @ learner.mean)
    variance = (new @ prior @ new.mT - across @ torch.linalg.solve(gram, across.mT)).diag() + noise
    torch.testing.assert_close(found.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.scale, variance.sqrt()[:, None].expand(-1, 2), rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_alpacas_posterior_is_that_of_the_papers_sums():
    """Λ = Λ₀ + ΦᵀΦ and K̄ = Λ⁻¹(Λ₀K̄₀ + ΦᵀY), as the paper writes it."""
    learner, data = alpaca(2), points(6, 2)
    phi, prior = learner.net(data.x), torch.linalg.inv(learner.factor @ learner.factor.mT)
    precision = prior + phi.mT @ phi
    mean = torch.linalg.solve(precision, prior @ learner.mean + phi.mT @ data.y)
    belief = learner.adapt(data)
    torch.testing.assert_close(belief.mean, mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(belief.covariance, torch.linalg.inv(precision), rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_alpaca_learns_in_portions_in_any_order_and_from_nothing():
    learner, data = alpaca(), points(6)
    whole, belief = learner.adapt(data), learner.begin()
    for i in (4, 0, 5, 2, 1, 3):
        belief = learner.update(belief, Examples(*(part[i : i + 1] for part in data)))
    torch.testing.assert_close(belief, whole, rtol=1e-10, atol=1e-10)
    nothing = learner.adapt(Examples(*(part[:0] for part in data)))
    torch.testing.assert_close(nothing, learner.begin())


@torch.no_grad()
def test_alpacas_answers_one_after_another_are_the_evidence_of_deep_kernel_transfer():
    """The likelihood of each target given those before it: their product is the process's marginal likelihood."""
    learner, data = alpaca(), points(6)
    belief, total = learner.begin(), torch.zeros((), dtype=DOUBLE)
    for i in range(6):
        one = Examples(*(part[i : i + 1] for part in data))
        total += learner.predict(belief, one.x).log_density(one.y).sum()
        belief = learner.update(belief, one)
    z, noise = learner.net(data.x), learner.log_noise.exp().square()
    covariance = noise * (torch.eye(6, dtype=DOUBLE) + z @ learner.factor @ learner.factor.mT @ z.mT)
    evidence = torch.distributions.MultivariateNormal((z @ learner.mean)[:, 0], covariance).log_prob(data.y[:, 0])
    torch.testing.assert_close(total, evidence, rtol=1e-10, atol=1e-10)


def ensemble() -> EnsembleMAML:
    torch.manual_seed(0)
    net = lambda: mlp(2, 4, 1, activation=nn.Tanh)  # noqa: E731
    return EnsembleMAML(net, members=3, inner_lr=0.2, inner_steps=2).double()


@pytest.mark.parametrize("make", [alpaca, ensemble])
def test_meta_gradients_are_those_of_finite_differences(make, slopes):
    learner: Learner = make()
    batch = Task(*(Examples(*(part[None] for part in points(n, seed=n))) for n in (5, 8)))
    learner.meta_backward(batch, density)
    gradient = torch.cat([p.grad.flatten() for p in learner.parameters()])
    directions = torch.randn(1, len(gradient), dtype=DOUBLE, generator=seeded(3))
    torch.testing.assert_close(slopes(learner, batch, directions, density), directions @ gradient, rtol=1e-6, atol=0)


def test_an_ensemble_answers_with_the_moments_of_its_mixture():
    learner, data, x = ensemble(), points(5), points(7, seed=2).x
    with torch.no_grad():
        learner.log_noise.fill_(math.log(0.4))
    state = learner.adapt(data)
    outputs, answers = learner.predict(state, x), learner.answers(state, x)
    singly = torch.stack([member.predict(member.adapt(data), x) for member in learner.members])
    torch.testing.assert_close(answers, singly)
    draws = answers + 0.4 * torch.randn(100_000, 3, 7, 1, dtype=DOUBLE, generator=seeded(4))
    mixture = draws.flatten(0, 1)
    torch.testing.assert_close(outputs.mean, mixture.mean(0), rtol=0, atol=0.01)
    torch.testing.assert_close(outputs.scale, mixture.std(0), rtol=0.01, atol=0)
    query = points(7, seed=2)
    own = [negative_log_likelihood(outputs._replace(mean=a, scale=torch.full_like(a, 0.4)), query.y) for a in answers]
    torch.testing.assert_close(learner.loss(state, outputs, query, density), torch.stack(own).mean())


@pytest.mark.parametrize("make", [alpaca, ensemble])
def test_before_any_data_the_prior_answers(make):
    learner, x = make(), points(7, seed=2).x
    nothing = Task(Examples(torch.zeros(1, 0, 2).double(), torch.zeros(1, 0, 1).double()), Examples(x[None], x[None]))
    torch.testing.assert_close(learner(nothing).mean[0], learner.predict(learner.begin(), x).mean)


def test_impossible_learners_are_refused():
    with pytest.raises(ValueError, match="noise=0 must be positive; it is a standard deviation"):
        Alpaca(mlp(1, 2), features=2, noise=0)
    with pytest.raises(ValueError, match=r"members=1 must be at least 2, and noise=1\.0 positive"):
        EnsembleMAML(lambda: mlp(1, 1), members=1, inner_lr=0.1)


# Noisy waves.


def test_noisy_waves_are_waves_with_noise():
    noisy, clean = (
        tasks.sample(400, seeded(0)) for tasks in (noisy_sinusoid(shots=4, queries=6), sinusoid(shots=4, queries=6))
    )
    assert torch.equal(noisy.query.x, clean.query.x)
    noise = torch.cat([a.y - b.y for a, b in zip(noisy, clean, strict=True)], 1)
    assert noise.var().item() == pytest.approx(0.02, rel=0.05) and abs(noise.mean()) < 0.01
    empty = NoisySinusoids(shots=0).sample(3, seeded(0))
    assert empty.support.x.shape == (3, 0, 1) and empty.query.y.shape == (3, 20, 1)
    sizes = {noisy_sinusoid().sample(1, seeded(i)).support.x.shape[1] for i in range(100)}
    assert sizes == set(range(11))
    with pytest.raises(ValueError, match="shots must be at least 0, and whole, not -1"):
        noisy_sinusoid(shots=-1)
    with pytest.raises(ValueError, match="queries must be at least 1"):
        noisy_sinusoid(queries=0)
    with pytest.raises(ValueError, match="variance=0 must be positive"):
        noisy_sinusoid(variance=0)


@pytest.mark.slow
def test_the_shipped_alpaca_is_near_the_exact_posterior():
    import mlcore

    learner = mlcore.load("alpaca-waves")
    score = evaluate(learner, noisy_sinusoid(shots=10), episodes=200, progress=False)
    # The exact posterior has 0.47 nats, an agreement of two routes in the chapter; guessing has -2.
    assert score.mean > 0.3 and 0.85 < score["coverage"].mean < 0.95


# Calibration.


def drawn(n: int = 400, ways: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels that follow their softmax: calibrated by construction."""
    outputs = 2 * torch.randn(n, ways, dtype=DOUBLE, generator=seeded(0))
    labels = torch.multinomial(outputs.softmax(-1), 1, generator=seeded(1))[:, 0]
    return outputs, rows(labels, ways).double()


def test_the_brier_score_in_closed_form():
    y = rows(torch.tensor([0, 1]), 2).double()
    assert brier_score(torch.zeros(2, 2, dtype=DOUBLE), y).item() == pytest.approx(0.5)  # (1/2)² + (1/2)²
    assert brier_score(100 * y, y) < 1e-12 and brier_score(100 * y.flip(0), y).item() == pytest.approx(2)
    logits = torch.tensor([[0.2, 0.3, 0.5]], dtype=DOUBLE).log()
    assert brier_score(logits, torch.eye(3, dtype=DOUBLE)[1:2]).item() == pytest.approx(0.04 + 0.49 + 0.25)
    outputs, y = drawn()
    labels = y.argmax(-1).numpy()
    ours = brier_score(outputs, y).item()
    assert ours == pytest.approx(np.square(outputs.softmax(-1).numpy() - np.eye(4)[labels]).sum(1).mean())
    two = outputs[:, :2]
    truth = y[:, :1]
    expected = 2 * sklearn.metrics.brier_score_loss(truth[:, 0], two.softmax(-1)[:, 0])
    assert brier_score(two, torch.cat([truth, 1 - truth], 1)).item() == pytest.approx(expected)


def test_a_reliability_table_holds_sums():
    outputs, y = drawn()
    table = reliability(outputs, y, bins=5)
    confidence, guess = outputs.softmax(-1).max(-1)
    inside = (confidence > 0.6) & (confidence <= 0.8)
    right = (guess == y.argmax(-1)).double()
    everything = torch.stack([torch.ones(400, dtype=DOUBLE), right, confidence], 1)
    torch.testing.assert_close(table[3], (everything * inside[:, None]).mean(0))
    torch.testing.assert_close(table.sum(0), everything.mean(0))
    halves = torch.stack([reliability(outputs[half], y[half], 5) for half in (slice(0, 200), slice(200, 400))])
    torch.testing.assert_close(halves.mean(0), table)  # a mean over tasks pools them
    error = calibration_error(5).of(outputs, y)
    torch.testing.assert_close(error, (table[:, 1] - table[:, 2]).abs().sum())
    with pytest.raises(ValueError, match="bins must be at least 1, not 0"):
        reliability(outputs, y, 0)


def test_answers_that_follow_their_probabilities_are_calibrated_and_others_not():
    outputs, y = drawn(20_000)
    ece = calibration_error(10)
    assert ece.of(outputs, y) < 0.02 < 0.1 < ece.of(3 * outputs, y) and ece.of(outputs / 3, y) > 0.1
    best = min((brier_score(scale * outputs, y).item(), scale) for scale in (0.5, 0.8, 1.0, 1.25, 2.0))
    assert best[1] == 1.0  # a proper score


def test_the_area_is_scikit_learns():
    positive = torch.randn(150, generator=seeded(0)).round(decimals=1) + 0.4  # with ties
    negative = torch.randn(200, generator=seeded(1)).round(decimals=1)
    truth = np.r_[np.ones(150), np.zeros(200)]
    expected = sklearn.metrics.roc_auc_score(truth, torch.cat([positive, negative]))
    assert auroc(positive, negative) == pytest.approx(expected, abs=1e-12)
    assert auroc(torch.ones(3), torch.ones(5)) == 0.5 and auroc(torch.ones(3), torch.zeros(5)) == 1
    with pytest.raises(ValueError, match="scores of both kinds, not 3 and 0"):
        auroc(torch.ones(3), torch.ones(0))
