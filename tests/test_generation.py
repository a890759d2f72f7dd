"""Models of sets: densities against exact ones, statistics, samples, and tests of two samples."""

import math
import re
from itertools import permutations, product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mlcore import (
    ByLikelihood,
    ByStatistic,
    Examples,
    MovedCopies,
    NeuralStatistician,
    PixelCounts,
    SetDiffusion,
    Task,
    rows,
    seeded,
)
from mlcore.datasets import FamilySets, drawings
from mlcore.datasets.families import FAMILIES
from mlcore.densities import Bernoulli, Gaussian, divergence
from mlcore.generative import Sampler, likelihood
from mlcore.learners.set_diffusion import noisy, read_alone
from mlcore.tasks import DrawingSets
from mlcore.tasks.sets import in_ink
from mlcore.two_samples import mmd, neighbours_of_own_kind, permutation_test


def all_images(size: int) -> torch.Tensor:
    """Every image of size × size pixels: [2^(size²), 1, size, size]."""
    return torch.tensor(list(product([0.0, 1.0], repeat=size**2)), dtype=torch.float64).view(-1, 1, size, size)


def some_images(n: int, size: int, seed: int = 0) -> Examples:
    return Examples((torch.rand(n, 1, size, size, generator=seeded(seed)) < 0.4).double())


def of_images(size: int = 3, **settings) -> NeuralStatistician:
    torch.manual_seed(0)
    pixels = size**2
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 4), nn.Tanh())
    decoder = nn.Sequential(nn.Linear(5, pixels), nn.Unflatten(1, (1, size, size)))
    return NeuralStatistician(encoder, decoder, features=4, statistic=3, latent=2, width=5, **settings).double()


class Linear(NeuralStatistician):
    """c ~ N(0, I), z = Ac + noise, x = B(z, c) + noise: every marginal is a normal distribution."""

    def __init__(self, **settings) -> None:
        torch.manual_seed(1)
        super().__init__(
            nn.Linear(2, 4), nn.Linear(5, 4), features=4, emits=Gaussian.of, statistic=3, latent=2, width=5
        )
        self.prior = nn.Linear(3, 4)
        with torch.no_grad():  # scales that do not depend on c or z
            self.prior.weight[2:], self.decoder.weight[2:] = 0, 0
            self.pooled[-1].bias[3:] += 2  # wide proposals, so that few draws tell the integral
            self.posterior[-1].bias[2:] += 2
        self.samples = settings["samples"]

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        """log p(x) of each row."""
        a, b = self.prior.weight[:2], self.decoder.weight[:2]
        z_scale = Gaussian.of(self.prior.bias).scale
        x_scale = Gaussian.of(self.decoder.bias).scale
        on_c = b[:, :2] @ a + b[:, 2:]
        mean = b[:, :2] @ self.prior.bias[:2] + self.decoder.bias[:2]
        noise = b[:, :2] @ z_scale.square().diag() @ b[:, :2].T + x_scale.square().diag()
        return torch.distributions.MultivariateNormal(mean, on_c @ on_c.T + noise).log_prob(x)


@torch.no_grad()
def test_the_importance_bound_grows_to_the_exact_marginal():
    learner = Linear(samples=1).double().eval()
    x = learner.sample(learner.begin(), 10, seeded(0))
    bounds = []
    for samples, repeats in ((1, 100), (10, 10), (2_000, 1)):
        torch.manual_seed(0)
        many = learner.replace(samples=samples)
        bounds.append(torch.stack([many.predict(learner.begin(), x) for _ in range(repeats)]).mean().item())
    exact = learner.exact(x).mean().item()
    assert bounds[0] < bounds[1] - 0.1 < bounds[2] - 0.1
    assert bounds[2] == pytest.approx(exact, abs=0.05)


@torch.no_grad()
def test_the_bound_of_a_set_lies_below_its_exact_likelihood():
    """Two members share c: their joint distribution is not the product of their marginals."""
    learner = Linear(samples=1).double()
    x = torch.randn(2, 2, generator=seeded(3)).double()
    torch.manual_seed(0)
    bound = torch.stack([learner.shares(learner.begin(), x).sum() for _ in range(300)]).mean()
    # The same integral over c, by draws from its prior.
    c = torch.randn(50_000, 3, dtype=torch.float64)
    z = learner.prior(c)[:, :2]
    mean = learner.decoder(torch.cat([z, c], 1))[:, :2]
    spread = learner.decoder.weight[:2, :2] * Gaussian.of(learner.prior.bias).scale
    covariance = spread @ spread.T + Gaussian.of(learner.decoder.bias).scale.square().diag()
    each = torch.distributions.MultivariateNormal(mean[:, None], covariance).log_prob(x)
    exact = each.sum(1).logsumexp(0) - math.log(len(c))
    assert bound < exact + 0.05
    assert abs(exact - learner.exact(x).sum()) > 0.01


