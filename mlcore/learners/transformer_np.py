"""Transformer neural processes (Nguyen and Grover, 2022)."""

from typing import Any

import torch
from torch import Tensor

from mlcore.densities import Gaussian
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets import TransformerEncoder, mlp
from mlcore.task import Examples


class TransformerNP(Learner):
    """A transformer over points: support points look at each other, and queries, layer by layer, at support points.

    A query is a point without its target, and no query sees another (the diagonal variant, TNP-D, of Nguyen and Grover,
    2022, section 4). ``update`` runs the support set through the network and keeps what each layer saw of it, so a
    query costs one pass of its own. The paper normalises after each half of a layer, we before it.

    Args:
        inputs, outputs: sizes of an input and of a target.
        width: of a point's representation.
        heads, layers, hidden: of the transformer; as in the paper by default.
        floor: the least scale; the paper has none for functions of a line.
        mapping: as for :class:`~mlcore.learner.Learner`.
    """

    def __init__(
        self,
        inputs: int = 1,
        outputs: int = 1,
        *,
        width: int = 64,
        heads: int = 4,
        layers: int = 6,
        hidden: int = 128,
        floor: float = 0.0,
        mapping: Mapping = "vmap",
    ) -> None:
        super().__init__(mapping=mapping)
        self.embedding = mlp(inputs + outputs + 1, width, width, width, width)
        self.transformer = TransformerEncoder(width, heads, layers, hidden=hidden, norm="layer")
        self.decoder = mlp(width, hidden, 2 * outputs)
        self.outputs, self.floor = outputs, floor

    def update(self, state: Any, data: Examples) -> list[Tensor]:
        """What every layer sees of a whole support set: [n, width] each."""
        known = torch.ones_like(data.y[:, :1])
        points = self.embedding(torch.cat([data.x, data.y, known], -1))
        return [layer[0] for layer in self.transformer.read(points[None])]

    def predict(self, state: list[Tensor], x: Any) -> Gaussian:
        """A normal distribution at every query [n, inputs]."""
        return Gaussian.of(self.raw(state, x), self.floor)

    def raw(self, state: list[Tensor], x: Any) -> Tensor:
        """What the decoder says at every query, for another distribution to be made of."""
        unknown = x.new_zeros(len(x), self.outputs + 1)
        points = self.embedding(torch.cat([x, unknown], -1))
        answers = self.transformer.ask(points[None], [layer[None] for layer in state])
        return self.decoder(answers[0])
