"""Attentive neural processes, conditional (Kim, Mnih, Schwarz, Garnelo, Eslami, Rosenbaum et al., 2019)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcore.densities import Gaussian
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets import mlp
from mlcore.nets.transformer import Attention, EncoderLayer, LayerNorm
from mlcore.task import Examples


class Memory(NamedTuple):
    """What queries look at."""

    keys: Tensor  # [n, width]
    values: Tensor  # [n, width]


class AttentiveCNP(Learner):
    """A neural process whose queries look at the support points that concern them, rather than at their mean.

    Support points look at each other (two layers of self-attention), then every query asks with its input for those
    with inputs like its own: multi-head attention in place of the mean (Kim et al., 2019, figure 2, without the latent
    path).

    Args:
        inputs, outputs, width, floor: as for :class:`~mlcore.learners.cnp.CNP`.
        heads: of attention.
        mapping: as for :class:`~mlcore.learner.Learner`.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        *,
        width: int = 128,
        heads: int = 8,
        floor: float = 0.1,
        mapping: Mapping = "vmap",
    ) -> None:
        super().__init__(mapping=mapping)
        self.encoder = mlp(inputs + outputs, width, width)
        self.among = nn.ModuleList(EncoderLayer(width, heads, width, LayerNorm, 0.0) for _ in range(2))
        self.key = mlp(inputs, width, width)
        self.attention = Attention(width, heads)
        self.decoder = mlp(inputs + width, width, width, 2 * outputs)
        self.floor = floor

    def update(self, state: Any, data: Examples) -> Memory:
        """A key and a value for every point of a whole support set."""
        values = self.encoder(torch.cat([data.x, data.y], -1))[None]
        for layer in self.among:
            values = layer(values)
        return Memory(self.key(data.x), values[0])

    def predict(self, state: Memory, x: Any) -> Gaussian:
        """A normal distribution at every query [n, inputs]."""
        seen = self.attention(self.key(x)[None], state.keys[None], state.values[None])
        return Gaussian.of(self.decoder(torch.cat([x, seen[0]], -1)), self.floor)