@torch.no_grad()
def test_the_shares_are_the_bound_term_by_term():
    learner, query = of_images(), some_images(4, 3)
    state = learner.update(learner.begin(), some_images(2, 3, 1))
    torch.manual_seed(5)
    shares = learner.shares(state, query.x)
    torch.manual_seed(5)
    before, after = learner.statistic(state), learner.statistic(learner.update(state, query))
    c = after.mean + after.scale * torch.randn(3, dtype=torch.float64)
    of_c = torch.distributions.Normal(*after), torch.distributions.Normal(*before)
    bound = -torch.distributions.kl_divergence(*of_c).sum()
    noise = torch.randn(4, 2, dtype=torch.float64)
    for x, e in zip(query.x, noise, strict=True):
        q, p = learner.inferred(learner.encoder(x[None])[0], c), learner.latent(c)
        z = q.mean + q.scale * e
        kl = torch.distributions.kl_divergence(torch.distributions.Normal(*q), torch.distributions.Normal(*p)).sum()
        bound += learner.decode(z[None], c[None]).log_density(x[None])[0] - kl
    assert shares.sum().item() == pytest.approx(bound.item())
    judged = learner.judged(Task(*(Examples(half.x[None]) for half in (query, query))), likelihood)
    assert judged.losses.item() == -judged.outputs.mean().item()


@torch.no_grad()
def test_the_state_of_nothing_is_the_prior_and_portions_do_not_matter():
    learner, members = of_images(), some_images(6, 3)
    prior = learner.statistic(learner.begin())
    assert (prior.mean == 0).all() and (prior.scale == 1).all()
    whole = learner.update(learner.begin(), members)
    parts = learner.begin()
    for x in members.x.flip(0).split(2):
        parts = learner.update(parts, Examples(x))
    for one, other in zip(learner.statistic(whole), learner.statistic(parts), strict=True):
        torch.testing.assert_close(one, other)
    twice = learner.update(whole, members)  # equal means, other counts
    assert not torch.allclose(learner.statistic(whole).scale, learner.statistic(twice).scale)


@torch.no_grad()
@pytest.mark.parametrize("shots", [0, 1, 3])
@pytest.mark.parametrize("build", [lambda: PixelCounts((1, 3, 3)), lambda: MovedCopies(1, size=3)])
def test_exact_densities_of_all_images_sum_to_one(build, shots):
    torch.manual_seed(0)
    learner = build().double()
    for parameter in learner.parameters():
        nn.init.normal_(parameter)
    state = learner.update(learner.begin(), some_images(shots, 3))
    assert learner.predict(state, all_images(3)).exp().sum().item() == pytest.approx(1)


@torch.no_grad()
def test_pixel_counts_follow_the_chain_rule_of_the_beta_function():
    """The drawings one after another: a ratio of Beta functions, whatever their order."""
    torch.manual_seed(0)
    learner = PixelCounts((1, 2, 2)).double()
    nn.init.normal_(learner.log_counts)
    x = some_images(5, 2).x
    state, total = learner.begin(), torch.zeros((), dtype=torch.float64)
    for image in x.split(1):
        total += learner.predict(state, image)[0]
        state = learner.update(state, Examples(image))
    a, b = learner.begin()
    ink = x.sum(0)

    def beta(p, q):
        return torch.lgamma(p) + torch.lgamma(q) - torch.lgamma(p + q)

    torch.testing.assert_close(total, (beta(a + ink, b + 5 - ink) - beta(a, b)).sum())


@torch.no_grad()
def test_a_copy_that_does_not_move_is_its_drawing():
    learner = MovedCopies(0, size=4).double()
    nn.init.zeros_(learner.filter.weight)
    learner.filter.weight[0, 0, 2, 2], learner.filter.bias[:] = 20, -10
    drawing = some_images(1, 4)
    assert (learner.sample(drawing.x, 3, seeded(0)) == drawing.x).all()


