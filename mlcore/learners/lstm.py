"""A recurrent network as a learning algorithm (Hochreiter, Younger and Conwell, 2001)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner
from mlcore.mapping import Mapping
from mlcore.nets.lstm import LSTMCell
from mlcore.nets.norms import BatchNormPolicy
from mlcore.objective import Objective
from mlcore.task import Examples, Task


class Stream(NamedTuple):
    """A stream of examples as far as it was read."""

    memory: Any
    label: Tensor  # of the last example, which the network has not been told yet: [ways]
    answers: Tensor  # to the examples, each before its label: [n, ways]
    labels: Tensor  # [n, ways]


class LSTMLearner(MetricLearner):
    """Read a stream of embeddings, each with the label of the one *before*, and answer at every step.

    So the label comes one step late, and the answer to an example can use those before it alone. A query is one step
    more. Its weights stay as they are during a task: what is learned is in the state of the LSTM. Meta-training lowers
    the mean loss of all answers, along the support set and to the queries.

    Args:
        net: the embedding of inputs.
        features: length of an embedding.
        ways: classes of a task.
        hidden: size of the LSTM's state.
        along: answer to the support set itself, each example before its label, in place of the queries, as
            :class:`~mlcore.tasks.StreamTasks` asks.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Reading the support set as a sequence, :eq:`eq-late-label`.
    """

    reads_order = True

    def __init__(
        self,
        net: nn.Module,
        *,
        features: int = 64,
        ways: int = 5,
        hidden: int = 200,
        along: bool = False,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        self.ways, self.hidden, self.along = ways, hidden, along
        self.cell, self.head = LSTMCell(features + ways, hidden), nn.Linear(hidden, ways)

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """Embeddings in place of inputs; along a stream its examples alone, which are the queries too."""
        asked = task.query._replace(x=task.query.x[:, :0]) if self.along else task.query
        return super().prepare(task._replace(query=asked), policy)

    def empty(self) -> Any:
        """The memory before a stream."""
        zeros = self.head.weight.new_zeros(self.hidden)
        return zeros, zeros

    def step(self, x: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """An embedding with the label before it [features + ways] -> logits [ways], and the new memory."""
        hidden, cell = self.cell(x, *memory)
        return self.head(hidden), (hidden, cell)

    def begin(self) -> Stream:
        """Nothing read."""
        none = self.head.weight.new_zeros(0, self.ways)
        return Stream(self.empty(), self.head.weight.new_zeros(self.ways), none, none)

    def update(self, state: Stream, data: Examples) -> Stream:
        """Read on, answering to each of the embeddings [n, features] before its label."""
        memory, answers = state.memory, []
        for x, label in zip(data.x, torch.cat([state.label[None], data.y[:-1]]), strict=True):
            answer, memory = self.step(torch.cat([x, label]), memory)
            answers.append(answer)
        return Stream(
            memory, data.y[-1], torch.cat([state.answers, torch.stack(answers)]), torch.cat([state.labels, data.y])
        )

    def predict(self, state: Stream, x: Any) -> Tensor:
        """Logits [n, ways] for embeddings [n, features], each as if it came next; or those along the stream."""
        if self.along:
            return state.answers
        return torch.vmap(lambda z: self.step(torch.cat([z, state.label]), state.memory)[0])(x)

    def loss(self, state: Stream, outputs: Tensor, query: Examples, objective: Objective) -> Tensor:
        """The objective's loss on all answers."""
        if self.along:
            return objective.loss(outputs, query.y)
        return objective.loss(torch.cat([state.answers, outputs]), torch.cat([state.labels, query.y]))
