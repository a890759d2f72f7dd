"""Worlds, rules and exact references: closed forms, brute force, and that RL2 learns to explore."""

import itertools

import pytest
import torch
from torch import nn

from mlcore import evaluate, meta_train, seeded
from mlcore.agents import (
    RL2,
    UCB,
    Bandits,
    Greedy,
    GuessAndGo,
    HiddenGoal,
    Index,
    LengtheningLives,
    Step,
    Thompson,
    best_hunt,
    expected_reward,
    indices,
)
from mlcore.agents.hunt import found_at
from mlcore.agents.rl2 import advantages
from mlcore.nets.gru import GRUCell


def mean(arm: tuple[int, int]) -> float:
    return (1 + arm[0]) / (2 + sum(arm))


# The exact references.


def test_the_best_play_of_two_pulls_by_hand():
    # The first pull is worth 1/2. If it paid, the same arm pays with 2/3; if not, another one with 1/2.
    assert expected_reward(2, 2) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 1 / 2)


def test_the_best_play_is_that_of_all_plans_tried_one_by_one():
    """Three pulls of two arms: a plan is a first arm, a second for each outcome, a third for each pair of outcomes."""

    def plan_value(first: int, second: tuple, third: tuple) -> float:
        total = 0.0
        for outcome in itertools.product((0, 1), repeat=3):
            seen, chance = [[0, 0], [0, 0]], 1.0
            for arm, paid in zip((first, second[outcome[0]], third[2 * outcome[0] + outcome[1]]), outcome, strict=True):
                pays = (1 + seen[arm][0]) / (2 + sum(seen[arm]))
                chance *= pays if paid else 1 - pays
                seen[arm][1 - paid] += 1
            total += chance * sum(outcome)
        return total

    plans = itertools.product((0, 1), itertools.product((0, 1), repeat=2), itertools.product((0, 1), repeat=4))
    assert expected_reward(2, 3) == pytest.approx(max(plan_value(*plan) for plan in plans))


def test_more_arms_than_pulls_are_worth_nothing():
    assert expected_reward(10, 6) == expected_reward(6, 6) > expected_reward(5, 6)


def test_indices_in_closed_form():
    table = indices(4, levels=1000).double()
    for won, lost in ((0, 0), (2, 0), (1, 2)):  # with one pull left: the mean
        assert table[3, won, lost].item() == pytest.approx(mean((won, lost)), abs=1e-5)
    # With two: λ + λ = 1/2 (1 + 2/3) + 1/2 λ.
    assert table[2, 0, 0].item() == pytest.approx(5 / 9, abs=1e-5)


def test_an_index_is_the_best_ratio_of_reward_to_time():
    """Three pulls of one arm: stop after 1; go on after a win; after a win and one more win; or not at all."""
    p, pp, ppp = mean((0, 0)), mean((1, 0)), mean((2, 0))
    after_win = p + p * pp  # reward of going on for one pull after a win
    ratios = [
        p,
        after_win / (1 + p),
        (after_win + p * pp * ppp) / (1 + p + p * pp),
        (after_win + p * pp) / (1 + 2 * p),  # both pulls after a win, whatever comes of the first
        3 * p / 3,
    ]
    assert indices(3, levels=1000)[0, 0, 0].item() == pytest.approx(max(ratios), abs=1e-5)


def test_gittins_indices_are_optimal_where_payments_are_discounted():
    """Play by them is as good as the best play by brute force, to what is cut off after 24 pulls."""
    discount, pulls = 0.6, 24
    table = indices(50, discount)  # whose first 24 moments have 26 more to come
    best = expected_reward(2, pulls, discount=discount)
    by_index = expected_reward(2, pulls, lambda arm, left: float(table[sum(arm)][arm]), discount)
    greedy = expected_reward(2, pulls, lambda arm, left: mean(arm), discount)
    assert best - by_index < 1e-5 < best - greedy


def test_indices_of_lives_that_end_are_nearly_the_best_play():
    table = indices(10, levels=1000)
    by_index = expected_reward(2, 10, lambda arm, left: float(table[10 - left][arm]))
    assert 0 < expected_reward(2, 10) - by_index < 1e-3


# Worlds and rules.