@torch.no_grad()
@pytest.mark.parametrize(
    "learner",
    [of_images(), PixelCounts((1, 3, 3)).double(), MovedCopies(1, size=3).double()],
    ids=lambda m: type(m).__name__,
)
def test_samples_have_the_density_that_predict_says(learner):
    """The share of images with a given pixel inked, sampled and summed over all images."""
    assert isinstance(learner, Sampler)
    state = learner.update(learner.begin(), some_images(3, 3))
    images = all_images(3)
    chance = (
        (learner.eval().replace(samples=500) if hasattr(learner, "samples") else learner).predict(state, images).exp()
    )
    assert chance.sum().item() == pytest.approx(1, abs=0.02)
    drawn = torch.cat([learner.sample(state, 5, seeded(i)) for i in range(400)])
    expected = (chance[:, None, None, None] * images).sum(0)
    torch.testing.assert_close(drawn.mean(0), expected, atol=0.06, rtol=0)


@pytest.mark.parametrize("build", [lambda **s: PixelCounts((1, 3, 3), **s), lambda **s: MovedCopies(1, size=3, **s)])
def test_models_of_sets_map_alike_and_read_no_order(build):
    x = torch.stack([some_images(7, 3, i).x for i in range(3)])
    task = Task(Examples(x[:, :4]), Examples(x[:, 4:]))
    results = []
    for mapping in ("loop", 2, "vmap"):
        learner = build(mapping=mapping).double()
        torch.manual_seed(0)
        for parameter in learner.parameters():
            nn.init.normal_(parameter)
        judged = learner.meta_backward(task, likelihood)
        results.append((judged.outputs, *(parameter.grad for parameter in learner.parameters())))
        turned = task._replace(support=Examples(task.support.x.flip(1)))
        torch.testing.assert_close(learner(turned), judged.outputs)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_a_statistician_learns_from_its_bound():
    learner = of_images()
    x = torch.stack([some_images(6, 3, i).x for i in range(8)])
    for support in (0, 2):
        task = Task(Examples(x[:, :support]), Examples(x[:, support:]))
        judged = learner.meta_backward(task, likelihood)
        assert judged.outputs.shape == (8, 6 - support) and judged.losses.isfinite().all()
    assert all(parameter.grad.abs().max() > 0 for parameter in learner.parameters())


def of_noise(size: int = 3, **settings) -> SetDiffusion:
    torch.manual_seed(0)
    return SetDiffusion(size, features=2, widths=(4, 4, 4, 4), **settings).double().eval()


def of_coins(logit: float, **settings) -> SetDiffusion:
    """A network that adds the same logit to each pixel: Bayes' rule for pixels that are coins of their own."""
    learner = of_noise(**settings)
    nn.init.constant_(learner.last.bias, logit)
    learner.net = nn.Conv2d(8, 4, 1).double()  # whose answers do not matter
    return learner


@torch.no_grad()
def test_denoising_errors_of_bayes_rule_add_up_to_the_exact_likelihood():
    """The bound is tight, image by image, where the denoiser is exact: here coins of a known bias."""
    learner, images = of_coins(-0.8, samples=40_000), all_images(3)[::37]
    torch.manual_seed(0)
    found = learner.predict(learner.begin(), images)
    exact = Bernoulli(torch.full_like(images, -0.8)).log_density(images)
    torch.testing.assert_close(found, exact, atol=0.12, rtol=0)
    assert (found - exact).mean().abs() < 0.05  # a coin of even odds in its place would be off by 0.7


@torch.no_grad()
def test_no_denoiser_makes_all_images_more_than_certain():
    learner, images = of_noise(2, samples=2_000), all_images(2)
    state = learner.update(learner.begin(), some_images(2, 2))
    for seed in range(3):
        torch.manual_seed(seed)
        nn.init.normal_(learner.last.weight, std=2.0)
        chance = learner.predict(state, images).exp()
        assert 0.01 < chance.sum() < 1.02


@torch.no_grad()
def test_samples_of_a_diffusion_have_the_frequencies_of_its_coins():
    learner = of_coins(-0.8, steps=60)
    drawn = learner.sample(learner.begin(), 4_000, seeded(0))
    assert drawn.mean().item() == pytest.approx(1 / (1 + math.exp(0.8)), abs=0.01)
    flat = drawn.flatten(1)
    assert (torch.corrcoef(flat.T) - torch.eye(9)).abs().max() < 0.08
    assert torch.equal(learner.sample(learner.begin(), 3, seeded(1)), learner.sample(learner.begin(), 3, seeded(1)))


