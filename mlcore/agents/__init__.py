"""Learners that choose their own data, the worlds that they live in, and the best that can be done there."""

from mlcore.agents.agent import Agent, Life
from mlcore.agents.exact import expected_reward, indices
from mlcore.agents.gym import GymWalks, GymWorlds
from mlcore.agents.hunt import GuessAndGo, best_hunt
from mlcore.agents.mdps import PSRL, UCRL2, PlanGreedily, RandomMDPs, plan
from mlcore.agents.navigation import Navigation, Walking
from mlcore.agents.policy_gradient import GaussianPolicy, PolicyGradientCAVIA, PolicyGradientMAML
from mlcore.agents.rl2 import RL2
from mlcore.agents.rules import UCB, Greedy, Index, Thompson
from mlcore.agents.two_pulls import meta_gradients
from mlcore.agents.worlds import Bandits, HiddenGoal, LengtheningLives, Step, World, Worlds

__all__ = [
    "PSRL",
    "RL2",
    "UCB",
    "UCRL2",
    "Agent",
    "Bandits",
    "GaussianPolicy",
    "Greedy",
    "GuessAndGo",
    "GymWalks",
    "GymWorlds",
    "HiddenGoal",
    "Index",
    "LengtheningLives",
    "Life",
    "Navigation",
    "PlanGreedily",
    "PolicyGradientCAVIA",
    "PolicyGradientMAML",
    "RandomMDPs",
    "Step",
    "Thompson",
    "Walking",
    "World",
    "Worlds",
    "best_hunt",
    "expected_reward",
    "indices",
    "meta_gradients",
    "plan",
]
