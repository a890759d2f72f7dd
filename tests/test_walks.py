"""Policy gradients inside MAML: closed forms, finite differences, and that a step on one's own paths helps."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mlcore import evaluate, meta_train, seeded
from mlcore.agents import GaussianPolicy, Navigation, PolicyGradientCAVIA, PolicyGradientMAML, meta_gradients
from mlcore.agents.policy_gradient import divergence, lesson, log_density
from mlcore.agents.trust_region import conjugate_gradient, hessian_product, trust_region_step
from mlcore.agents.two_pulls import direct, logistic
from mlcore.control import Linear, best_gain, cost, pendulum
from mlcore.datasets.plants import Pendulums, Physics

DOUBLE = torch.float64


# Navigation.


def straight(goal):
    """A policy without noise that goes to the goal as fast as it can."""
    return lambda seen: ((goal - seen) / Navigation.LONGEST, torch.full((2,), -20.0))


def test_walks_are_a_function_of_the_generator():
    first, again = (Navigation(3, stages=2, horizon=5).sample(4, seeded(0)) for _ in range(2))
    assert torch.equal(first.support.noise, again.support.noise) and torch.equal(first.query.x.goal, again.query.x.goal)
    assert first.support.noise.shape == (4, 2, 3, 5, 2) and first.query.x.noise.shape == (4, 3, 5, 2)


def test_the_best_return_is_that_of_the_straight_walk():
    worlds = Navigation(1)
    for goal in worlds.sample(20, seeded(0)).query.x.goal:
        paths = worlds.walk(goal, torch.zeros(1, 100, 2), straight(goal))
        torch.testing.assert_close(paths.returns[0], worlds.best(goal))
        assert paths.alive.sum() == math.ceil((goal.abs().amax() - worlds.NEAR) / worlds.LONGEST)
        assert not paths.reward[paths.alive == 0].any()


def test_no_walk_of_straight_moves_in_any_order_is_better_than_the_best():
    worlds, goal = Navigation(500, horizon=6), torch.tensor([0.35, -0.21])
    paths = worlds.walk(goal, 3 * torch.randn(500, 6, 2, generator=seeded(0)), straight(goal))
    noisy = worlds.walk(goal, torch.randn(500, 6, 2, generator=seeded(1)), lambda seen: (seen, torch.zeros(2)))
    assert (noisy.returns <= worlds.best(goal) + 1e-6).all() and (paths.returns <= worlds.best(goal) + 1e-6).all()


def test_staying_at_home_earns_the_mean_distance():
    worlds = Navigation(1)
    goal = torch.rand(400_000, 2, generator=seeded(0)) - 0.5
    assert -100 * goal.norm(dim=1).mean().item() == pytest.approx(worlds.at_home, abs=0.1)


def test_an_oracle_sees_the_goal():
    worlds = Navigation(2, horizon=3, told=True)
    goal = torch.tensor([0.1, 0.2])
    paths = worlds.walk(goal, torch.zeros(2, 3, 2), lambda seen: (seen[:, 2:] - seen[:, :2], torch.zeros(2)))
    assert worlds.seen == 4 and torch.equal(paths.seen[:, 0], torch.tensor([[0, 0, 0.1, 0.2]] * 2))


# The trust region.


def test_conjugate_gradients_solve_in_as_many_steps_as_there_are_unknowns():
    root = torch.randn(7, 7, dtype=DOUBLE, generator=seeded(0))
    a, b = root @ root.T + torch.eye(7, dtype=DOUBLE), torch.randn(7, dtype=DOUBLE, generator=seeded(1))
    torch.testing.assert_close(conjugate_gradient(lambda v: a @ v, b, iterations=7), torch.linalg.solve(a, b))
    assert (a @ conjugate_gradient(lambda v: a @ v, b, iterations=3) - b).norm() > 1e-6


def test_products_with_the_hessian_are_differences_of_gradients():
    x = torch.randn(4, dtype=DOUBLE, generator=seeded(0)).requires_grad_()
    v = torch.randn(4, dtype=DOUBLE, generator=seeded(1))

    def f(x):
        return (x[0] * x[1].sin() + x[2].exp() * x[3] ** 2) * x.sum()

    ahead, behind = (torch.func.grad(f)((x + h * v).detach()) for h in (1e-6, -1e-6))
    torch.testing.assert_close(hessian_product(f(x), [x])(v), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="linear"):
        hessian_product(x.sum(), [x])


def test_trust_region_step_is_the_longest_natural_gradient_within_the_radius():
    """With a quadratic divergence ½ dᵀFd and a linear loss the step is known: -√(2δ / gᵀF⁻¹g) F⁻¹g."""
    f, g = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=DOUBLE), torch.tensor([1.0, -3.0], dtype=DOUBLE)
    x = torch.tensor([0.3, 0.4], dtype=DOUBLE, requires_grad=True)
    start = x.detach().clone()

    def surrogate():
        return (g @ x, 0.5 * (x - start) @ f @ (x - start))

    step = trust_region_step([x], surrogate, radius=0.02, damping=0.0, shrink=0.999)
    natural = torch.linalg.solve(f, g)
    torch.testing.assert_close(step, -(0.04 / (g @ natural)).sqrt() * natural, rtol=5e-3, atol=0)
    assert 0.5 * step @ f @ step <= 0.02 and torch.equal(x.detach(), start)


def test_a_trust_region_step_is_shortened_until_the_loss_falls_and_is_zero_if_it_never_does():
    x = torch.zeros(1, dtype=DOUBLE, requires_grad=True)

    def bowl():
        return ((x - 0.01).square().sum(), 0.5 * x.square().sum())  # the whole step would overshoot

    step = trust_region_step([x], bowl, radius=0.01, damping=0.0)
    assert 0 < step.item() < 0.02

    def hill():
        return (-x.square().sum(), 0.5 * x.square().sum())  # flat at the start

    def lied():
        return ((x - 1).square().sum().detach() + (x - x.detach()).sum(), 0.5 * x.square().sum())  # uphill

    assert trust_region_step([x], hill).item() == 0 == trust_region_step([x], lied).item()
    with pytest.raises(ValueError, match="radius=0"):
        trust_region_step([x], bowl, radius=0)


# Policy gradients.


def test_densities_and_divergences_are_those_of_torch():
    mean, other, action = torch.randn(3, 5, 2, generator=seeded(0))
    log_std, other_log_std = torch.tensor([-0.3, 0.2]), torch.tensor([0.1, -0.4])
    p, q = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(other, other_log_std.exp())
    torch.testing.assert_close(log_density(action, mean, log_std), p.log_prob(action).sum(-1))
    torch.testing.assert_close(
        divergence(mean, log_std, other, other_log_std), torch.distributions.kl_divergence(p, q).sum(-1)
    )


def small(steps: int = 1, kind=PolicyGradientMAML, **settings):
    torch.manual_seed(0)
    worlds = Navigation(4, stages=steps, horizon=6)
    seen = 4 if kind is PolicyGradientCAVIA else 2
    net = GaussianPolicy(seen, hidden=(5,)).double()
    with torch.no_grad():
        net.mean[0].bias += 0.3  # away from the kink of a ReLU at the start
    task = worlds.sample(3, seeded(0)).each(lambda t: t.double())
    return kind(net, worlds, inner_steps=steps, **settings).train(), task, worlds


def test_advantages_by_hand():
    """One path, no goal near: returns to go, minus their least squares on what is known, centred, of unit size."""
    worlds = Navigation(6, horizon=4)
    noise = torch.randn(6, 4, 2, generator=seeded(0))
    paths = worlds.walk(torch.tensor([0.4, 0.4]), noise, lambda seen: (seen, torch.zeros(2)))
    got = lesson(paths, 0.9).gain
    to_go = torch.stack([sum(0.9 ** (u - t) * paths.reward[:, u] for u in range(t, 4)) for t in range(4)], 1)
    time = torch.arange(4.0) / 100
    rows, y = [], []
    for i in range(6):
        for t in range(4):
            x = paths.seen[i, t]
            rows.append([*x.tolist(), *(x**2).tolist(), *(float(time[t]) ** k for k in range(4))])
            y.append(float(to_go[i, t]))
    rows, y = np.array(rows), np.array(y)
    gap = y - rows @ np.linalg.solve(rows.T @ rows + 1e-5 * np.eye(8), rows.T @ y)
    np.testing.assert_allclose(got.flatten().numpy(), (gap - gap.mean()) / gap.std(), rtol=2e-2, atol=2e-2)


def test_what_comes_after_the_goal_counts_nothing():
    worlds = Navigation(3, horizon=8)
    goal = torch.tensor([0.2, 0.1])
    got = lesson(worlds.walk(goal, torch.randn(3, 8, 2, generator=seeded(0)) * 1e-3, straight(goal)), 0.99)
    assert (got.paths.alive.sum(1) == 2).all() and not got.gain[:, 2:].any()


def test_an_inner_step_is_reinforce_written_out():
    learner, task, _worlds = small()
    walks = SimpleNamespace(goal=task.support.goal[0], noise=task.support.noise[0, 0])
    state = learner.begin()
    data = lesson(learner.walk(state, walks), 0.99)
    after = learner.learn(state, data, 0.5)
    mean, log_std = learner.net(data.paths.seen)
    log_p = torch.distributions.Normal(mean, log_std.exp()).log_prob(data.paths.action).sum(-1)
    gradients = torch.autograd.grad((log_p * data.gain).mean(), list(learner.net.parameters()))  # nobody arrives
    for (name, value), gradient in zip(state.items(), gradients, strict=True):
        torch.testing.assert_close(after[name], value + 0.5 * gradient)


@pytest.mark.parametrize("kind", [PolicyGradientMAML, PolicyGradientCAVIA])
def test_the_outer_gradient_goes_through_the_step(kind, monkeypatch):
    """The slope that the trust region is handed against finite differences of the surrogate on the same paths."""
    learner, task, worlds = small(kind=kind)
    seen = {}

    def catch(parameters, surrogate, **_):
        slope = torch.autograd.grad(surrogate()[0], parameters, materialize_grads=True)
        flat, h = torch.cat([g.flatten() for g in slope]), 1e-6
        differences = []
        for p in parameters:
            for i in range(p.numel()):
                with torch.no_grad():
                    p.view(-1)[i] += h
                    up = surrogate()[0].item()
                    p.view(-1)[i] -= 2 * h
                    down = surrogate()[0].item()
                    p.view(-1)[i] += h
                differences.append((up - down) / (2 * h))
        seen["pair"] = flat, torch.tensor(differences, dtype=flat.dtype)
        seen["divergence"] = surrogate()[1]
        return torch.zeros_like(flat)

    monkeypatch.setattr("mlcore.agents.policy_gradient.trust_region_step", catch)
    learner.meta_backward(task, worlds.objective)
    torch.testing.assert_close(*seen["pair"], rtol=1e-5, atol=1e-8)
    assert seen["pair"][0].norm() > 1e-3 and seen["divergence"].abs() < 1e-12


def test_a_meta_step_stays_within_the_radius_and_lowers_the_surrogate():
    learner, task, worlds = small(radius=0.01)
    judged = learner.meta_backward(task, worlds.objective)
    assert any(p.grad.abs().max() > 0 for p in learner.parameters())
    assert judged.scores["return"].shape == (3,) and torch.equal(judged.losses, -judged.scores["return"])
    before = {name: p.detach().clone() for name, p in learner.net.named_parameters()}
    torch.optim.SGD(learner.parameters(), lr=1.0).step()
    state, moved = dict(learner.net.named_parameters()), 0.0
    for goal, noise, last in zip(task.support.goal, task.support.noise[:, 0], task.query.x.noise, strict=True):
        walks = SimpleNamespace(goal=goal, noise=noise)
        data = lesson(learner.walk(before, walks), 0.99)
        old, new = (learner.learn(dict(s), data, 0.5) for s in (_free(before), state))
        paths = learner.walk(old, SimpleNamespace(goal=goal, noise=last))
        far = divergence(*learner.act(old, paths.seen), *learner.act(new, paths.seen))
        moved += (far * paths.alive).sum().item() / paths.alive.sum().item() / 3
    assert 1e-4 < moved <= 0.01


def _free(state):
    return {name: value.requires_grad_() for name, value in state.items()}


def test_evaluation_walks_as_training_does_and_halves_the_rate():
    learner, task, _worlds = small(steps=2)

    def rates():
        return [stage.rate for stage in learner.stream(SimpleNamespace(goal=None, noise=task.support.noise[0]))]

    assert rates() == [0.5, 0.5]
    returns = learner.eval()(task)
    assert rates() == [0.5, 0.25]
    assert torch.equal(learner.replace(mapping="loop")(task).round(decimals=9), returns.round(decimals=9))
    with pytest.raises(ValueError, match="3 steps need as many stages; the tasks have 2"):
        learner.replace(test_steps=3)(task)


def test_a_policy_learns_to_find_goals():
    torch.manual_seed(0)
    worlds = Navigation(10, horizon=12)
    learner = PolicyGradientMAML(GaussianPolicy(2, hidden=(16,)), worlds, radius=0.05, thinning=2)
    exam = worlds.replace(paths=40)
    first = evaluate(learner, exam, episodes=40, progress=False).mean
    meta_train(learner, worlds, iterations=40, meta_batch=10, optimizer=torch.optim.SGD, outer_lr=1.0, progress=False)
    adapted = evaluate(learner, exam, episodes=40, progress=False)
    unadapted = evaluate(learner.replace(test_steps=0), exam, episodes=40, progress=False)
    assert adapted.mean > first + 0.5 and adapted.mean > unadapted.mean + 0.5


def test_context_alone_is_adapted():
    learner, task, _ = small(kind=PolicyGradientCAVIA)
    state = learner.begin()
    after = learner.learn(
        state,
        lesson(learner.walk(state, SimpleNamespace(goal=task.support.goal[0], noise=task.support.noise[0, 0])), 0.99),
        0.5,
    )
    assert list(after) == ["context"] and after["context"].abs().min() > 0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Navigation(0), "paths"),
        (lambda: Navigation(stages=-1), "stages=-1"),
        (lambda: PolicyGradientMAML(GaussianPolicy(2), Navigation(), inner_lr=0), "inner_lr"),
        (lambda: PolicyGradientMAML(GaussianPolicy(2), Navigation(), discount=2), "discount=2"),
        (lambda: PolicyGradientCAVIA(GaussianPolicy(3), Navigation(), context=0), "context=0"),
        (lambda: meta_gradients(direct, torch.tensor(0.5), torch.ones(2), inner_lr=0.1, pulls=0), "pulls=0"),
        (lambda: Pendulums(noise=-1), "noise=-1"),
    ],
)
def test_what_makes_no_sense_is_refused(make, word):
    with pytest.raises(ValueError, match=word):
        make()


# The term that is dropped.


@pytest.mark.parametrize("p", [0.3, 0.5, 0.7])
def test_meta_gradients_in_closed_form(p):
    """Two pulls, arm 1 pays 1: the objective is p + 2α, and the plain gradient is short by 2α / (p (1 - p))."""
    theta, rewards = torch.tensor(p, dtype=DOUBLE), torch.tensor([0.0, 1.0], dtype=DOUBLE)
    got = meta_gradients(direct, theta, rewards, inner_lr=0.02)
    assert got.exact.item() == pytest.approx(1) and got.dice.item() == pytest.approx(1)
    assert got.plain.item() == pytest.approx(1 - 0.04 / (p * (1 - p)))
    assert got.sampling.item() == pytest.approx(0.04 / (p * (1 - p)))


@pytest.mark.parametrize("pulls", [1, 2, 3])
def test_meta_gradients_against_differences_of_an_average_over_histories(pulls):
    """Without torch: the chance of every history, the step by a formula, the reward afterwards."""
    rewards, rate = (0.2, 0.9), 0.7

    def objective(theta: float) -> float:
        chance, total = 1 / (1 + math.exp(-theta)), 0.0
        for history in np.ndindex(*[2] * pulls):
            likely = math.prod(chance if arm else 1 - chance for arm in history)
            slope = sum(1 - chance if arm else -chance for arm in history)
            after = theta + rate * slope * sum(rewards[arm] for arm in history)
            better = 1 / (1 + math.exp(-after))
            total += likely * (better * rewards[1] + (1 - better) * rewards[0])
        return total

    got = meta_gradients(
        logistic, torch.tensor(0.4, dtype=DOUBLE), torch.tensor(rewards, dtype=DOUBLE), inner_lr=rate, pulls=pulls
    )
    by_differences = (objective(0.4 + 1e-5) - objective(0.4 - 1e-5)) / 2e-5
    assert got.exact.item() == pytest.approx(by_differences, abs=1e-8)
    assert (got.plain + got.sampling).item() == pytest.approx(by_differences, abs=1e-8)
    assert got.dice.item() == pytest.approx(by_differences, abs=1e-8) and abs(got.sampling.item()) > 1e-3


# Plants.


def test_pendulums_obey_newton():
    tasks = Pendulums(noise=0.0)
    plants = tasks.plants(2_000, seeded(0))
    length, inertia = 1 / plants[:, 0], 1 / plants[:, 2]
    mass, friction = inertia / length**2, -plants[:, 1] * inertia
    for value, low, high in ((length, 0.7, 1.4), (mass, 0.25, 4), (friction, 0, 0.6)):
        assert low - 1e-5 <= value.min() < low + 0.05 * high and 0.95 * high < value.max() <= high + 1e-5
    x, y = tasks.transitions(plants[:5], 30, seeded(1))
    fitted = torch.linalg.lstsq(Physics()(x), y).solution[..., 0]
    torch.testing.assert_close(fitted, plants[:5], rtol=1e-3, atol=1e-4)
    by_hand = x[..., 0].sin() / length[:5, None] + (x[..., 2] - friction[:5, None] * x[..., 1]) / inertia[:5, None]
    torch.testing.assert_close(y[..., 0], by_hand, rtol=1e-4, atol=1e-4)


def simulated(plant: Linear, gain: np.ndarray, price: float = 0.1) -> float:
    total = 0.0
    for start in np.eye(2):
        x = start
        for _ in range(3_000):
            u = -gain @ x
            total, x = total + x @ x + price * u @ u, plant.a @ x + plant.b @ u
    return total


def test_best_gain_is_a_valley_of_the_cost_and_cost_is_that_of_a_long_walk():
    plant = pendulum(np.array([1.2, -0.2, 0.5]))
    gain = best_gain(plant)
    assert cost(plant, gain) == pytest.approx(simulated(plant, gain), rel=1e-6)
    for direction in ([1, 0], [0, 1], [1, -1]):
        slope = (
            cost(plant, gain + 1e-4 * np.array([direction])) - cost(plant, gain - 1e-4 * np.array([direction]))
        ) / 2e-4
        assert abs(slope) < 1e-3 * cost(plant, gain)
        assert cost(plant, gain + 0.2 * np.array([direction])) > cost(plant, gain)


def test_best_gain_of_one_number_in_closed_form():
    """x' = x + u, price 1: p² = p + 1, the golden ratio, and K = 1 / p."""
    golden = (1 + math.sqrt(5)) / 2
    plant = Linear(np.eye(1), np.eye(1))
    assert best_gain(plant, price=1.0).item() == pytest.approx(1 / golden)
    assert cost(plant, np.array([[1 / golden]]), price=1.0) == pytest.approx(golden)


def test_a_pendulum_without_control_falls():
    assert cost(pendulum(np.array([1.0, -0.1, 1.0])), np.zeros((1, 2))) == float("inf")


def test_a_pendulum_moves_as_its_slopes_say():
    a, b = pendulum(np.array([2.0, -0.5, 3.0]), step=0.1)
    angle, velocity, torque = 0.2, -0.3, 0.4
    faster = velocity + 0.1 * (2.0 * angle - 0.5 * velocity + 3.0 * torque)
    np.testing.assert_allclose(a @ [angle, velocity] + b @ [torque], [angle + 0.1 * faster, faster])