@torch.no_grad()
def test_a_step_to_less_noise_has_the_moments_of_the_noise_itself():
    """Told the truth about x, the steps end where noise of that level would: the posterior of each step is right."""
    learner, kept, asked = of_noise(2, steps=7, quiet=-1.0, loud=3.0), [], []

    def told(state, z, gamma):
        kept.append(z)
        asked.append(gamma.unique().item())
        return torch.full_like(z, 40.0)  # ink, everywhere

    learner.logits = told
    learner.imagine(learner.begin(), 40_000, seeded(0))
    levels = torch.linspace(3, -1, 8).double()[:-1]
    assert asked == pytest.approx(levels.tolist())
    (loudest, *scales), (noisiest, *spreads) = (-levels).sigmoid().sqrt(), levels.sigmoid().sqrt()
    for z, level, scale, spread in zip(kept[1:], levels[1:], scales, spreads, strict=True):
        # It began from N(0, 1), where noise of the loudest level is narrower, with a mean. This much of that is left:
        left = (level - levels[0]).exp() * scale / loudest
        assert z.mean().item() == pytest.approx((scale - left * loudest).item(), abs=0.01)
        assert z.std().item() == pytest.approx((spread**2 + left**2 * (1 - noisiest**2)).sqrt().item(), abs=0.01)


def test_a_diffusion_learns_and_its_state_reads_no_order():
    learner = of_noise(samples=3).train()
    nn.init.normal_(learner.last.weight)
    x = torch.stack([some_images(6, 3, i).x for i in range(8)])
    for support in (0, 2):
        judged = learner.meta_backward(Task(Examples(x[:, :support]), Examples(x[:, support:])), likelihood)
        assert judged.outputs.shape == (8, 6 - support) and judged.losses.isfinite().all()
    assert all(parameter.grad.abs().max() > 0 for parameter in learner.parameters())
    members = some_images(6, 3)
    whole, parts = learner.update(learner.begin(), members), learner.begin()
    for part in members.x.flip(0).split(4):
        parts = learner.update(parts, Examples(part))
    torch.testing.assert_close(whole, parts)


@torch.no_grad()
@pytest.mark.parametrize("size", [3, 8])
def test_what_the_network_adds_to_a_pixel_comes_from_its_place(size):
    learner = of_noise(size)
    learner.net = nn.Conv2d(8, 4, 1).double()  # no pixel sees another
    nn.init.normal_(learner.last.weight)
    z = torch.zeros(1, 1, size, size).double()
    z[0, 0, 0, size - 1] = 1.5
    added = learner.logits(learner.begin(), z, torch.zeros(1).double()) - read_alone(z, torch.zeros(1).double())
    elsewhere = added[0, 0, 0, 0]
    assert (added == elsewhere).sum() == size**2 - 1 and added[0, 0, 0, size - 1] != elsewhere


def test_the_bound_is_as_high_in_any_mapping():
    x = torch.stack([some_images(5, 3, i).x for i in range(2)])
    task, found = Task(Examples(x[:, :2]), Examples(x[:, 2:])), []
    for mapping in ("loop", "vmap"):
        learner = of_noise(samples=4_000, mapping=mapping)
        learner.net = nn.Conv2d(8, 4, 1).double()
        nn.init.normal_(learner.last.weight)
        torch.manual_seed(0)
        with torch.no_grad():
            found.append(learner(task))
    assert (found[0] - found[1]).abs().max() < 0.6 and (found[0] - found[1]).mean().abs() < 0.2


@torch.no_grad()
def test_the_ends_cost_what_a_pixel_by_itself_does():
    learner, level = of_noise(quiet=-0.5, loud=2.0), torch.full((200_000,), -0.5)
    torch.manual_seed(0)
    z = noisy(torch.ones(200_000, 1, 1, 1), level, torch.randn(200_000, 1, 1, 1))
    unread = torch.nn.functional.softplus(-read_alone(z, level[:, None, None, None])).mean()
    scale, spread = (1 / (1 + math.exp(2.0))) ** 0.5, (1 / (1 + math.exp(-2.0))) ** 0.5
    last, noise = (torch.distributions.Normal(*of) for of in ((scale, spread), (0.0, 1.0)))
    left = torch.distributions.kl_divergence(last, noise)
    assert learner.ends == pytest.approx((unread + left).item(), abs=0.005)


