"""Learning in context: a transformer trained to continue sequences of examples (Garg et al., 2022)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, vmap

from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets import TransformerEncoder, mlp
from mlcore.objective import Objective
from mlcore.task import Examples


class Context(NamedTuple):
    """A support set as the transformer has read it."""

    given: list[Tensor]  # of each layer: [1 + n, width], a start and n points, each of which has seen those before it
    data: Examples


class InContext(Learner):
    """A causal transformer over support points that answers after every one of them.

    One sequence of K points gives K + 1 questions: what is the target of the next input, after 0, 1, …, K points? The
    meta-objective is their mean (Garg et al., 2022, equation 2), so that one pass trains for all numbers of shots. With
    ``weights`` it is a weighted mean, :eq:`eq-in-context-weighed`: after few points most of an error is noise. A point
    and its target are one token here, where the paper has two; there are no positions, and a start stands for what is
    known before any data.

    Args:
        inputs, outputs: sizes of an input and of a target.
        width, heads, layers: of the transformer.
        weights: of the questions after 0, 1, …, K points in training, equal by default.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: A transformer that learns in context, :eq:`eq-in-context`.
    """

    reads_order = True

    def __init__(
        self,
        inputs: int,
        outputs: int = 1,
        *,
        width: int = 64,
        heads: int = 4,
        layers: int = 4,
        weights: Sequence[float] | None = None,
        mapping: Mapping = "vmap",
    ) -> None:
        super().__init__(mapping=mapping)
        self.weights: Tensor | None
        # A setting of training, not a part of the weights that ship.
        weighed = None if weights is None else torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights", weighed, persistent=False)
        self.point = nn.Linear(inputs + outputs, width)
        self.question = nn.Linear(inputs, width)
        self.start = nn.Parameter(torch.zeros(1, width))
        self.transformer = TransformerEncoder(width, heads, layers, norm="layer")
        self.decoder = mlp(width, width, outputs)

    def update(self, state: Any, data: Examples) -> Context:
        """Read a whole support set, each point in the light of those before it."""
        points = torch.cat([self.start, self.point(torch.cat([data.x, data.y], -1))])
        before = torch.ones(len(points), len(points), dtype=torch.bool, device=points.device).tril()
        return Context([layer[0] for layer in self.transformer.read(points[None], before)], data)

    def predict(self, state: Context, x: Any) -> Tensor:
        """Answers [n, outputs] to queries [n, inputs], each after the whole support set."""
        return self.answers(state, x, None)

    def along(self, state: Context) -> Tensor:
        """Answers to the support inputs themselves, each after the points before it: [n, outputs]."""
        n = len(state.data.x)
        before = torch.ones(n, n + 1, dtype=torch.bool, device=state.data.x.device).tril()
        return self.answers(state, state.data.x, before)

    def answers(self, state: Context, x: Tensor, allowed: Tensor | None) -> Tensor:
        """Answers to ``x``, of whose elements each sees what ``allowed`` [n, 1 + points] says."""
        given = [layer[None] for layer in state.given]
        return self.decoder(self.transformer.ask(self.question(x)[None], given, allowed)[0])

    def loss(self, state: Context, outputs: Tensor, query: Examples, objective: Objective) -> Tensor:
        """The objective's loss at every length of the context, and for every query at the last."""
        answers, targets = torch.cat([self.along(state), outputs]), torch.cat([state.data.y, query.y])
        if self.weights is None or not self.training:
            return objective.loss(answers, targets)
        n = len(state.data.y)
        if n >= len(self.weights):
            raise ValueError(f"weights for 0 to {len(self.weights) - 1} points cannot weigh a support set of {n}.")
        weights = torch.cat([self.weights[:n], self.weights[n].expand(len(outputs))])
        return (weights * vmap(objective.loss)(answers[:, None], targets[:, None])).sum() / weights.sum()
