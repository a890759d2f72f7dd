"""Linear regression as tasks: every task has weights of its own (Garg, Tsipras, Liang and Valiant, 2022)."""

import torch
from torch import Tensor

from mlcore.task import seeded
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size


class LinearRegressionTasks(Functions):
    """Tasks y = w·x + noise, with w from N(0, I) and x from N(0, I), or uniform on [-½, ½].

    Args:
        dims: d, entries of an input.
        noise: its standard deviation.
        uniform: inputs are uniform on [-½, ½] in every entry, as in von Oswald et al. (2023).
        different: how many weight vectors there are, drawn once and for all from ``seed`` (Raventós et al., 2023);
            without end by default.
        seed: names that list of weight vectors.
        shots, queries: numbers of points of a task, or ranges, of which every batch draws one.

    Derived in: The best any learner could do, :eq:`eq-linear-tasks`.
    """

    def __init__(
        self,
        dims: int,
        *,
        noise: float = 0.0,
        uniform: bool = False,
        different: int | None = None,
        seed: int = 0,
        shots: Size = 10,
        queries: Size = 1,
    ) -> None:
        for name, value in {"dims": dims, "different": different}.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}.")
        self.dims, self.noise, self.uniform, self.different = dims, noise, uniform, different
        self.weights = None if different is None else torch.randn(different, dims, 1, generator=seeded(seed, different))
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"LinearRegressionTasks({self.dims}; shots={self.shots}, queries={self.queries})"

    def inputs(self, n_tasks: int, points: int, generator: torch.Generator) -> Tensor:
        """[tasks, points, dims]."""
        shape = (n_tasks, points, self.dims)
        return torch.rand(shape, generator=generator) - 0.5 if self.uniform else torch.randn(shape, generator=generator)

    def values(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """[tasks, points, 1], with new weights for each task."""
        if self.weights is None:
            w = torch.randn(len(x), self.dims, 1, generator=generator)
        else:
            w = self.weights[torch.randint(len(self.weights), (len(x),), generator=generator)]
        return x @ w + self.noise * torch.randn(*x.shape[:2], 1, generator=generator)


def linear_regression(dims: int = 5, **settings) -> LinearRegressionTasks:
    """Linear functions, see :class:`LinearRegressionTasks`."""
    return LinearRegressionTasks(dims, **settings)
