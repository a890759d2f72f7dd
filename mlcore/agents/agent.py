"""A learner that chooses its own support set: begin, act, update, and again, for the length of a life."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlcore.agents.worlds import Step, World, Worlds
from mlcore.learner import Learner
from mlcore.mapping import Mapping


class Life(NamedTuple):
    """What an agent has been through."""

    state: Any  # what it remembers at the end
    steps: Step  # each part [lifetime, ...]
    said: Any  # what it said before each action, each part [lifetime, ...]


class Agent(Learner):
    """A learner whose data are what its own actions brought about.

    A method writes :meth:`begin`, the state before any data, :meth:`update` on one :class:`~mlcore.agents.Step`, and
    :meth:`act`. It lives in one world; the base class maps it over a batch of them, and judges it by its rewards.

    Args:
        worlds: where it lives, which says how many actions it has; another life in other worlds is
            ``agent.replace(worlds=…)``.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: A learner that explores, :eq:`eq-life`.
    """

    reads_order = True

    def __init__(self, worlds: Worlds, *, mapping: Mapping = "vmap") -> None:
        super().__init__(mapping=mapping)
        self.worlds = worlds

    def act(self, state: Any) -> Any:
        """What there is to say of the actions in a state: their scores [actions], or several such tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define act(state).")

    def choose(self, said: Any, dice: Tensor) -> Tensor:
        """An action [actions], one-hot: that of the highest score, and of equal ones any."""
        best = said == said.amax()
        return one_hot(torch.where(best, 1 + dice, dice))

    def adapt(self, support: World) -> Life:
        """Live in one world from begin to end."""
        nothing, place = support.dice.new_zeros(()), self.worlds.start(support.hidden)
        step = Step(support.dice.new_zeros(self.worlds.actions), nothing, self.worlds.see(place), nothing, nothing)
        state, steps, said = self.update(self.begin(), step), [], []
        for luck, dice in zip(support.luck, support.dice, strict=True):
            said.append(self.act(state))
            action = self.choose(said[-1], dice)
            place, reward, worth, ended = self.worlds.step(support.hidden, place, action, luck)
            steps.append(Step(action, reward, self.worlds.see(place), ended, worth))
            state = self.update(state, steps[-1])
        return Life(state, stacked(steps), stacked(said))

    def predict(self, state: Life, x: Any) -> Tensor:
        """The rewards of a life [lifetime]."""
        return state.steps.reward


def one_hot(scores: Tensor) -> Tensor:
    """1 at the largest of scores [n], which differ, and 0 elsewhere."""
    return (torch.arange(len(scores), device=scores.device) == scores.argmax()).to(scores.dtype)


def stacked(moments: list[Any]) -> Any:
    """Tensors, or tuples of tensors, one of each moment, along a new first dimension."""
    if isinstance(moments[0], Tensor):
        return torch.stack(moments)
    parts = [torch.stack(part) for part in zip(*moments, strict=True)]
    return type(moments[0])(*parts) if hasattr(moments[0], "_fields") else tuple(parts)
