"""Random decision processes: planning by a second route, the belief by hand, and what rules must earn."""

import itertools

import pytest
import torch

from mlcore import seeded
from mlcore.agents import PSRL, RL2, UCRL2, PlanGreedily, RandomMDPs, Step, plan


def lived(agent, task):
    return torch.vmap(agent.eval().adapt, randomness="different")(task.support)


def test_the_plan_is_the_best_of_all_policies():
    """Every deterministic policy of two states, two actions and three moments; its value as a sum over all paths."""
    hidden = RandomMDPs(2, 2, 3, 1).draw(1, seeded(0))[0].double()
    reward, transition = hidden[..., 0], hidden[..., 1:]

    def value(policy) -> float:
        total = 0.0
        for path in itertools.product(range(2), repeat=2):  # the states at the second and third moment
            chance, state, paid = 1.0, 0, 0.0
            for moment in range(3):
                action = policy[moment][state]
                paid += reward[state, action].item()
                if moment < 2:
                    chance *= transition[state, action, path[moment]].item()
                    state = path[moment]
            total += chance * paid
        return total

    policies = itertools.product(itertools.product(range(2), repeat=2), repeat=3)
    table = plan(reward, transition, 3)
    assert table.shape == (3, 2, 2)
    assert table[0, 0].max().item() == pytest.approx(max(value(policy) for policy in policies))
    assert RandomMDPs(2, 2, 3, 1).best(hidden[None]).item() == pytest.approx(table[0, 0].max().item())


def test_rewards_and_transitions_come_as_often_as_they_should():
    worlds = RandomMDPs(3, 2, 4, 25)
    hidden = worlds.draw(1, seeded(0))
    assert torch.allclose(hidden[..., 1:].sum(-1), torch.ones(1, 3, 2))
    task = worlds.sample(200, seeded(1))
    task = task._replace(support=task.support._replace(hidden=hidden.expand(200, -1, -1, -1)))
    steps = lived(PlanGreedily(worlds, epsilon=1.0), task).steps
    # All lives begin in the first state and end with an episode, so they follow one another.
    seen, action, reward, worth, ended = (
        part.flatten(0, 1) for part in (steps.observation, steps.action, steps.reward, steps.worth, steps.ended)
    )
    assert ended.reshape(-1, 4).sum(0).tolist() == [0, 0, 0, 5_000] and (seen[3::4, 0] == 1).all()
    assert (seen.sum(-1) == 1).all()
    before = torch.cat([torch.eye(3)[:1], seen[:-1]])
    surprise = reward - worth
    assert surprise.mean().abs() < 0.03 and surprise.std() == pytest.approx(1, abs=0.02)
    pairs = before[:, :, None] * action[:, None]
    expected = torch.einsum("tsa,sa->t", pairs, hidden[0, ..., 0])
    torch.testing.assert_close(expected, worth)
    going = ended == 0
    led = torch.einsum("tsa,tn->san", pairs[going], seen[going])
    torch.testing.assert_close(led / led.sum(-1, keepdim=True), hidden[0, ..., 1:], atol=0.05, rtol=0)


def test_the_belief_by_hand():
    """Two tries of one pair: rewards 3 and 0, on to state 2, then the end of the episode, which shows nothing."""
    agent = PlanGreedily(RandomMDPs(3, 2, 2, 3))
    zero, one = torch.zeros(()), torch.ones(())
    first, third, push = torch.eye(3)[0], torch.eye(3)[2], torch.eye(2)[1]
    state = agent.update(agent.begin(), Step(torch.zeros(2), zero, first, zero, zero))
    assert not state.tried.any() and int(state.moment) == 0
    state = agent.update(state, Step(push, 3 * one, third, zero, zero))
    assert int(state.moment) == 1
    state = agent.update(state, Step(push, zero, first, one, zero))
    assert int(state.moment) == 0 and state.tried[0, 1] == state.tried[2, 1] == 1 and state.tried.sum() == 2
    assert state.reward(1.0)[0, 1] == 2 and state.reward(1.0)[2, 1] == 0.5 and state.reward(1.0)[1, 0] == 1
    assert state.reward(0.0)[0, 1] == 1.5 and state.reward(0.0)[1, 0] == 0
    torch.testing.assert_close(state.transition[0, 1], torch.tensor([0.25, 0.25, 0.5]))
    torch.testing.assert_close(state.transition[2, 1], torch.full((3,), 1 / 3))
    torch.testing.assert_close(state.table, plan(state.reward(1.0), state.transition, 2))


def known(tries: float):
    """A belief of three states and two actions, of which each pair was tried so often."""
    worlds = RandomMDPs(3, 2, 4, 1)
    hidden = worlds.draw(1, seeded(3))[0]
    agent = PlanGreedily(worlds)
    state = agent.begin()._replace(
        tried=torch.full((3, 2), tries), paid=tries * hidden[..., 0], led=tries * hidden[..., 1:]
    )
    return worlds, hidden, state


