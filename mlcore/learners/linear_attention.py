"""Linear attention, whose layers are steps of gradient descent (von Oswald et al., 2023)."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.task import Examples


class LinearAttention(Learner):
    """Self-attention without a softmax, on tokens e = (x, y) of support points and e = (x, 0) of queries.

    A layer adds A_l M_l B_l e to every token, with M_l = mean of e_i e_iᵀ over the support points: A holds the values
    and the projection, B keys and queries (von Oswald et al., 2023, section 2). The answer is minus what has become of
    a query's y. So the state is one matrix a layer, and it is all that a query sees of the support set.

    Args:
        inputs, outputs: sizes of an input and of a target.
        layers: how many.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: A transformer that learns in context, :eq:`eq-linear-attention` and :eq:`eq-attention-is-descent`.
    """

    def __init__(self, inputs: int, outputs: int = 1, *, layers: int = 1, mapping: Mapping = "vmap") -> None:
        super().__init__(mapping=mapping)
        size = inputs + outputs
        self.outputs = outputs
        self.values = nn.Parameter(0.02 * torch.randn(layers, size, size))  # A
        self.keys = nn.Parameter(0.02 * torch.randn(layers, size, size))  # B

    @classmethod
    def descent(cls, inputs: int, outputs: int = 1, *, layers: int = 1, rate: float) -> Self:
        """The weights with which each layer is a gradient step of that rate on the mean of ½‖W x_i - y_i‖²."""
        learner = cls(inputs, outputs, layers=layers)
        with torch.no_grad():
            learner.values.zero_()[:, inputs:, inputs:] = -rate * torch.eye(outputs)
            learner.keys.zero_()[:, :inputs, :inputs] = torch.eye(inputs)
        return learner

    def update(self, state: Any, data: Examples) -> Tensor:
        """The matrices M_l of a whole support set: [layers, size, size]."""
        tokens = torch.cat([data.x, data.y], -1)
        matrices = []
        for values, keys in zip(self.values, self.keys, strict=True):
            matrices.append(tokens.mT @ tokens / len(tokens))
            tokens = tokens + tokens @ (values @ matrices[-1] @ keys).mT
        return torch.stack(matrices)

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """[n, outputs] for queries [n, inputs]."""
        tokens = torch.cat([x, x.new_zeros(len(x), self.outputs)], -1)
        for values, matrix, keys in zip(self.values, state, self.keys, strict=True):
            tokens = tokens + tokens @ (values @ matrix @ keys).mT
        return -tokens[:, -self.outputs :]
