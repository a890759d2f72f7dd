"""Environments of gymnasium as worlds: what they show and pay is what gymnasium says, and our learners live in them."""

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from mlcore import evaluate, meta_train, seeded
from mlcore.agents import RL2, Agent, GaussianPolicy, GymWalks, GymWorlds, PolicyGradientMAML
from mlcore.agents.agent import one_hot


def pole(world: int, **settings) -> gymnasium.Env:
    """CartPole with a pole of a length of its own."""
    env = gymnasium.make("CartPole-v1", **settings)
    env.unwrapped.length = 0.25 + np.random.default_rng(world).random()
    return env


def pendulum(world: int, **settings) -> gymnasium.Env:
    return gymnasium.make("Pendulum-v1", g=5 + 10 * np.random.default_rng(world).random(), **settings)


class Counting(Agent):
    """Pushes left and right by a list that is the same in every life, and remembers nothing."""

    pushes = (0, 1, 1, 0, 1, 1, 1, 0)

    def begin(self):
        return torch.zeros(())

    def update(self, state, data):
        return state + 1

    def act(self, state):
        return state

    def choose(self, said, dice):
        right = torch.tensor(self.pushes)[(said.long() - 1) % len(self.pushes)]
        return one_hot(torch.stack([1 - right, right]).float())


@pytest.mark.parametrize("mapping", ["vmap", "loop", 2])
def test_a_life_is_what_gymnasium_says_step_by_step(mapping):
    """Three worlds with poles of different lengths: the same numbers, seeds and actions, over several falls."""
    worlds = GymWorlds(pole, lifetime=40)
    agent, task = Counting(worlds, mapping=mapping), worlds.sample(3, seeded(0))
    rewards = agent(task)
    life = torch.vmap(agent.adapt, randomness="different")(task.support)
    assert torch.equal(life.steps.reward, rewards) and torch.equal(life.steps.worth, rewards)
    falls = 0
    for i, (number, luck) in enumerate(task.support.hidden.tolist()):
        env = pole(number)
        env.reset(seed=luck)
        for t in range(40):
            action = Counting.pushes[t % 8]
            assert life.steps.action[i, t].argmax() == action
            seen, reward, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                falls += 1
                seen, _ = env.reset()
            np.testing.assert_array_equal(life.steps.observation[i, t].numpy(), seen)
            assert life.steps.reward[i, t] == reward and life.steps.ended[i, t] == (terminated or truncated)
    assert falls > 3


def test_time_limits_end_episodes_too():
    worlds = GymWorlds(lambda number: pole(number, max_episode_steps=4), lifetime=12)
    life = torch.vmap(Counting(worlds).adapt, randomness="different")(worlds.sample(2, seeded(0)).support)
    assert life.steps.ended.nonzero()[:, 1].tolist() == [3, 7, 11] * 2


def test_lives_are_pure_and_observations_of_any_kind_are_flat():
    worlds = GymWorlds(lambda number: gymnasium.make("FrozenLake-v1"), lifetime=9)
    assert (worlds.actions, worlds.observations) == (4, 16)
    learner, task = RL2(worlds, hidden=5), worlds.sample(4, seeded(1))
    assert torch.equal(learner(task), learner(task))
    life = torch.vmap(learner.eval().adapt, randomness="different")(task.support)
    assert (life.steps.observation.sum(-1) == 1).all()


@pytest.mark.slow
def test_rl2_finds_out_which_button_is_which():
    """One push in an environment that pays for one of two actions, which one it does not show."""

    class Buttons(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (1,))
        action_space = gymnasium.spaces.Discrete(2, start=5)

        def __init__(self, world):
            self.good = 5 + world % 2

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action):
            return np.zeros(1, np.float32), float(action == self.good), False, False, {}

    torch.manual_seed(0)
    worlds = GymWorlds(Buttons, lifetime=4)
    agent = RL2(worlds, hidden=16)
    meta_train(agent, worlds, iterations=150, meta_batch=32, outer_lr=2e-2, clip_norm=1.0, progress=False)
    assert evaluate(agent, worlds, episodes=200, progress=False).mean > 3.3  # 3.5 is the most: guess, then know


@pytest.mark.parametrize("tasks", [1, 3])
def test_paths_are_what_gymnasium_says_step_by_step(tasks):
    worlds = GymWalks(lambda number: pendulum(number, max_episode_steps=7), paths=2, horizon=9)
    task = worlds.sample(tasks, seeded(0))
    assert (worlds.actions, worlds.seen) == (1, 3)

    def act(seen):
        return seen[..., :1], torch.tensor([-1.0])

    paths = torch.vmap(lambda w: worlds.walk(w.goal, w.noise, act))(task.query.x)
    lucks = set()
    for i, number in enumerate(task.query.x.goal.tolist()):
        for j in range(2):
            noise = task.query.x.noise[i, j]
            luck = abs(int(noise[0, 0].view(torch.int32)))
            lucks.add(luck)
            env = pendulum(number, max_episode_steps=7)
            seen, _ = env.reset(seed=luck)
            for t in range(7):
                np.testing.assert_array_equal(paths.seen[i, j, t].numpy(), seen)
                action = paths.action[i, j, t]
                torch.testing.assert_close(action, torch.tensor(seen[:1]) + torch.tensor(-1.0).exp() * noise[t])
                seen, reward, *_ = env.step((-2 + (action.clamp(-1, 1) + 1) / 2 * 4).numpy())
                assert paths.reward[i, j, t].item() == pytest.approx(reward)
    assert len(lucks) == 2 * tasks
    assert (paths.alive.sum(-1) == 7).all() and not paths.reward[..., 7:].any()


def test_a_meta_step_of_a_policy_in_pendulums():
    torch.manual_seed(0)
    worlds = GymWalks(pendulum, paths=3, horizon=6)
    learner = PolicyGradientMAML(GaussianPolicy(3, 1, hidden=(8,)), worlds, thinning=2).train()
    judged = learner.meta_backward(worlds.sample(2, seeded(0)), worlds.objective)
    assert judged.scores["return"].shape == (2,) and (judged.losses > 0).all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.parameters())
    assert any(p.grad.abs().max() > 0 for p in learner.parameters())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GymWorlds(pendulum, lifetime=5), "takes Discrete actions, not Box"),
        (lambda: GymWalks(pole), "bounded Box of one dimension, not Discrete"),
        (lambda: GymWorlds(pole, lifetime=0), "lifetime must be at least 1"),
        (lambda: GymWalks(pendulum, paths=0), "paths must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_without_gymnasium_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium.wrappers", None)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(LookupError, match=r"pip install 'mlcore\[robots\]'"):
        GymWorlds(lambda number: SimpleNamespace(), lifetime=3)