@torch.no_grad()
def test_a_diffusion_listens_to_its_set():
    learner = of_noise(samples=200)
    nn.init.normal_(learner.last.weight)
    some, none = learner.update(learner.begin(), some_images(3, 3)), learner.begin()
    z, gamma = torch.zeros(1, 1, 3, 3).double(), torch.zeros(1).double()
    assert (learner.logits(some, z, gamma) - learner.logits(none, z, gamma)).abs().max() > 1e-3


def test_no_example_can_be_sampled():
    with pytest.raises(ValueError, match="n=0 examples cannot be drawn; ask for at least 1"):
        PixelCounts().sample(PixelCounts().begin(), 0, seeded(0))


@torch.no_grad()
def test_naming_by_statistic_is_the_least_divergence():
    learner = of_images()
    support = Examples(some_images(6, 3).x, rows(torch.tensor([0, 1, 1, 2, 0, 2]), 3).double())
    query = some_images(4, 3, 7).x
    namer = ByStatistic(learner)
    said = namer.predict(namer.update((), support), query)
    for k, n in product(range(3), range(4)):
        of_class = learner.statistic(learner.update(learner.begin(), Examples(support.x[support.y[:, k] > 0])))
        own = learner.statistic(learner.update(learner.begin(), Examples(query[n : n + 1])))
        assert said[n, k].item() == pytest.approx(-divergence(own, of_class).item())


@torch.no_grad()
def test_naming_by_likelihood_is_bayes_rule():
    """Of two coins for pixels the posterior of a class is known."""
    model = PixelCounts((1, 2, 2)).double()
    support = Examples(some_images(5, 2).x, rows(torch.tensor([0, 1, 1, 0, 1]), 2).double())
    namer, query = ByLikelihood(model), some_images(3, 2, 4).x
    said = namer.predict(namer.update((), support), query).softmax(-1)
    chances = torch.stack(
        [
            torch.where(query > 0, (1 + ink) / (2 + n), 1 - (1 + ink) / (2 + n)).flatten(1).prod(1)
            for ink, n in ((support.x[[0, 3]].sum(0), 2), (support.x[[1, 2, 4]].sum(0), 3))
        ],
        1,
    )
    torch.testing.assert_close(said, chances / chances.sum(1, keepdim=True))


@torch.no_grad()
def test_classes_are_compared_by_the_same_draws():
    support = Examples(some_images(1, 3).x.expand(2, -1, -1, -1), rows(torch.tensor([0, 1]), 2).double())
    namer, query = ByLikelihood(of_noise(samples=2)), some_images(3, 3, 4).x
    state = namer.update((), support)
    first, second = namer.predict(state, query), namer.predict(state, query)
    assert torch.equal(first[:, 0], first[:, 1])  # two classes of the same drawing
    assert not torch.equal(first, second)


def test_tasks_are_compared_by_draws_of_their_own():
    """The second task's noise is not the first's, and not a part of it."""
    drawn = []

    class Noisy(PixelCounts):
        def predict(self, state, x):
            drawn.append(torch.randn(50))
            return super().predict(state, x)

    support = Examples(some_images(2, 2).x, rows(torch.tensor([0, 1]), 2).double())
    namer = ByLikelihood(Noisy((1, 2, 2)).double())
    state = namer.update((), support)
    for _ in range(2):
        namer.predict(state, support.x)
    first, same, second, _ = (set(noise.tolist()) for noise in drawn)
    assert first == same and not first & second


def test_drawing_sets_hold_different_drawings_of_one_class_in_ink():
    train, _, test = drawings(shots=5, queries=15)
    task = train.sample(2, seeded(0))
    assert task.support.x.shape == (2, 5, 1, 28, 28) and task.query.x.shape == (2, 15, 1, 28, 28)
    assert task.support.y == () and set(task.query.x.unique().tolist()) == {0.0, 1.0}
    # A class has 20 drawings, so these are all of one.
    classes = in_ink(train.tasks.examples(train.tasks.codes())).flatten(1).view(-1, 20, 784)
    for support, query in zip(*(half.x for half in task), strict=True):
        members = torch.cat([support, query]).flatten(1)
        assert ((classes.sum(1) == members.sum(0)).all(-1)).any() and len(members.unique(dim=0)) == 20
    assert not set(train.tasks.classes) & set(test.tasks.classes)
    assert len(train.replace(shots=0, queries=1).sample(2, seeded(0)).query.x[0]) == 1


