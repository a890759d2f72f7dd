"""A memory-augmented neural network (Santoro, Bartunov, Botvinick, Wierstra and Lillicrap, 2016)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mlcore.learners.lstm import LSTMLearner
from mlcore.learners.metric import cosines
from mlcore.mapping import Mapping
from mlcore.nets.lstm import LSTMCell


class Memory(NamedTuple):
    """The state between two steps."""

    hidden: Tensor  # of the controller: [hidden]
    cell: Tensor  # [hidden]
    rows: Tensor  # M: [slots, width]
    usage: Tensor  # w^u: [slots]
    reading: Tensor  # w^r of the step before, one distribution a head: [heads, slots]
    read: Tensor  # what was read then: [heads · width]


class MANN(LSTMLearner):
    """An LSTM with an external memory, whose rows are written where they were used least, or were read last.

    One step (Santoro et al., 2016, section 3.2): the controller makes keys k; the least used rows are emptied; k is
    added with the weights w^w = σ(g) w^r + (1 - σ(g)) w^lu; the memory is read at softmax(cosine(k, M));
    and usage decays, w^u ← γ w^u + w^r + w^w. Of the reads and the LSTM's state a linear layer makes the answer.

    The cosines are multiplied by a learned strength before the softmax, as in the neural Turing machine; without one
    no row's weight could be more than e² times another's. The gate σ(g) comes from the controller, one a head.

    Args:
        net, features, ways, hidden, along: as for :class:`~mlcore.learners.lstm.LSTMLearner`.
        slots, width: rows of the memory, and their length.
        heads: keys, and reads, at every step.
        decay: γ.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Reading the support set as a sequence, :eq:`eq-least-used`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        features: int = 64,
        ways: int = 5,
        hidden: int = 200,
        slots: int = 128,
        width: int = 40,
        heads: int = 4,
        decay: float = 0.95,
        along: bool = False,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(
            net, features=features, ways=ways, hidden=hidden, along=along, mapping=mapping, bfloat16=bfloat16
        )
        self.slots, self.width, self.heads, self.decay = slots, width, heads, decay
        self.cell = LSTMCell(features + ways + heads * width, hidden)
        self.keys, self.gates = nn.Linear(hidden, heads * width), nn.Linear(hidden, heads)
        self.strength = nn.Parameter(torch.tensor(10.0))
        self.head = nn.Linear(hidden + heads * width, ways)

    def empty(self) -> Memory:
        """No row used; the first is as good as any to read."""
        zeros = self.strength.new_zeros
        reading = torch.eye(1, self.slots, dtype=self.strength.dtype, device=self.strength.device)
        # Numbers as small as nothing, and not 0, since the cosine with zeros has no derivative.
        rows = self.strength.new_full((self.slots, self.width), 1e-6)
        return Memory(
            zeros(self.hidden), zeros(self.hidden), rows, zeros(self.slots),
            reading.expand(self.heads, -1), zeros(self.heads * self.width),
        )  # fmt: skip

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """An embedding with the label before it [features + ways] -> logits [ways], and the new memory."""
        hidden, cell = self.cell(torch.cat([x, memory.read]), memory.hidden, memory.cell)
        keys, gates = self.keys(hidden).tanh().view(self.heads, self.width), self.gates(hidden).sigmoid()
        least = least_used(memory.usage, self.heads)
        writing = gates[:, None] * memory.reading + (1 - gates[:, None]) * least
        rows = memory.rows * (1 - least.sum(0))[:, None] + writing.mT @ keys
        reading = (self.strength * cosines(keys, rows)).softmax(-1)
        usage = self.decay * memory.usage + reading.sum(0) + writing.sum(0)
        read = (reading @ rows).flatten()
        return self.head(torch.cat([hidden, read])), Memory(hidden, cell, rows, usage, reading, read)


def least_used(usage: Tensor, heads: int) -> Tensor:
    """w^lu: for each head a one at a row of its own among those used least, [heads, slots] from usage [slots].

    Among rows that were used equally little, the first.
    """
    order = usage.argsort(stable=True)[:heads]
    return (order[:, None] == torch.arange(len(usage), device=usage.device)).to(usage.dtype)
