"""A generated population: people who rate things, with the best possible prediction in closed form."""

import torch
from torch import Tensor, nn

from mlcore.densities import either
from mlcore.learners.alpaca import Alpaca
from mlcore.objective import Objective
from mlcore.task import seeded
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size, check_positive


class Tastes(nn.Module):
    """φ: attributes of a thing [n, attributes] to (1, tanh(xA)) [n, 1 + tastes]."""

    directions: Tensor  # A

    def __init__(self, attributes: int, tastes: int) -> None:
        super().__init__()
        # Fixed by a seed: all populations of one size are the same.
        self.register_buffer("directions", torch.randn(attributes, tastes, generator=seeded(attributes, tastes)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(x[..., :1]), torch.tanh(x @ self.directions.to(x.dtype))], -1)


class PopulationTasks(Functions):
    """A task is a person with weights w from N(m, Σ), who rates things of attributes x: y = φ(x)w + ε.

    φ(x) = (1, tanh(xA)) holds a constant and some tastes, x is from N(0, I), ε from N(0, σ²). The first weight is how
    generous a person is; the mean person m likes the first taste, and Σ lets the others differ.

    Args:
        attributes, tastes: sizes of x, and of φ(x) without its constant.
        noise: σ.
        shots, queries: ratings to learn from and asked about, or ranges, of which every batch draws one.

    Derived in: A new user, a new patient, a new machine, :eq:`eq-user-population`.
    """

    objective: Objective = either

    def __init__(
        self, attributes: int = 4, tastes: int = 3, *, noise: float = 0.5, shots: Size = (1, 20), queries: Size = 20
    ) -> None:
        check_positive(attributes=attributes, tastes=tastes)
        if noise <= 0:
            raise ValueError(f"noise={noise} must be positive; without any, a few ratings tell everything.")
        self.attributes, self.noise, self.tastes = attributes, noise, Tastes(attributes, tastes)
        self.mean = torch.zeros(1 + tastes, 1)
        self.mean[1] = 1.0
        self.root = 0.2 * torch.tril(torch.ones(1 + tastes, 1 + tastes)) + 0.6 * torch.eye(1 + tastes)  # Σ = RRᵀ
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"PopulationTasks({self.attributes} attributes; shots={self.shots}, queries={self.queries})"

    def inputs(self, n_tasks: int, points: int, generator: torch.Generator) -> Tensor:
        """[tasks, points, attributes]."""
        return torch.randn(n_tasks, points, self.attributes, generator=generator)

    def values(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Ratings [tasks, points, 1], of a new person for each task."""
        w = self.mean + self.root @ torch.randn(len(x), len(self.mean), 1, generator=generator)
        return self.tastes(x) @ w + self.noise * torch.randn(*x.shape[:2], 1, generator=generator)

    def exact(self) -> Alpaca:
        """The best that any learner could do: Bayes' rule from the population's own mean, covariance and noise."""
        learner = Alpaca(self.tastes, features=len(self.mean), noise=self.noise)
        with torch.no_grad():
            learner.mean.copy_(self.mean)
            learner.factor.copy_(self.root / self.noise)
        return learner.requires_grad_(False)


def population(attributes: int = 4, **settings) -> PopulationTasks:
    """People who rate things, see :class:`PopulationTasks`."""
    return PopulationTasks(attributes, **settings)
