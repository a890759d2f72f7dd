"""Learners that choose their own data, the worlds that they live in, and the best that can be done there."""

from mlcore.agents.agent import Agent, Life
from mlcore.agents.exact import expected_reward, indices
from mlcore.agents.hunt import GuessAndGo, best_hunt
from mlcore.agents.rl2 import RL2
from mlcore.agents.rules import UCB, Greedy, Index, Thompson
from mlcore.agents.worlds import Bandits, HiddenGoal, LengtheningLives, Step, World, Worlds

__all__ = [
    "RL2",
    "UCB",
    "Agent",
    "Bandits",
    "Greedy",
    "GuessAndGo",
    "HiddenGoal",
    "Index",
    "LengtheningLives",
    "Life",
    "Step",
    "Thompson",
    "World",
    "Worlds",
    "best_hunt",
    "expected_reward",
    "indices",
]
