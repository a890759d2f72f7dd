"""Few-shot regression: tasks that are functions."""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from mlcore.objective import Objective, regression
from mlcore.task import DrawnTasks, Examples, Task
from mlcore.tasks.sizes import Size, check_positive, settled, vary


class Functions(DrawnTasks):
    """Each task is a function drawn at random and seen at random inputs. A subclass writes how both are drawn.

    Args:
        shots: K, support points of a task.
        queries: query points of a task. Both may be ranges, such as ``shots=(3, 20)``, of which every batch draws one.
    """

    objective: Objective = regression

    def __init__(self, shots: Size, queries: Size) -> None:
        self.shots, self.queries = shots, queries
        self.check()

    def inputs(self, n_tasks: int, points: int, generator: torch.Generator) -> Tensor:
        """Where the functions are seen: [tasks, points, *input]."""
        raise NotImplementedError(f"{type(self).__name__} must define inputs(n_tasks, points, generator).")

    def values(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Targets [tasks, points, *output] at ``x``, of a new function for each task."""
        raise NotImplementedError(f"{type(self).__name__} must define values(x, generator).")

    def draw(self, n_tasks: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Inputs and targets of new functions; to be replaced where one is not drawn before the other."""
        x = self.inputs(n_tasks, points, generator)
        return x, self.values(x, generator)

    def check(self) -> None:
        """Refuse sizes that are none."""
        check_positive(shots=self.shots, queries=self.queries)

    def sizes(self, generator: torch.Generator) -> tuple[int, int]:
        """Numbers of support and of query points, drawn where they are ranges."""
        sizes = settled(self, generator)
        return sizes.shots, sizes.queries

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` functions and their points; equal generators give equal tasks."""
        shots, queries = self.sizes(generator)
        x, y = self.draw(n_tasks, shots + queries, generator)
        support, query = slice(None, shots), slice(shots, None)
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
        other.check()
        return other


class RegressionTasks(Functions):
    """Functions of a number, from a function that draws them.

    Args:
        draw_functions: maps inputs [tasks, n, 1] and a generator to outputs [tasks, n, 1], a new function per task.
        low, high: inputs are uniform on [low, high].
        shots, queries: K support points and the query points of a task, or ranges, of which every batch draws one.

    Derived in: Learning to learn, :eq:`eq-sinusoid`.
    """

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
        self.draw_functions, self.low, self.high = draw_functions, low, high
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"RegressionTasks(x in [{self.low}, {self.high}]; shots={self.shots}, queries={self.queries})"

    def inputs(self, n_tasks: int, points: int, generator: torch.Generator) -> Tensor:
        """[tasks, points, 1], uniform."""
        return self.low + (self.high - self.low) * torch.rand(n_tasks, points, 1, generator=generator)

    def values(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Targets [tasks, points, 1], of a new function for each task."""
        return self.draw_functions(x, generator)
