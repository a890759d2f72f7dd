"""Sets of numbers from four families of distributions: the first experiment of Edwards and Storkey (2017)."""

import torch
from torch import Tensor

from mlcore.tasks.sets import Sets
from mlcore.tasks.sizes import Size

FAMILIES = ("Gaussian", "exponential", "uniform", "Laplace")


class FamilySets(Sets):
    """Each set is drawn from a random family of :data:`FAMILIES`, with a mean from U[-1, 1] and an sd from U[0.5, 2].

    Mean and standard deviation are those of the distribution. In the released code they are those of the sample for two
    of the families, and for the Laplace distribution its scale stands for the standard deviation.

    Args:
        shots, queries: as for :class:`~mlcore.tasks.sets.Sets`; the paper has sets of 200 and no support.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-families`.
    """

    def __init__(self, *, shots: Size = 0, queries: Size = 200) -> None:
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"FamilySets(shots={self.shots}, queries={self.queries})"

    def described(self, n_tasks: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Members [tasks, n, 1] of new sets, their families [tasks], means [tasks] and standard deviations [tasks]."""
        family = torch.randint(len(FAMILIES), (n_tasks,), generator=generator)
        mean, scale = torch.rand(2, n_tasks, generator=generator)
        mean, scale = 2 * mean - 1, 0.5 + 1.5 * scale
        u = torch.rand(n_tasks, n, generator=generator).clamp(1e-6, 1 - 1e-6)
        side = u - 0.5
        standard = torch.stack(  # of mean 0 and standard deviation 1, by inverse distribution functions
            [
                torch.special.ndtri(u),
                -u.log() - 1,
                side * 12**0.5,
                -side.sign() * (1 - 2 * side.abs()).log() / 2**0.5,
            ]
        )
        x = mean[:, None] + scale[:, None] * standard[family, torch.arange(n_tasks)]
        return x[..., None], family, mean, scale

    def members(self, n_tasks: int, n: int, generator: torch.Generator) -> Tensor:
        """[tasks, n, 1]."""
        return self.described(n_tasks, n, generator)[0]
