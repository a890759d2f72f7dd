"""The Neural Statistician: a latent for a set, and one for each of its members (Edwards and Storkey, 2017)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from mlcore.densities import Bernoulli, Gaussian, divergence
from mlcore.generative import Sampler
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets import mlp
from mlcore.task import Examples

State = tuple[Tensor, Tensor]
"""The sum of encodings [..., features], and how many they are [...]."""


class NeuralStatistician(Sampler, Learner):
    """A set is drawn from p(c), each member of it from p(z | c) and p(x | z, c); a network reads c off the members.

    q(c | D), a normal distribution, is the *statistic* of a set: written by a network from the mean of its members'
    encodings and their number. Of no members it is p(c) = N(0, I). So the state is a sum and a count, and a support set
    may come in portions.

    Meta-training raises the bound of the paper (section 3.2), in nats a member. It is the paper's where tasks
    have no support; given a support S, q(c | S) takes the place of p(c), as in neural processes.

    ``predict`` gives the logarithm of p(x | S) for each query by itself: an importance-weighted bound (Burda, Grosse
    and Salakhutdinov, 2016, equation 8), whose proposals are q(c | S and x) and q(z | x, c). Its draws are torch's.

    Args:
        encoder: maps members [n, *input] to [n, features].
        decoder: maps z and c [n, latent + statistic] to what ``emits`` takes.
        features: length of an encoding.
        emits: makes of it the distribution of members, such as :class:`~mlcore.densities.Bernoulli`.
        statistic, latent: sizes of c and z.
        width: of the hidden layers in between.
        samples: importance weights of a prediction.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-bound`.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        features: int,
        emits: Callable[[Tensor], Any] = Bernoulli,
        statistic: int = 64,
        latent: int = 16,
        width: int = 128,
        samples: int = 1,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(mapping=mapping)
        if samples < 1:
            raise ValueError(f"samples={samples} must be at least 1.")
        self.encoder, self.decoder, self.emits = encoder, decoder, emits
        self.features, self.samples = features, samples
        self.pooled = mlp(features + 1, width, 2 * statistic)
        self.prior = mlp(statistic, width, 2 * latent)
        self.posterior = mlp(features + statistic, width, 2 * latent)

    def begin(self) -> State:
        """Nothing seen."""
        like = next(self.parameters())
        return like.new_zeros(self.features), like.new_zeros(())

    def update(self, state: State, data: Examples) -> State:
        """Add the encodings of more members, and their number."""
        return state[0] + self.encoder(data.x).sum(0), state[1] + len(data.x)

    def statistic(self, state: State) -> Gaussian:
        """q(c | the members seen), or p(c) where there are none: [..., statistic]."""
        total, count = state[0], state[1][..., None]
        some = count.clamp(min=1)
        said = Gaussian.of(self.pooled(torch.cat([total / some, some.log().expand_as(total[..., :1])], -1)))
        seen = count > 0
        return Gaussian(said.mean * seen, torch.where(seen, said.scale, 1.0))

    def latent(self, c: Tensor) -> Gaussian:
        """p(z | c): [..., latent]."""
        return Gaussian.of(self.prior(c))

    def inferred(self, h: Tensor, c: Tensor) -> Gaussian:
        """q(z | x, c) for members with encodings h [..., features]: [..., latent]."""
        return Gaussian.of(self.posterior(torch.cat([h, c], -1)))

    def decode(self, z: Tensor, c: Tensor) -> Any:
        """p(x | z, c) for z [n, latent] and c [n, statistic]."""
        return self.emits(self.decoder(torch.cat([z, c], -1)))

    def predict(self, state: State, x: Any) -> Tensor:
        """A lower bound of log p(x | the members seen) for each query, in nats: [n]; exact in the limit of samples.

        In training mode, :meth:`shares`.
        """
        if self.training:
            return self.shares(state, x)
        h, before = self.encoder(x), self.statistic(state)
        after = self.statistic((state[0] + h, (state[1] + 1).expand(len(h))))  # of each query by itself
        c = _drawn(Gaussian(*(part.expand(self.samples, *part.shape) for part in after)))  # [samples, n, statistic]
        prior, posterior = self.latent(c), self.inferred(h.expand(self.samples, *h.shape), c)
        z = _drawn(posterior)
        many = x.expand(self.samples, *x.shape).flatten(0, 1)
        explained = self.decode(z.flatten(0, 1), c.flatten(0, 1)).log_density(many).view(self.samples, len(x))
        paid = _log_ratio(after, before, c) + _log_ratio(posterior, prior, z)
        return (explained - paid).logsumexp(0) - math.log(self.samples)

    def shares(self, state: State, x: Tensor) -> Tensor:
        """Each query's share of the bound on log p(all of them | the members seen), which share one c: [n], in nats."""
        h = self.encoder(x)
        before, after = self.statistic(state), self.statistic((state[0] + h.sum(0), state[1] + len(h)))
        c = _drawn(after).expand(len(h), -1)
        prior, posterior = self.latent(c), self.inferred(h, c)
        explained = self.decode(_drawn(posterior), c).log_density(x)
        return explained - (divergence(after, before) + divergence(posterior, prior)) / len(h)

    def imagine(self, state: State, n: int, generator: Generator) -> Any:
        """Distributions of ``n`` members of one set: one c for all, a z for each."""
        c = self.statistic(state).sample(generator).expand(n, -1)
        return self.decode(self.latent(c).sample(generator), c)


def _drawn(of: Gaussian) -> Tensor:
    return of.mean + of.scale * torch.randn_like(of.mean)


def _log_ratio(p: Gaussian, q: Gaussian, at: Tensor) -> Tensor:
    """log p - log q of draws [samples, n, size]: [samples, n]."""
    squares = ((at - q.mean) / q.scale).square() - ((at - p.mean) / p.scale).square()
    return (squares / 2 + q.scale.log() - p.scale.log()).sum(-1)
