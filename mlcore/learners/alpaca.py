"""Bayesian linear regression on learned features, ALPaCA (Harrison, Sharma and Pavone, 2018)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcore.densities import Gaussian
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets.norms import written_out
from mlcore.task import Examples


class Belief(NamedTuple):
    """A normal distribution of the last layer's weights: σ² times one covariance for every output, around its mean."""

    mean: Tensor  # K̄ [features, outputs]
    covariance: Tensor  # Λ⁻¹ [features, features]


class Alpaca(Learner):
    """Features φ and a normal prior of the last layer are meta-learned; a support set updates the prior by Bayes' rule.

    y = Kᵀφ(x) + ε, with noise ε of variance σ² and a priori each column of K from N(K̄₀, σ²Λ₀⁻¹) (Harrison et al.,
    2018). It begins at the prior, an update is the exact posterior, and meta-training lowers the negative
    log-likelihood of the queries, so that nothing is approximated but the choice of φ, K̄₀, Λ₀ and σ. The prior's
    covariance is kept as FFᵀ. The paper's noise is a known covariance matrix; here one σ is learned.

    The same posterior is that of a Gaussian process with mean φ(x)K̄₀ and kernel σ² φ(x) Λ₀⁻¹ φ(x')ᵀ. Deep kernel
    transfer (Patacchiola et al., 2020), with a linear kernel, is this with a mean of zero.

    Args:
        net: the features φ, inputs [n, *input] to [n, features].
        features: their number.
        outputs: size of a target.
        noise: σ, at the start.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: Knowing what it does not know, :eq:`eq-belief-update` and :eq:`eq-belief-predict`.
    """

    def __init__(
        self, net: nn.Module, *, features: int, outputs: int = 1, noise: float = 0.1, mapping: Mapping = "auto"
    ) -> None:
        super().__init__(mapping=mapping)
        if noise <= 0:
            raise ValueError(f"noise={noise} must be positive; it is a standard deviation.")
        self.net = written_out(net)
        self.mean = nn.Parameter(torch.zeros(features, outputs))
        self.factor = nn.Parameter(torch.eye(features))
        self.log_noise = nn.Parameter(torch.tensor(noise).log())

    def begin(self) -> Belief:
        """The prior."""
        return Belief(self.mean, self.factor @ self.factor.mT)

    def update(self, state: Belief, data: Examples) -> Belief:
        """The posterior after n more points, by a system of n equations, whatever the features."""
        phi = self.net(data.x)
        across = phi @ state.covariance  # [n, features]
        seen = torch.eye(len(phi), dtype=phi.dtype, device=phi.device) + across @ phi.mT
        gain = torch.linalg.solve(seen, across).mT  # how far each surprise moves each weight
        return Belief(state.mean + gain @ (data.y - phi @ state.mean), state.covariance - gain @ across)

    def predict(self, state: Belief, x: Any) -> Gaussian:
        """A normal distribution at every query [n, *input]: the noise, and what is not known of the weights."""
        phi = self.net(x)
        mean = phi @ state.mean
        spread = 1 + ((phi @ state.covariance) * phi).sum(-1, keepdim=True)
        return Gaussian(mean, (self.log_noise.exp() * spread.sqrt()).expand_as(mean))
