"""Small tables from random causal models: a prior over classification that can be sampled, but not written down."""

import torch
from torch import Tensor

from mlcore.objective import Objective, classification
from mlcore.task import rows
from mlcore.tasks.functions import Functions
from mlcore.tasks.sizes import Size, check_positive, least, most

_DEPTHS, _WIDTHS, _ROOTS = (2, 5), (4, 12), (2, 6)


class TableTasks(Functions):
    """Tables whose columns, and whose class, are nodes of a random causal model (Hollmann et al., 2023).

    A model is a random network of 2 to 5 layers, each of 4 to 12 nodes, over 2 to 6 roots that are normal or uniform. A
    node is a function of some nodes of the layer before it, with noise. Some nodes are the columns of a table, and one,
    cut at random quantiles, is the class: so a column may be a cause of the class, an effect of it, both or neither.
    Some columns are bent or rounded, and all are standardised over the table.

    Args:
        columns: how many a table has, or a range, of which every batch draws one.
        ways: classes. One may be missing from a small support set.
        shots, queries: labelled rows and rows to be classified, or ranges, of which every batch draws one.

    Derived in: Prior-fitted networks, :eq:`eq-structural-table`.
    """

    objective: Objective = classification

    def __init__(self, columns: Size = (2, 8), *, ways: int = 2, shots: Size = (10, 100), queries: Size = 30) -> None:
        self.columns, self.ways = columns, ways
        super().__init__(shots, queries)

    def __repr__(self) -> str:
        return f"TableTasks({self.columns}; ways={self.ways}, shots={self.shots}, queries={self.queries})"

    def check(self) -> None:
        """Refuse sizes that are none, and a single class."""
        super().check()
        check_positive(columns=self.columns, ways=self.ways)
        if self.ways < 2:
            raise ValueError("ways must be at least 2, not 1; a single class leaves nothing to learn.")

    @property
    def one_shape(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether no size is a range."""
        return super().one_shape and isinstance(self.columns, int)

    def draw(self, n_tasks: int, points: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows [tasks, points, columns] and classes of new models."""
        columns = _drawn((least(self.columns), most(self.columns)), (), generator).item()
        values = causal_models(n_tasks, points, int(columns) + 1, generator)
        return standardised(_observed(values[..., :-1], generator)), self.classes(values[..., -1], generator)

    def classes(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """One-hot rows [tasks, n, ways]: between which random quantiles of its table a value [tasks, n] lies."""
        shares = 0.25 + torch.rand(len(values), self.ways, generator=generator)  # so that no class is very rare
        cuts = shares.cumsum(1)[:, :-1] / shares.sum(1, keepdim=True)
        quantiles = values.argsort(1).argsort(1) / values.shape[1]
        labels = (quantiles[..., None] >= cuts[:, None]).sum(-1)
        order = torch.rand(len(values), self.ways, generator=generator).argsort(1)
        return rows(order.gather(1, labels), self.ways)


def causal_models(n_tasks: int, n: int, nodes: int, generator: torch.Generator) -> Tensor:
    """Values [tasks, n, nodes] of some nodes of a random causal model for each task, in random order."""
    widest = max(_WIDTHS[1], nodes)
    depths = _drawn(_DEPTHS, (n_tasks, 1), generator)
    widths = _drawn((max(_WIDTHS[0], (nodes + 1) // 2), widest), (n_tasks, 1), generator)
    exists = torch.arange(widest) < widths  # all models are computed at the largest size, and cut to their own
    roots = torch.randn(n_tasks, n, widest, generator=generator)
    uniform = torch.rand(n_tasks, 1, 1, generator=generator) < 0.5
    first = torch.arange(widest) < _drawn(_ROOTS, (n_tasks, 1), generator).minimum(widths)
    layers = [roots.where(~uniform, torch.erf(roots / 2**0.5) * 3**0.5) * first[:, None]]
    noise = 10 ** (2 * torch.rand(n_tasks, 1, 1, generator=generator) - 2.5)  # of standard deviation 0.003 to 0.3
    dense = 0.3 + 0.6 * torch.rand(n_tasks, 1, 1, generator=generator)
    for _ in range(_DEPTHS[1]):
        weights = torch.randn(n_tasks, widest, widest, generator=generator)
        weights = weights * (torch.rand(weights.shape, generator=generator) < dense)
        shift = torch.randn(n_tasks, 1, widest, generator=generator) / 2
        signal = standardised(_activated(standardised(layers[-1] @ weights) + shift, generator))
        layers.append((signal + noise * torch.randn(signal.shape, generator=generator)) * exists[:, None])
    deep = torch.arange(1, 1 + _DEPTHS[1]) <= depths
    there = torch.cat([first[:, None], deep[..., None] & exists[:, None]], 1)
    luck = torch.rand(n_tasks, there[0].numel(), generator=generator).where(there.flatten(1), -1)
    chosen = luck.topk(nodes).indices[:, None].expand(n_tasks, n, nodes)
    return torch.cat(layers, -1).gather(2, chosen)


def standardised(x: Tensor) -> Tensor:
    """Columns of tables [..., n, columns] with mean 0 and standard deviation 1; a constant one becomes 0."""
    centred = x - x.mean(-2, keepdim=True)
    return centred / centred.square().mean(-2, keepdim=True).sqrt().clamp_min(1e-6)


def tables(columns: Size = (2, 8), **settings) -> TableTasks:
    """Tables from random causal models, see :class:`TableTasks`."""
    return TableTasks(columns, **settings)


def _activated(x: Tensor, generator: torch.Generator) -> Tensor:
    """One function for each task's layer [tasks, n, nodes]."""
    every = torch.stack([x, x.tanh(), x.relu(), x.abs(), x.square(), x.sin(), x.sign()])
    which = torch.randint(len(every), (len(x),), generator=generator)
    return every[which, torch.arange(len(x))]


def _observed(x: Tensor, generator: torch.Generator) -> Tensor:
    """Columns [tasks, n, columns] as they might be measured: most as they are, some exponentially, some rounded."""
    luck = torch.rand(len(x), 1, x.shape[-1], generator=generator)
    bent = x.clamp(-4, 4).exp().where(luck < 0.15, x)
    return bent.round().where(luck > 0.85, bent)


def _drawn(ends: tuple[int, int], shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(ends[0], ends[1] + 1, shape, generator=generator)
