"""Few-shot tasks from a table: the rows of one group, such as a user, a patient or a machine, are one task."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from mlcore.objective import Objective, regression
from mlcore.task import Examples, Task, Tasks, seeded, stacked
from mlcore.tasks.labelled import class_labels, examples_of, first_not_finite
from mlcore.tasks.sizes import Size, check_positive, most, settled, vary

_EVALUATION = 1  # as for all tasks that are numbered


class GroupedTasks(Tasks):
    """Tasks from the rows of a table: a task draws a group, then ``shots + queries`` of its rows without replacement.

    Groups are equally likely, however many rows they have. Test on other groups than those trained on, see
    :meth:`split`: where a group has rows on both sides, what it is like is known before the test begins.

    Args:
        x: inputs [n, *input], floats, one row each.
        y: targets [n] or [n, *output], floats; [n] becomes [n, 1].
        groups: whose row it is, integers or strings [n].
        when: a number for each row [n], such as a date: a task then learns from its earlier rows and is asked about its
            later ones. Without, which is which is drawn.
        shots, queries: rows to learn from and rows asked about, or ranges, of which every batch draws one.
        objective: what is good; the mean squared error by default.
        drop_small: leave out the groups that have fewer than ``shots + queries`` rows, instead of refusing them.

    Raises:
        TypeError: columns of another kind.
        ValueError: columns of different lengths, a number that is not finite, a group that is too small.

    Derived in: A new user, a new patient, a new machine, :eq:`eq-user-population`.
    """

    def __init__(
        self,
        x: Tensor | np.ndarray | Sequence,
        y: Tensor | np.ndarray | Sequence,
        groups: Tensor | np.ndarray | Sequence,
        *,
        when: Tensor | np.ndarray | Sequence | None = None,
        shots: Size = 5,
        queries: Size = 10,
        objective: Objective = regression,
        drop_small: bool = False,
    ) -> None:
        self.x, self.y, self.objective = examples_of(x), examples_of(y), objective
        names, labels = class_labels(groups)
        dates = torch.zeros(len(labels)) if when is None else examples_of(when)
        lengths = {"x": len(self.x), "y": len(self.y), "groups": len(labels)}
        lengths |= {} if when is None else {"when": len(dates)}
        if len(set(lengths.values())) > 1:
            said = ", ".join(
                f"{name} {length}" for name, length in lengths.items() if name != "when" or when is not None
            )
            raise ValueError(f"x, y, groups and when need an entry for every row, but they have {said}.")
        for name, values in (("x", self.x), ("y", self.y)):
            if not values.is_floating_point():
                raise TypeError(f"{name} must be floats, not {values.dtype}; for classes there is ClassificationTasks.")
            if (first := first_not_finite(values)) is not None:
                raise ValueError(f"{name} of row {first} holds a number that is not finite; leave that row out.")
        self.y = self.y[:, None] if self.y.dim() == 1 else self.y
        self.groups: list[Any] = names
        self.counts = torch.bincount(labels)
        # Rows of each group from its earliest to its latest, padded: [groups, largest group].
        self._rows = torch.zeros(len(names), int(self.counts.max()), dtype=torch.int64)
        self._rows[torch.arange(self._rows.shape[1]) < self.counts[:, None]] = torch.as_tensor(
            np.lexsort((dates.numpy(), labels.numpy()))
        )
        self.timed, self.once = when is not None, False
        self.shots, self.queries = shots, queries
        if drop_small:
            large = (self.counts >= most(shots) + most(queries)).nonzero()[:, 0]
            self.groups, self.counts = [names[i] for i in large], self.counts[large]
            self._rows = self._rows[large]
        self._check()

    def _check(self) -> None:
        check_positive(shots=self.shots, queries=self.queries)
        if not self.groups:
            raise ValueError("no group has shots + queries rows; lower shots or queries.")
        needed = most(self.shots) + (1 if self.once else most(self.queries))
        small = int(self.counts.argmin())
        if (count := int(self.counts[small])) < needed:
            asked = f"shots + {'1 query' if self.once else 'queries'} = {needed}"
            raise ValueError(
                f"group {self.groups[small]!r} has {count} row{'s' * (count != 1)}, but {asked}; lower them, or "
                "leave small groups out: GroupedTasks(…, drop_small=True)."
            )

    def __len__(self) -> int:
        return len(self.groups)

    def __repr__(self) -> str:
        return f"GroupedTasks({len(self)} groups; shots={self.shots}, queries={self.queries})"

    @property
    def size(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many groups there are, where each is a task once."""
        return len(self) if self.once else None

    @property
    def one_shape(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no size is a range, and no group has too few rows for its queries."""
        return not vary(self) and not (self.once and self.counts.min() < most(self.shots) + most(self.queries))

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` groups and rows of each; equal generators give equal tasks."""
        sizes = settled(self, generator)
        group = torch.randint(len(self), (n_tasks,), generator=generator)
        keys = torch.rand(n_tasks, self._rows.shape[1], generator=generator)
        keys[torch.arange(keys.shape[1]) >= self.counts[group][:, None]] = -1
        place = keys.topk(sizes.shots + sizes.queries).indices
        return self._task(group, place.sort(1).values if self.timed else place, sizes.shots)

    def once_each(self) -> Self:
        """The same, for evaluation: every group is a task once, so that an interval is one over groups.

        Its queries are up to ``queries`` of the rows that it does not learn from; it learns from its first ``shots``
        rows if there is a ``when``, else from any.
        """
        return self._with(once=True)

    def numbered(self, numbers: range, seed: int) -> Task:
        """The tasks with these numbers; after :meth:`once_each`, those of these groups."""
        if not self.once:
            return super().numbered(numbers, seed)
        return stacked([self._whole(i, seeded(seed, _EVALUATION, i)) for i in numbers])

    def _whole(self, group: int, generator: torch.Generator) -> Task:
        sizes, count = settled(self, generator), int(self.counts[group])
        order = torch.randperm(count - sizes.shots if self.timed else count, generator=generator)
        place = torch.cat([torch.arange(sizes.shots), sizes.shots + order]) if self.timed else order
        return self._task(torch.tensor([group]), place[None, : sizes.shots + sizes.queries], sizes.shots)

    def _task(self, group: Tensor, place: Tensor, shots: int) -> Task:
        row = self._rows[group[:, None], place].to(self.x.device)
        return Task(*(Examples(self.x[part], self.y[part]) for part in (row[:, :shots], row[:, shots:])))

    def split(self, shares: Sequence[float] = (0.64, 0.16, 0.2), *, seed: int = 0) -> tuple[Self, ...]:
        """Parts with different groups, of about these shares of them, such as training, validation and test.

        Raises:
            ValueError: shares that do not sum to 1, or a part without a group.
        """
        if min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"shares must sum to 1, not {tuple(shares)}.")
        ends = [round(len(self) * sum(shares[: i + 1])) for i in range(len(shares))]
        order = torch.randperm(len(self), generator=seeded(seed)).tolist()
        parts = [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        if not all(parts):
            raise ValueError(
                f"{len(self)} groups leave a part of {tuple(shares)} without any; give more, or fewer parts."
            )
        return tuple(self._keep(sorted(part)) for part in parts)

    def select(self, groups: Iterable[Any]) -> Self:
        """Only the groups of these names.

        Raises:
            ValueError: a name that no group has.
        """
        number = {name: i for i, name in enumerate(self.groups)}
        chosen = list(groups)
        if unknown := [name for name in chosen if name not in number]:
            known = ", ".join(map(repr, self.groups[:5]))
            raise ValueError(f"there is no group {unknown[0]!r}; choose among {known}, ….")
        return self._keep([number[name] for name in chosen])

    def rows(self) -> Tensor:
        """The numbers of all rows that tasks are drawn from, in the table given: for statistics of training groups."""
        return self._rows[torch.arange(self._rows.shape[1]) < self.counts[:, None]]

    def _keep(self, numbers: list[int]) -> Self:
        names = [self.groups[i] for i in numbers]
        return self._with(groups=names, counts=self.counts[numbers], _rows=self._rows[numbers])

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        other.__dict__.update(changes)
        other._check()
        return other

    def replace(self, *, shots: Size | None = None, queries: Size | None = None, **sizes: Any) -> Self:
        """The same groups with other numbers of ``shots`` or ``queries``."""
        super().replace(**sizes)  # refuses what there is not
        return self._with(
            shots=self.shots if shots is None else shots, queries=self.queries if queries is None else queries
        )

    def to(self, device: torch.device | str) -> Self:
        """The same distribution, its table on ``device``. Sampling stays on the CPU: tasks do not change."""
        return self._with(x=self.x.to(device), y=self.y.to(device))
