"""Quadratic problems, tasks for an optimiser (Andrychowicz et al., 2016, section 3.1)."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from mlcore.objective import Metric, Objective, mse
from mlcore.task import DrawnTasks, Examples, Task


def squared_norm(outputs: Tensor, y: Tensor) -> Tensor:
    """‖outputs - y‖²."""
    return y.numel() * mse(outputs, y)


class QuadraticTasks(DrawnTasks):
    """Each task is a problem, to lower f(θ) = ‖Wθ - y‖², with the entries of W and y uniform on [0, 1].

    W are the inputs and y the targets of a linear network without bias, see :func:`iterate`, so that θ are its weights.
    Both halves of a task are the problem: what is asked is how far down the optimiser came on it.

    Args:
        dims: n; W is [n, n], y is [n, 1].

    Derived in: Learning the optimiser, :eq:`eq-quadratic-problem`.
    """

    objective = Objective(squared_norm, {"final loss": Metric(squared_norm, higher_is_better=False, percent=False)})

    def __init__(self, dims: int = 10) -> None:
        if dims < 1:
            raise ValueError(f"dims must be at least 1, not {dims}.")
        self.dims = dims

    def __repr__(self) -> str:
        return f"QuadraticTasks({self.dims})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` problems."""
        w = torch.rand(n_tasks, self.dims, self.dims, generator=generator)
        problem = Examples(w, torch.rand(n_tasks, self.dims, 1, generator=generator))
        return Task(problem, problem).to(self._device)

    def replace(self, *, dims: int | None = None, **sizes: Any) -> Self:
        """The same with another number of dimensions."""
        super().replace(**sizes)  # refuses what there is not
        return (type(self)(self.dims if dims is None else dims)).to(self._device)


def quadratics(dims: int = 10) -> QuadraticTasks:
    """Quadratic problems, see :class:`QuadraticTasks`."""
    return QuadraticTasks(dims)


def iterate(dims: int = 10) -> nn.Linear:
    """θ at its start, zero, as the weights of a network that maps W to Wθ. (The paper's code starts at N(0, 0.01²).)"""
    net = nn.Linear(dims, 1, bias=False)
    nn.init.zeros_(net.weight)
    return net