@pytest.mark.parametrize("worlds", [Bandits(3, 7), HiddenGoal(3, 4, 2)], ids=str)
def test_a_life_is_a_function_of_the_world_and_the_actions(worlds):
    assert all(torch.equal(a, b) for a, b in zip(*(worlds.sample(5, seeded(0)).support for _ in range(2)), strict=True))
    task, torch_seed = worlds.sample(5, seeded(0)), torch.manual_seed(0)
    learner = RL2(worlds, hidden=6)
    rewards = learner(task)
    torch_seed.manual_seed(1)
    assert torch.equal(learner(task), rewards)
    assert torch.equal(learner.replace(mapping="loop")(task), rewards)


def test_arms_pay_as_often_as_they_should():
    worlds = Bandits(2, 50)
    task = worlds.sample(400, seeded(0))
    life = torch.vmap(Greedy(worlds, epsilon=1.0).adapt, randomness="different")(task.support)
    arms = life.steps.action.mean((0, 1))
    torch.testing.assert_close(arms, torch.full((2,), 0.5), atol=0.02, rtol=0)
    off = (life.steps.reward - life.steps.worth).mean()
    assert off.abs() < 0.01 and life.steps.reward.unique().tolist() == [0, 1]


def test_greedy_earns_what_its_exact_value_says():
    # Ties between arms with the same mean are broken otherwise there, so: pulls that cannot tie but where arms are new.
    worlds = Bandits(2, 2)
    score = Greedy(worlds).judged(worlds.sample(40_000, seeded(0)), worlds.objective).scores["reward"]
    assert score.mean().item() == pytest.approx(expected_reward(2, 2, lambda arm, left: mean(arm)), abs=0.015)


def test_the_index_rule_earns_what_the_best_play_earns():
    worlds = Bandits(5, 10)
    score = Index(worlds).judged(worlds.sample(40_000, seeded(0)), worlds.objective).scores["reward"]
    assert abs(score.mean().item() - expected_reward(5, 10)) < 3 * score.std().item() / 200


def test_epsilon_is_the_share_of_pulls_at_random():
    worlds = Bandits(4, 1)
    agent, dice = Greedy(worlds, epsilon=0.3), torch.rand(20_000, 4, generator=seeded(0))
    scores = torch.tensor([0.9, 0.5, 0.5, 0.5])
    chosen = torch.vmap(agent.choose, in_dims=(None, 0))(scores, dice).mean(0)
    torch.testing.assert_close(chosen, torch.tensor([0.7 + 0.3 / 4, *[0.3 / 4] * 3]), atol=0.01, rtol=0)


def test_thompson_pulls_an_arm_as_often_as_it_is_likely_the_best():
    worlds = Bandits(2, 1)
    agent = Thompson(worlds)
    torch.manual_seed(0)
    counts = agent.begin()._replace(won=torch.tensor([1.0, 0.0]))  # Beta(2, 1) beside Beta(1, 1)
    first = torch.stack([agent.act(counts).argmax() for _ in range(4_000)]).eq(0).double().mean().item()
    assert first == pytest.approx(2 / 3, abs=0.03)


def test_upper_bounds_by_hand():
    agent = UCB(Bandits(2, 5), width=0.5)
    state = agent.update(agent.begin(), Step(torch.tensor([1.0, 0.0]), torch.tensor(1.0), *[torch.zeros(())] * 3))
    expected = [2 / 3 + 0.5 * (2 * torch.tensor(5.0).log() / 3).sqrt(), 1 / 2 + 0.5 * torch.tensor(5.0).log().sqrt()]
    torch.testing.assert_close(agent.act(state), torch.stack(expected))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Bandits(1, 5), "at least 2 arms"),
        (lambda: HiddenGoal(2), "3 cells a side"),
        (lambda: Greedy(Bandits(), epsilon=2), "between 0 and 1"),
        (lambda: RL2(Bandits(), trace=1.5), "between 0 and 1"),
    ],
)
def test_bad_sizes_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


# The hidden goal.


def test_the_best_hunt_is_that_of_all_walks():
    """Every sequence of moves in a small grid, by brute force."""
    worlds = HiddenGoal(3, 3, 2)

    def value(walk: tuple) -> float:
        cell, met = (0, 0), {}
        for moment, move in enumerate(walk):
            cell = tuple(min(max(at + by, 0), 2) for at, by in zip(cell, move, strict=True))
            met.setdefault(cell, moment)
            cell = (0, 0) if moment % 3 == 2 else cell
        never = -0.1 * worlds.lifetime
        return sum(found_at(worlds, g, met[g]) if g in met else never for g in worlds.goals) / len(worlds.goals)

    best = max(value(walk) for walk in itertools.product(worlds.MOVES, repeat=6))
    assert best_hunt(worlds)[0] == pytest.approx(best)


