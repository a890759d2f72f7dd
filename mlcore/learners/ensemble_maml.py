"""An ensemble of MAMLs, the rival that every probabilistic MAML meets (EMAML in Yoon et al., 2018)."""

from collections.abc import Callable, Iterable
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from mlcore.densities import Gaussian
from mlcore.inner import Params
from mlcore.learner import Learner
from mlcore.learners.maml import MAML
from mlcore.mapping import Mapping
from mlcore.objective import Objective, mse
from mlcore.task import Examples


class EnsembleMAML(Learner):
    """Several MAMLs from different first weights that never meet; where they disagree, the answer is wide.

    Each member takes its own gradient steps on the squared error and says N(f_m(x), σ²), with one learned σ. The answer
    is the normal distribution of the mixture's mean and variance, σ² + Var_m f_m(x), as in deep ensembles
    (Lakshminarayanan et al., 2017). Meta-training lowers every member's own loss.

    Args:
        net: makes a network of random weights.
        members: how many.
        inner_lr, inner_steps: of each member, as for :class:`~mlcore.learners.maml.MAML`.
        noise: σ, at the start.
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: Knowing what it does not know, :eq:`eq-ensemble`.
    """

    def __init__(
        self,
        net: Callable[[], nn.Module],
        *,
        members: int = 5,
        inner_lr: float,
        inner_steps: int = 1,
        noise: float = 1.0,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(mapping=mapping)
        if members < 2 or noise <= 0:
            raise ValueError(f"members={members} must be at least 2, and noise={noise} positive.")
        self.members = nn.ModuleList(
            MAML(net(), inner_lr=inner_lr, inner_steps=inner_steps, loss_fn=mse) for _ in range(members)
        )
        self.log_noise = nn.Parameter(torch.tensor(noise).log())
        self.inner_steps = inner_steps

    def begin(self) -> list[Params]:
        """The weights of every member."""
        return [member.begin() for member in self._mamls]

    def stream(self, support: Examples) -> Iterable[Examples]:
        """The whole support set, once a step; nothing where it is empty, since a mean of no errors has no gradient."""
        return repeat(support, self.inner_steps if len(support.x) else 0)

    def update(self, state: list[Params], data: Examples) -> list[Params]:
        """One gradient step of every member."""
        return [member.update(weights, data) for member, weights in zip(self._mamls, state, strict=True)]

    def predict(self, state: list[Params], x: Any) -> Gaussian:
        """A normal distribution at every query [n, *input]."""
        answers = self.answers(state, x)
        return Gaussian(answers.mean(0), (self.log_noise.exp().square() + answers.var(0, correction=0)).sqrt())

    def answers(self, state: list[Params], x: Any) -> Tensor:
        """What each member says: [members, n, outputs]."""
        return torch.stack([member.predict(weights, x) for member, weights in zip(self._mamls, state, strict=True)])

    def loss(self, state: list[Params], outputs: Gaussian, query: Examples, objective: Objective) -> Tensor:
        """The mean over members of the objective's loss of what each would say alone."""
        answers = self.answers(state, query.x)
        alone = Gaussian(answers, self.log_noise.exp().expand_as(answers))
        return objective.loss(alone, query.y.expand_as(answers))

    @property
    def _mamls(self) -> list[MAML]:
        return list(self.members)  # pyright: ignore[reportReturnType]  # a ModuleList forgets of what
