"""Functions predicted from sets: smoothers, sets seen twice, a latent for the whole function, images as functions."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from mlcore import Examples, GaussianProcess, NeuralProcess, evaluate, meta_train, seeded
from mlcore.datasets import PixelTasks, gaussian_process, pixels
from mlcore.densities import Gaussian, density, divergence
from mlcore.kernels import rbf
from mlcore.nets.derivatives import attention
from mlcore.tasks.functions import Functions

DOUBLE = torch.float64
KNOWN = {"length": (0.3, 0.3), "scale": (1.0, 1.0)}


def support(n: int, seed: int = 0) -> tuple[Examples, torch.Tensor]:
    """A support set of n points, and five queries, in double precision."""
    x = 4 * torch.rand(n + 5, 1, dtype=DOUBLE, generator=seeded(seed)) - 2
    return Examples(x[:n], torch.sin(3 * x[:n])), x[n:]


# Smoothers.


def test_attention_by_distance_is_nadaraya_and_watsons_regression():
    (x, y), new = support(9)
    width = 0.4
    kernel = (-(new - x.mT).square() / (2 * width**2)).exp()
    expected = kernel @ y / kernel.sum(1, keepdim=True)
    keys = torch.cat([x, -x.square() / 2], -1)
    queries = torch.cat([new, torch.ones_like(new)], -1) * math.sqrt(2) / width**2  # attention divides by √2
    torch.testing.assert_close(attention(*(part[None, None] for part in (queries, keys, y)))[0, 0], expected)


def test_descent_with_decay_ends_at_the_mean_of_a_gaussian_process():
    (x, y), new = support(9)
    exact = GaussianProcess(rbf, noise=0.3, **KNOWN)
    mean = exact.predict(exact.adapt(Examples(x, y)), new).mean
    ridge = rbf(x - x.mT, torch.tensor(0.3, dtype=DOUBLE)) + 0.09 * torch.eye(9, dtype=DOUBLE)
    rate, weights = 1 / torch.linalg.matrix_norm(ridge, 2), torch.zeros_like(y)
    for _ in range(3_000):
        weights = weights + rate * (y - ridge @ weights)
    torch.testing.assert_close(rbf(new - x.mT, torch.tensor(0.3, dtype=DOUBLE)) @ weights, mean, rtol=1e-8, atol=1e-8)


def test_a_set_seen_twice_is_half_the_noise_variance():
    data, new = support(9)
    twice = Examples(*(part.repeat(2, 1) for part in data))
    exact, clearer = (GaussianProcess(rbf, noise=0.3 / math.sqrt(k), **KNOWN) for k in (1, 2))
    again, expected = exact.predict(exact.adapt(twice), new), clearer.predict(clearer.adapt(data), new)
    torch.testing.assert_close(again.mean, expected.mean)
    torch.testing.assert_close(again.scale.square(), expected.scale.square() + 0.09 / 2)  # of a new target's noise
    assert (again.mean - exact.predict(exact.adapt(data), new).mean).abs().max() > 0.01


# Neural processes.


def small(**settings) -> NeuralProcess:
    torch.manual_seed(0)
    return NeuralProcess(width=8, latent=3, samples=5, **settings).double()


def test_a_component_is_one_function_and_a_set_has_no_order_and_no_size():
    data, new = support(7)
    learner = small()
    outputs = learner.predict(learner.adapt(data), new)
    assert outputs.means.shape == (5, 5)
    assert torch.equal(learner.predict(learner.adapt(data), new).means, outputs.means)
    alone = learner.predict(learner.adapt(data), new[3:4])
    torch.testing.assert_close(alone.means, outputs.means[3:4])
    torch.testing.assert_close(outputs.log_weights.exp().sum(-1), torch.ones(5, dtype=DOUBLE))
    state = learner.begin()
    for part in zip(data.x.chunk(3), data.y.chunk(3), strict=True):
        state = learner.update(state, Examples(*part))
    twice = learner.adapt(Examples(*(part.repeat(2, 1) for part in data)))
    for other in (state, twice):
        torch.testing.assert_close(learner.predict(other, new).means, outputs.means, rtol=1e-12, atol=1e-12)


def test_a_divergence_is_torchs():
    p, q = (Gaussian(torch.randn(4, 1), torch.rand(4, 1) + 0.1) for _ in range(2))
    torch.testing.assert_close(divergence(p, q), kl_divergence(Normal(*p), Normal(*q)).sum())
    assert divergence(p, p) == 0


@pytest.mark.parametrize("mapping", ["loop", "vmap"])
def test_its_gradients_are_their_finite_differences(mapping, differences_agree):
    learner = small(mapping=mapping)
    batch = gaussian_process(shots=4, queries=3).sample(2, seeded(0)).each(lambda tensor: tensor.double())

    def bound() -> torch.Tensor:
        torch.manual_seed(1)  # the same latents
        return learner.meta_loss(batch, density)

    bound().backward()
    differences_agree(learner, bound, atol=1e-7)


class Line(NeuralProcess):
    """y = z x + noise with z from N(0, 1): its posterior is normal and known, so nothing is approximated.

    ``width`` multiplies the scale of what the support set says alone; ``peeks`` are points that it should not know.
    """

    def __init__(self, draws: int, *, width: float = 1.0) -> None:
        super().__init__(latent=1, samples=draws)
        self.sigma, self.spread = 0.5, width

    def begin(self):
        return torch.zeros((), dtype=DOUBLE), torch.zeros((), dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)

    def update(self, state, data):
        moments = (data.x * data.y).sum(), data.x.square().sum(), torch.ones((), dtype=DOUBLE)
        return tuple(a + b for a, b in zip(state, moments, strict=True))

    def latent(self, state):
        """The posterior; of what one update saw, that is of the support set alone, with another width."""
        moment, square, updates = state
        precision = 1 + square / self.sigma**2
        scale = precision.rsqrt() * (self.spread if updates == 1 else 1.0)
        return Gaussian((moment / self.sigma**2 / precision).reshape(1), scale.reshape(1))

    def decode(self, z, x):
        means = z[:, None] * x
        return Gaussian(means, torch.full_like(means, self.sigma))


def line_task() -> tuple[Examples, Examples, float]:
    """Support and query of a line, and the exact log p(query | support)."""
    x = torch.randn(6, 1, dtype=DOUBLE, generator=seeded(3))
    y = 0.8 * x + 0.5 * torch.randn(6, 1, dtype=DOUBLE, generator=seeded(4))

    def evidence(n: int) -> torch.Tensor:
        covariance = x[:n] @ x[:n].mT + 0.25 * torch.eye(n, dtype=DOUBLE)
        return MultivariateNormal(torch.zeros(n, dtype=DOUBLE), covariance).log_prob(y[:n, 0])

    return Examples(x[:2], y[:2]), Examples(x[2:], y[2:]), (evidence(6) - evidence(2)).item()


def bound(learner: Line, given: Examples, query: Examples, times: int = 200) -> tuple[float, float]:
    """The mean of the bound in nats, and its standard error."""
    torch.manual_seed(0)
    state = learner.adapt(given)
    draws = torch.stack([-learner.loss(state, None, query, density) * len(query.y) for _ in range(times)])
    return draws.mean().item(), draws.std().item() / math.sqrt(times)


def own(learner: Line, given: Examples, query: Examples) -> float:
    """log ∫ p(query | z) q(z | support) dz, by many draws."""
    of = learner.latent(learner.adapt(given))
    z = of.mean + of.scale * torch.randn(200_000, 1, dtype=DOUBLE, generator=seeded(5))
    y = query.y.expand(len(z), *query.y.shape)
    return (learner.decode(z, query.x).log_density(y).sum(-1).logsumexp(0) - math.log(len(z))).item()


def test_the_bound_is_the_evidence_if_both_distributions_are_exact():
    given, query, exact = line_task()
    learner = Line(500).double()
    mean, error = bound(learner, given, query)
    assert error < 0.01 and abs(mean - exact) < 4 * error
    assert abs(own(learner, given, query) - exact) < 0.02
    mixture = learner.predict(learner.adapt(given), query.x[:1])
    of = learner.latent(learner.adapt(given))
    variance = (query.x[0] * of.scale).square() + 0.25
    expected = Normal(query.x[0] * of.mean, variance.sqrt()).log_prob(query.y[0])
    assert (mixture.log_density(query.y[:1]) - expected).abs().max() < 0.1


@pytest.mark.parametrize("width", [0.3, 3.0])
def test_with_another_prior_it_bounds_what_the_process_itself_predicts(width):
    given, query, exact = line_task()
    learner = Line(500, width=width).double()
    mean, error = bound(learner, given, query)
    assert mean < own(learner, given, query) - 10 * error  # the posterior is not that of this prior: strict
    assert abs(own(learner, given, query) - exact) > 0.02


class Constants(Functions):
    """y = m + noise of scale 0.1, with m from N(0, 1)."""

    objective = density

    def inputs(self, n_tasks, points, generator):
        return torch.zeros(n_tasks, points, 1)

    def values(self, x, generator):
        middle = torch.randn(len(x), 1, 1, generator=generator)
        return middle + 0.1 * torch.randn(x.shape, generator=generator)


def test_it_learns_to_use_the_support_set():
    torch.manual_seed(0)
    learner, tasks = NeuralProcess(width=16, latent=2, samples=8), Constants(shots=4, queries=4)
    meta_train(learner, tasks, iterations=200, meta_batch=16, outer_lr=5e-3, seed=0, progress=False)
    score = evaluate(learner, tasks, episodes=100, progress=False)
    without = -math.log(2 * math.pi * math.e * 1.01) / 2  # the most that is possible without a support set
    assert score.mean - score.ci95 > without + 0.5


# Images.


def test_pixels_are_those_of_their_image_and_none_comes_twice():
    images = torch.arange(3 * 16, dtype=torch.uint8).view(3, 1, 4, 4)
    tasks = PixelTasks(images, shots=(1, 6), queries=10)
    task = tasks.replace(shots=6).sample(20, seeded(0))
    x, y = (torch.cat(parts, 1) for parts in zip(*task, strict=True))
    rows, columns = ((x + 1) * 1.5).round().long().unbind(-1)
    pixel = 4 * rows + columns
    assert (pixel.sort(1).values == torch.arange(16)).all()
    number = (255 * y[..., 0]).round().long() - pixel
    assert (number == number[:, :1]).all() and set(number[:, 0].tolist()) == {0, 16, 32}
    assert not tasks.one_shape and repr(tasks) == "PixelTasks(3 images; shots=(1, 6), queries=10)"


def test_images_that_are_no_pixels_are_refused():
    with pytest.raises(ValueError, match=r"images must be uint8 \[n, 1, size, size\], not torch.float32 \[3, 4, 4\]"):
        PixelTasks(torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match=r"shots=10 and queries=7 are more than the 16 pixels"):
        PixelTasks(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), shots=10, queries=7)


def test_letters_of_the_test_are_of_other_scripts():
    train, val, test = pixels(shots=10, queries=20)
    assert len({len(part.images) for part in (train, val, test)}) == 3
    assert not {row.tobytes() for row in test.images.numpy()} & {row.tobytes() for row in train.images.numpy()}
