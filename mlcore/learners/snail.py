"""SNAIL, a simple neural attentive meta-learner (Mishra, Rohaninejad, Chen and Abbeel, 2018)."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mlcore.learners.metric import MetricLearner
from mlcore.mapping import first_tensor
from mlcore.nets.derivatives import attention
from mlcore.nets.norms import BatchNormPolicy, statistics_from
from mlcore.task import Examples, Task


class DenseBlock(nn.Module):
    """Joins to x_t what a gated convolution makes of x_t and x_{t-dilation} (Mishra et al., 2018, section 3.1)."""

    def __init__(self, inputs: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.inputs, self.outputs, self.dilation = inputs, inputs + filters, dilation
        self.now, self.before = nn.Linear(inputs, 2 * filters), nn.Linear(inputs, 2 * filters, bias=False)

    def begin(self) -> Tensor:
        """Zeros for what came before the sequence: [dilation, inputs]."""
        return self.now.weight.new_zeros(self.dilation, self.inputs)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """The next n elements [n, inputs], and the last before them -> [n, outputs], and the last ones now."""
        sequence = torch.cat([memory, x])
        value, gate = (self.now(x) + self.before(sequence[: len(x)])).chunk(2, -1)
        return torch.cat([x, value.tanh() * gate.sigmoid()], -1), sequence[len(x) :]


class Read(NamedTuple):
    """What an attention keeps of the elements so far."""

    keys: Tensor  # [n, key]
    values: Tensor  # [n, value]


class AttentionBlock(nn.Module):
    """Joins to x_t a mean of values of x_1 … x_t, weighed by a softmax over their keys (section 3.1)."""

    def __init__(self, inputs: int, key: int, value: int) -> None:
        super().__init__()
        self.outputs = inputs + value
        self.query, self.key, self.value = nn.Linear(inputs, key), nn.Linear(inputs, key), nn.Linear(inputs, value)

    def begin(self) -> Read:
        """Nothing so far."""
        some = self.key.weight
        return Read(some.new_zeros(0, self.key.out_features), some.new_zeros(0, self.value.out_features))

    def forward(self, x: Tensor, memory: Read) -> tuple[Tensor, Read]:
        """The next n elements [n, inputs], and what was read before -> [n, outputs], and all that is read now."""
        keys, values = torch.cat([memory.keys, self.key(x)]), torch.cat([memory.values, self.value(x)])
        past = torch.ones(len(x), len(keys), dtype=torch.bool, device=x.device).tril(len(memory.keys))
        return torch.cat([x, attention(self.query(x), keys, values, past)], -1), Read(keys, values)


class SNAIL(MetricLearner):
    """Read labelled embeddings as a sequence, and answer for the next element, which has no label.

    Three attentions, and between them temporal convolutions with dilations 1, 2, 4, … that reach over the whole
    sequence. All of them see the past alone. So a support set is read once, whatever is asked later, and each query
    costs one position.

    Args:
        net: the embedding of inputs.
        features: length of an embedding.
        ways: classes of a task.
        length: of the longest sequence, ways · shots + 1; the convolutions reach over it.
        filters: of a temporal convolution.
        bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Reading the support set as a sequence, :eq:`eq-snail-convolution` and :eq:`eq-snail-attention`.
    """

    reads_order = True

    def __init__(
        self,
        net: nn.Module,
        *,
        features: int = 64,
        ways: int = 5,
        length: int = 6,
        filters: int = 128,
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, bfloat16=bfloat16)
        if length < 2:
            raise ValueError(f"length must be at least 2, an example and a question, not {length}.")
        self.ways = ways
        self.blocks = nn.ModuleList()
        width = features + ways
        for divisor in (4, 1, 0.5):  # keys and values of 64 and 32, 256 and 128, 512 and 256 where filters are 128
            if self.blocks:
                for i in range(math.ceil(math.log2(length))):
                    width = self._add(DenseBlock(width, filters, 2**i))
            width = self._add(AttentionBlock(width, round(2 * filters / divisor), round(filters / divisor)))
        self.head = nn.Linear(width, ways)

    def _add(self, block: Any) -> int:
        self.blocks.append(block)
        return block.outputs

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """Embeddings in place of inputs, in training normalised by the images of the whole meta-batch.

        The few images of one episode have statistics of their own. A comparison hardly minds, since they move all
        embeddings together; a reader does, and would meet others in evaluation than it learned to read.
        """
        if not self.training or policy != "episode":
            return super().prepare(task, policy)
        with statistics_from(None):
            z = self.embed(
                tree_map(lambda *halves: torch.cat(halves, 1).flatten(0, 1), task.support.x, task.query.x)
            ).unflatten(0, (task.count, -1))
        n = first_tensor(task.support.x).shape[1]
        return Task(self.embedded(z[:, :n], task.support.y), self.embedded(z[:, n:], task.query.y))

    def begin(self) -> tuple[Any, ...]:
        """What every block holds before a sequence."""
        return tuple(block.begin() for block in self.blocks)  # pyright: ignore[reportCallIssue]

    def read(self, sequence: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """The next n elements [n, features + ways] after those of ``state`` -> answers [n, ways], and the new state."""
        memories = []
        for block, memory in zip(self.blocks, state, strict=True):
            sequence, memory = block(sequence, memory)
            memories.append(memory)
        return self.head(sequence), tuple(memories)

    def update(self, state: tuple[Any, ...], data: Examples) -> tuple[Any, ...]:
        """Read embeddings [n, features] with their labels [n, ways], in the order they come."""
        return self.read(torch.cat([data.x, data.y], -1), state)[1]

    def predict(self, state: tuple[Any, ...], x: Any) -> Tensor:
        """Logits [n, ways] for embeddings [n, features], each as if it came next."""
        questions = F.pad(x, (0, self.ways))[:, None]  # of one element each, its label zeros
        return torch.vmap(lambda question: self.read(question, state)[0][0])(questions)
