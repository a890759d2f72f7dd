"""Sets without labels: a task is a few examples of a kind, and what is asked is how likely others of it are."""

import torch
from torch import Tensor

from mlcore.generative import likelihood
from mlcore.objective import Objective
from mlcore.task import Examples, Task
from mlcore.tasks.episodes import ClassificationTasks
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size, check_positive, most


class Sets(Functions):
    """Each task is a set: some of its members are the support, the others are queries. A subclass draws members.

    Args:
        shots: members to learn from, or a range, of which every batch draws one; 0 asks for what is known before any.
        queries: members asked about.
    """

    objective: Objective = likelihood

    def members(self, n_tasks: int, n: int, generator: torch.Generator) -> Tensor:
        """Members of new sets: [tasks, n, *input]."""
        raise NotImplementedError(f"{type(self).__name__} must define members(n_tasks, n, generator).")

    def check(self) -> None:
        """Refuse sizes that are none."""
        check_positive(at_least=0, shots=self.shots)
        check_positive(queries=self.queries)

    def sample(self, n_tasks: int, generator: torch.Generator) -> Task:
        """Draw ``n_tasks`` sets; equal generators give equal sets."""
        shots, queries = self.sizes(generator)
        x = self.members(n_tasks, shots + queries, generator)
        return Task(Examples(x[:, :shots]), Examples(x[:, shots:])).to(self._device)


class DrawingSets(Sets):
    """Each set is some drawings of one class, in ink and paper: [1, height, width] of ones and zeros.

    Args:
        tasks: images [n, 1, height, width] and their classes, such as those of :func:`mlcore.datasets.glyphs`; its
            ways, shots and queries do not matter.
        shots, queries: as for :class:`Sets`.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-predictive`.
    """

    def __init__(self, tasks: ClassificationTasks, *, shots: Size = (0, 5), queries: Size = 5) -> None:
        self.tasks = tasks
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"DrawingSets({len(self.tasks.classes)} classes; shots={self.shots}, queries={self.queries})"

    def check(self) -> None:
        """Refuse sizes that are none, and more drawings than a class has."""
        super().check()
        self.tasks.replace(ways=1, shots=max(1, most(self.shots)), queries=most(self.queries))

    def members(self, n_tasks: int, n: int, generator: torch.Generator) -> Tensor:
        """Different drawings of one class for each task: [tasks, n, 1, height, width]."""
        tasks = self.tasks.replace(ways=1, shots=1, queries=max(1, n - 1))
        return in_ink(tasks.examples(tasks.draw(n_tasks, generator)[:, 0, :n]))


def in_ink(images: Tensor) -> Tensor:
    """Images of values from 0 to 1 as ink (1) and paper (0)."""
    return (images > 0.5).to(images.dtype)
