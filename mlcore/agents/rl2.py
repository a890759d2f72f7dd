"""Fast reinforcement learning by slow reinforcement learning (Duan et al., 2016; Wang et al., 2016)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcore.agents.agent import Agent, Life, one_hot
from mlcore.agents.worlds import Step, Worlds
from mlcore.mapping import Mapping
from mlcore.nets.gru import GRUCell
from mlcore.objective import Objective


class Said(NamedTuple):
    """What the network says before it acts."""

    logits: Tensor  # [actions]
    value: Tensor  # [] the rewards still to come, discounted


class RL2(Agent):
    """A recurrent network that is told what it did and what came of it, and keeps its state across episodes.

    Its weights stay as they are during a life; what it learns of a world is in the state of the network. They are
    meta-trained by policy gradient with a learned baseline, on one life in each world of a meta-batch. In training it
    draws its actions, in evaluation it takes the likeliest.

    Args:
        worlds, mapping: as for :class:`~mlcore.agents.Agent`.
        hidden: size of the state.
        discount: γ, and ``trace``, λ, of generalised advantage estimation (Schulman et al., 2016).
        entropy: weight of the entropy of the policy, which keeps it from deciding early.
        expected: train on the expectation of each reward given the action, which a simulator knows, in place of the
            reward; the network sees the reward all the same.

    Derived in: A learner that explores, :eq:`eq-policy-gradient`.
    """

    def __init__(
        self,
        worlds: Worlds,
        *,
        hidden: int = 64,
        discount: float = 1.0,
        trace: float = 1.0,
        entropy: float = 0.02,
        expected: bool = False,
        mapping: Mapping = "vmap",
    ) -> None:
        super().__init__(worlds, mapping=mapping)
        for name, value in (("discount", discount), ("trace", trace)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value} must lie between 0 and 1.")
        self.hidden, self.discount, self.trace = hidden, discount, trace
        self.entropy, self.expected = entropy, expected
        self.cell = GRUCell(worlds.actions + worlds.observations + 2, hidden)
        self.policy, self.value = nn.Linear(hidden, worlds.actions), nn.Linear(hidden, 1)
        nn.init.zeros_(self.policy.weight)
        # The most that a life of rewards of 1 can bring, so that the network has numbers of size one to say.
        self.scale = sum(discount**t for t in range(worlds.lifetime))

    def begin(self) -> Tensor:
        """An empty memory."""
        return self.policy.weight.new_zeros(self.hidden)

    def update(self, state: Tensor, data: Step) -> Tensor:
        """Take in what came of an action."""
        told = torch.cat([data.action, data.observation, torch.stack([data.reward, data.ended])])
        return self.cell(told, state)

    def act(self, state: Tensor) -> Said:
        """Logits of the actions, and what they will bring."""
        return Said(self.policy(state), self.scale * self.value(state)[0])

    def choose(self, said: Said, dice: Tensor) -> Tensor:
        """Draw an action from the policy, by the trick of Gumbel; in evaluation the likeliest."""
        noise = -(-dice.clamp(1e-10, 1 - 1e-7).log()).log() if self.training else 0
        return one_hot(said.logits.detach() + noise)

    def loss(self, state: Life, outputs: Tensor, query: Any, objective: Objective) -> Tensor:
        """The surrogate whose gradient is that of the reward, the error of the values, and minus the entropy."""
        rewards = state.steps.worth if self.expected else state.steps.reward
        log_p = state.said.logits.log_softmax(-1)
        gain = advantages(rewards, state.said.value.detach(), self.discount, self.trace)
        surprise = (gain + state.said.value.detach() - state.said.value) / self.scale
        entropy = -(log_p.exp() * log_p).sum(-1)
        return (surprise.square() - (log_p * state.steps.action).sum(-1) * gain - self.entropy * entropy).mean()


def advantages(rewards: Tensor, values: Tensor, discount: float, trace: float) -> Tensor:
    """How much better each action [lifetime] was than its state's value said (Schulman et al., 2016, equation 16)."""
    after = torch.cat([values[1:], values.new_zeros(1)])
    surprises, gain, gains = rewards + discount * after - values, values.new_zeros(()), []
    for surprise in reversed(surprises.unbind()):
        gain = surprise + discount * trace * gain
        gains.append(gain)
    return torch.stack(gains[::-1])
