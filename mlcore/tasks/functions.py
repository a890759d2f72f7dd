"""Few-shot regression: tasks that are functions."""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from mlcore.objective import Objective, regression
from mlcore.task import Examples, Task, Tasks
from mlcore.tasks.sizes import Size, check_positive, settled, vary


class RegressionTasks(Tasks):
    """Few-shot regression: each task is a function drawn at random and seen at random inputs.

    Args:
        draw_functions: maps inputs [tasks, n, 1] and a generator to outputs [tasks, n, 1], a new function per task.
        low, high: inputs are uniform on [low, high].
        shots: K, support points of a task.
        queries: query points of a task. Both may be ranges, such as ``shots=(3, 20)``, of which every batch draws one.

    Derived in: Learning to learn, :eq:`eq-sinusoid`.
    """

    objective: Objective = regression

    def __init__(
        self,
        draw_functions: Callable[[Tensor, torch.Generator], Tensor],
        *,
        low: float,
        high: float,
        shots: Size = 10,
        queries: Size = 10,
    ) -> None:
        if not callable(draw_functions):
            raise TypeError(
                f"draw_functions must be a function of inputs and a generator, not {type(draw_functions).__name__}; "
                "for recordings at hand use RecordedTasks(x, y)."
            )
        if low >= high:
            raise ValueError(f"low={low} must be less than high={high}.")
        self.draw_functions, self.low, self.high, self.shots, self.queries = draw_functions, low, high, shots, queries
        self._device: torch.device | str = "cpu"
        self._check()

    def _check(self) -> None:
        check_positive(shots=self.shots, queries=self.queries)

    def __repr__(self) -> str:
        return f"RegressionTasks(x in [{self.low}, {self.high}]; shots={self.shots}, queries={self.queries})"

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` functions and their points; equal generators give equal tasks."""
        sizes = settled(self, generator)
        unit = torch.rand(n_tasks, sizes.shots + sizes.queries, 1, generator=generator)
        x = self.low + (self.high - self.low) * unit
        y = self.draw_functions(x, generator)
        support, query = slice(None, sizes.shots), slice(sizes.shots, None)
        return Task(*(Examples(x[:, half], y[:, half]) for half in (support, query))).to(self._device)

    @property
    def one_shape(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no size is a range."""
        return not vary(self)

    def replace(self, *, shots: Size | None = None, queries: Size | None = None, **sizes: Any) -> Self:
        """The same functions with other numbers of ``shots`` or ``queries``."""
        super().replace(**sizes)  # refuses what there is not
        other = copy.copy(self)
        other.shots = self.shots if shots is None else shots
        other.queries = self.queries if queries is None else queries
        other._check()
        return other

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its tasks delivered on ``device``."""
        other = copy.copy(self)
        other._device = device
        return other
