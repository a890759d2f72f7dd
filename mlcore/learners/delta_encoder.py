"""A delta-encoder on frozen features (Schwartz et al., 2018), made small."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from mlcore.learner import in_evaluation_mode
from mlcore.learners.frozen import FrozenNet
from mlcore.mapping import Mapping
from mlcore.nets import mlp
from mlcore.task import Examples, Task, seeded


class DeltaEncoder(FrozenNet):
    """What leads from one example of a class to another, in few numbers; and the same step from anywhere else.

    From a pair (a, b) of one class, features of a frozen network, z = E(a, b), and b̂ = a + D(z, a). z is so short that
    it cannot hold b. Meta-training lowers the mean of ``|b̂ - b|`` on pairs of the training classes. A new class is
    enlarged by the steps of such pairs: x + D(E(a, b), x), for an example x of it (:meth:`make`).

    The paper's decoder gives b̂ itself, its hidden layer has 8,192 units, and its errors are weighted; here it gives
    the step.

    Args:
        net: the frozen network.
        features: length of an embedding.
        pairs: embeddings of pairs of training classes [n, 2, features], whose steps are taken; they do not ship.
        latent: length of z.
        width: of the hidden layers.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Do generated examples help?, :eq:`eq-help-delta`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        features: int,
        pairs: Tensor,
        latent: int = 16,
        width: int = 512,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        self.encoder = mlp(2 * features, width, latent)
        self.decoder = mlp(latent + features, width, features)
        self.pairs: Tensor
        self.register_buffer("pairs", pairs.detach().clone(), persistent=False)

    @torch.no_grad()
    def embed(self, x: Any) -> Tensor:
        """Frozen features [n, features] of inputs [n, *input]."""
        return super().embed(x)

    def embedded(self, z: Tensor, y: Any) -> Examples:
        """Embeddings; a pair has no target."""
        return Examples(z)

    def update(self, state: Any, data: Examples) -> Tensor:
        """Where the pairs begin: [n, features]."""
        return data.x

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """How far b̂ is from b = ``x``, on average over features: [n]."""
        return (self.stepped(state, self.code(state, x)) - x).abs().mean(-1)

    def code(self, a: Tensor, b: Tensor) -> Tensor:
        """z = E(a, b) of pairs [n, features]: [n, latent]."""
        return self.encoder(torch.cat([a, b], -1))

    def stepped(self, x: Tensor, z: Tensor) -> Tensor:
        """x + D(z, x), for x [n, features] and z [n, latent]: [n, features]."""
        return x + self.decoder(torch.cat([z, x], -1))

    @torch.no_grad()
    def make(self, x: Tensor, n: int, generator: Generator) -> Tensor:
        """``n`` examples from features x [shots, features] of a class: [n, features]."""
        start = x[torch.randint(len(x), (n,), generator=generator)]
        a, b = self.pairs[torch.randint(len(self.pairs), (n,), generator=generator)].unbind(1)
        return self.stepped(start, self.code(a, b))


@torch.no_grad()
def feature_pairs(net: nn.Module, pairs: Any, *, n: int = 4_000) -> Tensor:
    """Embeddings [n, 2, features] of pairs of training examples, always the same ones.

    Args:
        net: the frozen network.
        pairs: the training tasks, :class:`~mlcore.tasks.pairs.Pairs`.
        n: how many.
    """
    parts = []
    with in_evaluation_mode(net):
        for i in range(0, n, 100):
            task: Task = type(pairs)(pairs.tasks, pairs=1).sample(min(100, n - i), seeded(0, i))
            parts.append(torch.stack([net(half.x[:, 0]) for half in task], 1))
    return torch.cat(parts)