def test_posterior_samples_have_the_moments_of_the_posterior():
    """Of a horizon of one step the worth is the drawn mean reward."""
    state = known(3.0)[2]
    agent = PSRL(RandomMDPs(3, 2, 1, 1))
    torch.manual_seed(0)
    drawn = torch.stack([agent.imagine(state)[0] for _ in range(4_000)])
    torch.testing.assert_close(drawn.mean(0), state.reward(1.0), atol=0.04, rtol=0)
    torch.testing.assert_close(drawn.std(0), torch.full((3, 2), 0.5), atol=0.03, rtol=0)
    best_of_five = PSRL(agent.worlds, draws=5)
    more = torch.stack([best_of_five.imagine(state)[0] for _ in range(2_000)])
    # The expected largest of five standard normal numbers is 1.163.
    torch.testing.assert_close(more.mean(0), state.reward(1.0) + 1.163 * 0.5, atol=0.05, rtol=0)


def test_extended_value_iteration_is_the_best_world_in_the_bounds():
    """Against linear programmes, one for each pair and moment."""
    from scipy.optimize import linprog

    worlds, _, state = known(20.0)
    agent = UCRL2(worlds, width=0.1)
    table = agent.imagine(state).double()
    n, s, a = 20.0, 3, 2
    time = n * s * a
    bonus = 0.1 * (7 * torch.tensor(2 * s * a * time / 0.05).log() / (2 * n)).sqrt().item()
    spare = 0.1 * (14 * s * torch.tensor(2 * a * time / 0.05).log() / n).sqrt().item()
    value = torch.zeros(s, dtype=torch.float64)
    for moment in reversed(range(4)):
        for i, j in itertools.product(range(s), range(a)):
            p = state.transition[i, j].double().numpy()
            # Chances p + u - v with u, v >= 0 and sum(u + v) <= spare.
            gain = value.numpy()
            found = linprog(
                [*-gain, *gain],
                A_ub=[[1] * 2 * s, *([0] * k + [-1] + [0] * (s - 1) + [1] + [0] * (s - 1 - k) for k in range(s))],
                b_ub=[spare, *p],
                A_eq=[[1] * s + [-1] * s],
                b_eq=[0],
            )
            expected = state.reward(1.0)[i, j].item() + bonus + p @ gain - found.fun
            assert table[moment, i, j].item() == pytest.approx(expected, abs=1e-4)
        value = table[moment].amax(-1)


@pytest.mark.parametrize("rule", [PlanGreedily, PSRL, UCRL2])
def test_who_has_seen_all_plays_the_best(rule):
    worlds, hidden, state = known(1e9)
    torch.manual_seed(0)
    table = rule(worlds).imagine(state)
    best = plan(hidden[..., 0], hidden[..., 1:], 4)
    assert torch.equal(table.argmax(-1), best.argmax(-1))
    torch.testing.assert_close(table, best, atol=1e-2, rtol=0)


def test_rules_come_between_chance_and_the_best_and_learn():
    worlds = RandomMDPs(4, 3, 5, 12)
    task = worlds.sample(400, seeded(0))
    best = worlds.best(task.support.hidden).mean()
    torch.manual_seed(0)
    for agent in (PlanGreedily(worlds, epsilon=0.05), PSRL(worlds), PSRL(worlds, draws=3), UCRL2(worlds, width=0.1)):
        each = lived(agent, task).steps.worth.unflatten(1, (12, 5)).sum(-1).mean(0)
        assert 5 < each.mean() < best and each[-3:].mean() > each[:3].mean() + 0.5


@pytest.mark.slow
def test_rules_with_a_prior_mean_of_zero_earn_what_the_paper_prints():
    """Duan et al. (2016), Table 2, ten episodes; beside it, that the right prior mean is worth more than any rule."""
    worlds = RandomMDPs()
    task = worlds.sample(2_000, seeded(0))
    torch.manual_seed(0)

    def earned(agent) -> float:
        return lived(agent, task).steps.worth.sum(1).mean().item()

    assert earned(PlanGreedily(worlds, epsilon=1.0)) == pytest.approx(100.1, rel=0.015)
    greedy = earned(PlanGreedily(worlds, prior=0.0))
    assert greedy == pytest.approx(134.8, rel=0.03)
    assert earned(PSRL(worlds, prior=0.0)) == pytest.approx(138.1, rel=0.03)
    assert earned(PSRL(worlds, draws=10, prior=0.0)) == pytest.approx(144.1, rel=0.03)
    optimist = earned(UCRL2(worlds, width=0.25, prior=0.0))
    assert optimist == pytest.approx(146.6, rel=0.03)
    assert earned(PlanGreedily(worlds)) > optimist + 3 > greedy + 10


def test_lives_are_the_same_in_a_loop_and_networks_live_in_them():
    worlds = RandomMDPs(3, 2, 3, 2)
    learner, task = RL2(worlds, hidden=4), worlds.sample(4, seeded(0))
    rewards = learner(task)
    assert torch.equal(learner.replace(mapping="loop")(task), rewards)
    greedy = PlanGreedily(worlds)
    torch.testing.assert_close(greedy.replace(mapping="loop")(task), greedy(task))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandomMDPs(0), "states must be at least 1"),
        (lambda: PlanGreedily(RandomMDPs(), epsilon=2), "epsilon=2"),
        (lambda: PSRL(RandomMDPs(), draws=0), "draws must be at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
