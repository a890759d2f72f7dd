"""A learner around another one: what it learns and how it answers stay that one's."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from mlcore.learner import Learner
from mlcore.nets.norms import BatchNormPolicy, Statistics
from mlcore.objective import Objective
from mlcore.task import Task


class Wrapper(Learner):
    """Does everything as the learner that it holds, whose weights it shares; a subclass changes one thing.

    Args:
        learner: whom to hold.
    """

    def __init__(self, learner: Learner) -> None:
        super().__init__(mapping=learner.mapping)
        self.learner, self.training = learner, learner.training
        self.batch_norm, self.reads_order = learner.batch_norm, learner.reads_order
        self.only_in_training = tuple(f"learner.{name}" for name in learner.only_in_training)

    def begin(self) -> Any:
        """As the learner."""
        return self.learner.begin()

    def stream(self, support: Any) -> Iterable[Any]:
        """As the learner."""
        return self.learner.stream(support)

    def update(self, state: Any, data: Any) -> Any:
        """As the learner."""
        return self.learner.update(state, data)

    def predict(self, state: Any, x: Any) -> Any:
        """As the learner."""
        return self.learner.predict(state, x)

    def loss(self, state: Any, outputs: Any, query: Any, objective: Objective) -> Tensor:
        """As the learner."""
        return self.learner.loss(state, outputs, query, objective)

    def leave(self, state: Any) -> tuple[Tensor, ...]:
        """As the learner."""
        return self.learner.leave(state)

    def receive(self, *means: Tensor) -> None:
        """As the learner."""
        self.learner.receive(*means)

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """As the learner."""
        return self.learner.prepare(task, policy)

    def answer(self, policy: BatchNormPolicy, state: Any, support: Any, query_x: Any) -> tuple[Any, Statistics]:
        """As the learner."""
        return self.learner.answer(policy, state, support, query_x)

    def precision(self, device: torch.device) -> AbstractContextManager:
        """As the learner."""
        return self.learner.precision(device)

    @property
    def training_policy(self) -> BatchNormPolicy:
        """The learner's."""
        return self.learner.training_policy

    def tasks_at_once(self, task: Task) -> int:
        """As the learner."""
        return self.learner.tasks_at_once(task)
