"""Neural processes (Garnelo, Schwarz, Rosenbaum, Viola, Rezende, Eslami et al., 2018): one latent for a function."""

import math
from typing import Any

import torch
from torch import Tensor

from mlcore.densities import Gaussian, Mixture, divergence
from mlcore.learners.cnp import SummedPoints
from mlcore.mapping import Mapping
from mlcore.nets import mlp
from mlcore.objective import Objective
from mlcore.task import Examples


class NeuralProcess(SummedPoints):
    """A support set becomes a distribution of z, and each z is one whole function: p(y | x) = ∫ p(y | x, z) q(z) dz.

    The integral is a mean over ``samples`` draws of z, so a prediction is a mixture with a component for every draw,
    and component s of all queries belongs to one function. The draws come from noise that is fixed when the learner is
    made and saved with its weights: equal inputs, equal predictions. Targets are single numbers. The state is that of
    the conditional one, a sum and a count.

    Meta-training lowers minus the bound of the paper (section 2), in nats a target, and not the objective's loss:
    q(z | support and query) explains the queries and pays its divergence from q(z | support). It draws z anew.

    Args:
        inputs: size of an input.
        width: of the hidden layers.
        latent: size of z.
        samples: draws of z, in a prediction and in the loss.
        floor: the least scale, of targets and of z; 0.1 in the code of this literature.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: Predicting functions, :eq:`eq-np-objective`.
    """

    def __init__(
        self,
        inputs: int = 1,
        *,
        width: int = 128,
        latent: int = 32,
        samples: int = 32,
        floor: float = 0.1,
        mapping: Mapping = "vmap",
    ) -> None:
        super().__init__(inputs, 1, width, floor, mapping)
        self.pooled = mlp(width, width, 2 * latent)
        self.decoder = mlp(inputs + latent, width, width, width, 2)
        self.noise = torch.nn.Buffer(torch.randn(samples, latent))

    def latent(self, state: tuple[Tensor, Tensor]) -> Gaussian:
        """q(z | the points seen), independent normal distributions: [latent] each."""
        return Gaussian.of(self.pooled(state[0] / state[1].clamp(min=1)), self.floor)

    def decode(self, z: Tensor, x: Tensor) -> Gaussian:
        """p(y | x, z) for each of z [samples, latent] at queries x [n, inputs]: [samples, n, 1]."""
        pairs = torch.cat([x.expand(len(z), *x.shape), z[:, None].expand(-1, len(x), -1)], -1)
        return Gaussian.of(self.decoder(pairs), self.floor)

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Mixture:
        """A mixture at every query [n, inputs], whose component s is the function of draw s."""
        of = self.latent(state)
        means, scales = (part[..., 0].mT for part in self.decode(of.mean + of.scale * self.noise, x))
        return Mixture(torch.full_like(means, -math.log(len(self.noise))), means, scales)

    def loss(self, state: tuple[Tensor, Tensor], outputs: Any, query: Examples, objective: Objective) -> Tensor:
        """Minus the bound, in nats a target; with new draws of z."""
        prior, posterior = self.latent(state), self.latent(self.update(state, query))
        z = posterior.mean + posterior.scale * torch.randn_like(self.noise)
        explained = self.decode(z, query.x).log_density(query.y.expand(len(z), *query.y.shape))  # [samples, n]
        return (divergence(posterior, prior) - explained.sum(-1).mean()) / len(query.y)
