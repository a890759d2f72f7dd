"""Learners that choose their own data, the worlds that they live in, and the best that can be done there."""

from mlcore.agents.agent import Agent, Life
from mlcore.agents.exact import expected_reward, indices
from mlcore.agents.hunt import GuessAndGo, best_hunt
from mlcore.agents.navigation import Navigation
from mlcore.agents.policy_gradient import GaussianPolicy, PolicyGradientCAVIA, PolicyGradientMAML
from mlcore.agents.rl2 import RL2
from mlcore.agents.rules import UCB, Greedy, Index, Thompson
from mlcore.agents.two_pulls import meta_gradients
from mlcore.agents.worlds import Bandits, HiddenGoal, LengtheningLives, Step, World, Worlds

__all__ = [
    "RL2",
    "UCB",
    "Agent",
    "Bandits",
    "GaussianPolicy",
    "Greedy",
    "GuessAndGo",
    "HiddenGoal",
    "Index",
    "LengtheningLives",
    "Life",
    "Navigation",
    "PolicyGradientCAVIA",
    "PolicyGradientMAML",
    "Step",
    "Thompson",
    "World",
    "Worlds",
    "best_hunt",
    "expected_reward",
    "indices",
    "meta_gradients",
]
