"""Functions drawn from Gaussian processes: the regression tasks of neural processes, whose exact answer is known."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mlcore.densities import density
from mlcore.kernels import KERNELS, check_range
from mlcore.objective import Objective
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size, check_generator, least


class Hyperparameters(NamedTuple):
    """What sets one Gaussian process apart from others with the same kernel, each [tasks, 1, 1]."""

    length: Tensor
    scale: Tensor
    period: Tensor  # which only the periodic kernel has


class GaussianProcessTasks(Functions):
    """Tasks y = f(x) + noise, with f from a Gaussian process of mean zero and covariance s² k(x - x'; ℓ).

    By default they are those of Lee et al. (2020) and of Nguyen and Grover (2022): length ℓ uniform on [0.1, 0.6],
    scale s on [0.1, 1], noise of standard deviation 0.02, x on [-2, 2]; 3 to 46 support points, and at least 3 query
    points, with fewer than 50 in all. A period is uniform on [0.1, 0.5].

    Args:
        kernel: ``"rbf"``, ``"matern52"`` or ``"periodic"``.
        length, scale: the range each is uniform on; an empty one, such as ``(0.5, 0.5)``, where it is known.
        noise: its standard deviation.
        shots, queries: numbers of points of a task, or ranges, of which every batch draws one.
        points: support and query points together, at most.

    Derived in: The best any learner could do, :eq:`eq-gp-tasks`.
    """

    objective: Objective = density

    def __init__(
        self,
        kernel: Literal["rbf", "matern52", "periodic"] = "rbf",
        *,
        length: tuple[float, float] = (0.1, 0.6),
        scale: tuple[float, float] = (0.1, 1.0),
        noise: float = 0.02,
        shots: Size = (3, 46),
        queries: Size = (3, 46),
        points: int = 49,
    ) -> None:
        if kernel not in KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, not {kernel!r}.")
        check_range(length=length, scale=scale)
        if noise <= 0:
            raise ValueError(f"noise={noise} must be positive; without any, the covariance of near points is singular.")
        self.kernel, self.length, self.scale, self.noise, self.points = kernel, length, scale, noise, points
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"GaussianProcessTasks({self.kernel!r}; shots={self.shots}, queries={self.queries})"

    def check(self) -> None:
        """Refuse sizes that are none, and more points than there may be."""
        super().check()
        if least(self.shots) + least(self.queries) > self.points:
            raise ValueError(
                f"shots={self.shots} and queries={self.queries} are more than points={self.points}; raise points."
            )

    def sizes(self, generator: torch.Generator) -> tuple[int, int]:
        """Numbers of support and of query points, no more than ``points`` together."""
        check_generator(generator)
        shots = _drawn(self.shots, self.points - least(self.queries), generator)
        return shots, _drawn(self.queries, self.points - shots, generator)

    def inputs(self, n_tasks: int, points: int, generator: torch.Generator) -> Tensor:
        """[tasks, points, 1], uniform on [-2, 2]."""
        return 4 * torch.rand(n_tasks, points, 1, generator=generator) - 2

    def values(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Noisy values [tasks, points, 1], of a new process for each task."""
        of = Hyperparameters(*(part.double() for part in self.hyperparameters(len(x), generator)))
        distance = x.double() - x.double().mT  # in single precision near points would make it indefinite
        covariance = of.scale.square() * KERNELS[self.kernel](distance, of.length, of.period)
        covariance = covariance + self.noise**2 * torch.eye(x.shape[1], dtype=torch.float64)
        return (torch.linalg.cholesky(covariance) @ torch.randn(x.shape, generator=generator).double()).to(x.dtype)

    def hyperparameters(self, n_tasks: int, generator: torch.Generator) -> Hyperparameters:
        """What the processes are drawn with."""
        ranges = torch.tensor([self.length, self.scale, (0.1, 0.5)])
        drawn = ranges[:, 0] + (ranges[:, 1] - ranges[:, 0]) * torch.rand(n_tasks, 1, 1, 3, generator=generator)
        return Hyperparameters(*drawn.unbind(-1))

    def oracle(self, n_tasks: int, generator: torch.Generator) -> Hyperparameters:
        """What :meth:`sample` draws its processes with, given an equal generator."""
        self.inputs(n_tasks, sum(self.sizes(generator)), generator)
        return self.hyperparameters(n_tasks, generator)


def gaussian_process(kernel: Literal["rbf", "matern52", "periodic"] = "rbf", **settings) -> GaussianProcessTasks:
    """Functions from a Gaussian process, see :class:`GaussianProcessTasks`."""
    return GaussianProcessTasks(kernel, **settings)


def _drawn(size: Size, most: int, generator: torch.Generator) -> int:
    """A size, or one drawn from a range that ends at ``most``."""
    if not isinstance(size, tuple):
        return size
    return int(torch.randint(size[0], min(size[1], most) + 1, (), generator=generator))