def test_sizes_of_sets_that_do_not_fit_are_refused():
    train = drawings()[0]
    with pytest.raises(ValueError, match=re.escape("shots + queries = 10 + 11 = 21")):
        DrawingSets(train.tasks, shots=10, queries=11)
    with pytest.raises(ValueError, match="queries must be at least 1"):
        train.replace(queries=0)
    with pytest.raises(ValueError, match="samples=0 must be at least 1"):
        of_images(samples=0)
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        of_noise(steps=0)
    with pytest.raises(ValueError, match="quiet=6 must be below loud=-3"):
        of_noise(quiet=6, loud=-3)
    with pytest.raises(ValueError, match="most=-1 pixels is no distance"):
        MovedCopies(-1)


def test_families_have_the_moments_and_the_tails_they_say():
    x, family, mean, scale = FamilySets().described(400, 4_000, seeded(0))
    standard = (x[..., 0] - mean[:, None]) / scale[:, None]
    kurtosis = {"Gaussian": 3, "exponential": 9, "uniform": 1.8, "Laplace": 6}
    for i, name in enumerate(FAMILIES):
        values = standard[family == i].flatten().double()
        assert values.mean().item() == pytest.approx(0, abs=0.01)
        assert values.var().item() == pytest.approx(1, abs=0.02)
        assert values.pow(4).mean().item() == pytest.approx(kurtosis[name], rel=0.05)
    assert mean.abs().max() <= 1 and 0.5 <= scale.min() and scale.max() <= 2


def test_a_bernoulli_image_is_a_product_of_coins():
    logits = torch.randn(1, 1, 2, 2, generator=seeded(0)).double()
    of = Bernoulli(logits)
    images = all_images(2)
    chance = Bernoulli(logits.expand(16, -1, -1, -1)).log_density(images).exp()
    assert chance.sum().item() == pytest.approx(1)
    torch.testing.assert_close((chance[:, None, None, None] * images).sum(0), of.mean[0])
    drawn = Bernoulli(logits.expand(20_000, -1, -1, -1)).sample(seeded(1))
    torch.testing.assert_close(drawn.mean(0), of.mean[0], atol=0.02, rtol=0)


def test_mmd_is_the_mean_over_distinct_pairs():
    x, y = torch.randn(5, 3, generator=seeded(0)), torch.randn(4, 3, generator=seeded(1))

    def mean(pairs):
        kernels = [math.exp(-float((a - b).square().sum()) / 2 / 1.5**2) for a, b in pairs]
        return sum(kernels) / len(kernels)

    within = mean(permutations(x, 2)) + mean(permutations(y, 2))
    assert mmd(x, y, 1.5).item() == pytest.approx(within - 2 * mean(product(x, y)), abs=1e-6)


def test_a_permutation_test_has_its_level_on_equal_samples_and_power_on_others():
    generator, rejected, found = seeded(0), 0, 0
    tests = 60
    for _ in range(tests):
        x, y = torch.randn(2, 10, 2, generator=generator)
        rejected += permutation_test(x, y, permutations=19, generator=generator) <= 0.1
        found += permutation_test(x, y + 2, permutations=19, generator=generator) <= 0.1
    assert abs(rejected / tests - 0.1) < 3 * math.sqrt(0.1 * 0.9 / tests)
    assert found > 0.95 * tests


def test_nearest_neighbours_betray_what_is_far_and_what_is_copied():
    x = torch.randn(60, 2, generator=seeded(0))
    assert neighbours_of_own_kind(x, x + 100) == 1
    assert neighbours_of_own_kind(x, x + 1e-4) == 0
    y = torch.randn(60, 2, generator=seeded(1))
    assert 0.35 < neighbours_of_own_kind(x, y) < 0.65


@given(st.integers(0, 1_000), st.integers(2, 6), st.integers(2, 6))
def test_mmd_does_not_care_which_sample_is_first(seed, n, m):
    generator = seeded(seed)
    x, y = torch.randn(n, 2, generator=generator), torch.randn(m, 2, generator=generator)
    torch.testing.assert_close(mmd(x, y), mmd(y, x))


def test_samples_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match=re.escape("samples of shapes [1, 2] and [5, 2] cannot be compared")):
        mmd(torch.zeros(1, 2), torch.zeros(5, 2))