def test_the_reward_of_a_goal_that_is_found_is_that_of_the_world():
    worlds = HiddenGoal(3, 4, 3)
    goal = torch.tensor([2, 0])
    up, stay, right = (torch.eye(5)[i] for i in (1, 0, 2))
    place, total = worlds.start(goal), 0.0
    for action in (right, stay, stay, stay, up, up, stay, stay, up, up, stay, stay):
        place, reward, *_ = worlds.step(goal, place, action, torch.zeros(0))
        total += reward.item()
    assert total == pytest.approx(found_at(worlds, (2, 0), 5))  # in the second episode, by its second step


def test_guessing_never_looks_twice_and_is_worse_than_the_plan():
    worlds = HiddenGoal(4, 10, 3)
    score = GuessAndGo(worlds).judged(worlds.sample(500, seeded(0)), worlds.objective).scores["reward"]
    assert score.min() > -0.1 * worlds.lifetime  # it finds every goal
    assert score.mean() + 4 * score.std() / 500**0.5 < best_hunt(worlds)[0]


# RL2.


def test_the_cell_is_torchs():
    torch.manual_seed(0)
    ours, theirs = GRUCell(3, 4), nn.GRUCell(3, 4)
    theirs.load_state_dict(
        {
            "weight_ih": ours.of_input.weight,
            "bias_ih": ours.of_input.bias,
            "weight_hh": ours.of_state.weight,
            "bias_hh": ours.of_state.bias,
        }
    )
    x, state = torch.randn(5, 3), torch.randn(5, 4)
    torch.testing.assert_close(ours(x, state), theirs(x, state))


def test_advantages_by_hand():
    rewards, values = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([0.5, 1.0, 3.0])
    gains = advantages(rewards, values, 0.5, 0.0)  # one step: r + γ v' - v
    torch.testing.assert_close(gains, torch.tensor([1 + 0.5 - 0.5, 1.5 - 1.0, 2.0 - 3.0]))
    gains = advantages(rewards, values, 1.0, 1.0)  # all that came, minus what was expected
    torch.testing.assert_close(gains, torch.tensor([3 - 0.5, 2 - 1.0, 2 - 3.0]))


@pytest.mark.parametrize("expected", [False, True])
def test_the_surrogate_has_the_gradient_of_the_expected_reward(expected):
    """Of one pull of two arms the expected reward is a formula of the logits; its gradient is that of lives."""
    worlds = Bandits(2, 1)
    torch.manual_seed(0)
    agent = RL2(worlds, hidden=3, entropy=0.0, expected=expected).double().train()
    nn.init.zeros_(agent.value.weight)
    nn.init.zeros_(agent.value.bias)
    with torch.no_grad():
        agent.policy.bias.copy_(torch.tensor([0.3, -0.2]))
    task = worlds.sample(40_000, seeded(0)).each(lambda t: t.double())
    task = task._replace(support=task.support._replace(hidden=torch.tensor([[0.9, 0.4]]).double().expand(40_000, -1)))
    agent.meta_loss(task, worlds.objective).backward()
    p = agent.policy.bias.detach().softmax(0)
    exact = -p * (torch.tensor([0.9, 0.4]) - (p * torch.tensor([0.9, 0.4])).sum())  # of minus Σ p_a μ_a
    torch.testing.assert_close(agent.policy.bias.grad, exact, atol=0.01, rtol=0)


def test_lives_lengthen_and_go_on_after_a_pause():
    worlds = LengtheningLives(Bandits(2, 6), first=4, hold=2, every=2)
    lengths: list[int] = []
    for i in range(8):
        lengths.append(worlds.sample(1, seeded(i)).support.luck.shape[1])
        worlds.feedback({})
    assert lengths == [4, 4, 5, 5, 6, 6, 6, 6]
    again = LengtheningLives(Bandits(2, 6), first=4, hold=2, every=2)
    again.load_state_dict(worlds.state_dict())
    assert again.sample(1, seeded(0)).support.luck.shape[1] == 6


@pytest.mark.slow
def test_rl2_learns_more_than_to_stay_with_what_paid():
    worlds = Bandits(2, 6)
    torch.manual_seed(0)
    agent = RL2(worlds, hidden=32, expected=True)
    meta_train(agent, worlds, iterations=250, meta_batch=128, outer_lr=1e-2, clip_norm=1.0, progress=False)
    score = evaluate(agent, worlds, episodes=2_000, progress=False)
    assert score.mean > 3 + 0.85 * (expected_reward(2, 6) - 3)  # 3 by chance
