"""Prior-fitted networks for tables (Hollmann et al., 2025), as small as nanoTabPFN (Pfefferle et al., 2025)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets import mlp
from mlcore.nets.transformer import Attention, EncoderLayer
from mlcore.task import Examples


class Table(NamedTuple):
    """A support set as the network has read it."""

    mean: Tensor  # [columns]
    scale: Tensor  # [columns]
    count: Tensor  # log of the number of rows, a scalar
    given: list[Tensor]  # what the rows of each layer are asked for: [columns + 1, n, width]


class PriorFitted(Learner):
    """A transformer over the cells of a table, trained on tables from a prior until its answer is the posterior's.

    Every cell is a token, and so is every row's class. In each layer the cells of a row look at each other, then those
    of a column: support rows look at support rows, and a query row looks at them as well, but at no other query. There
    are no positions, so neither the order of rows nor that of columns matters. Columns are standardised by the support
    set. Attention averages, and cannot tell a support set from the same one written twice; the number of rows is
    therefore a number that the network is told.

    Args:
        classes: at most, in any table.
        width: of a cell's representation.
        heads, layers, hidden: of the transformer.
        counts: tell it the number of rows. Without, it cannot know (chapter *Prior-fitted networks*).
        mapping: as for :class:`~mlcore.learner.Learner`.

    Derived in: Prior-fitted networks, :eq:`eq-pfn-loss`.
    """

    def __init__(
        self,
        classes: int = 2,
        *,
        width: int = 64,
        heads: int = 4,
        layers: int = 3,
        hidden: int = 128,
        counts: bool = True,
        mapping: Mapping = "vmap",
    ) -> None:
        super().__init__(mapping=mapping)
        if classes < 2:
            raise ValueError(f"classes must be at least 2, not {classes}.")
        self.classes, self.counts = classes, counts
        self.cell = nn.Linear(1, width)
        self.label = nn.Linear(classes + 2, width)  # the class, whether it is known, and the logarithm of the count
        self.layers: Any = nn.ModuleList(Layer(width, heads, hidden) for _ in range(layers))
        self.decoder = nn.Sequential(nn.RMSNorm(width), mlp(width, hidden, classes))

    def update(self, state: Any, data: Examples) -> Table:
        """Read a whole support set: rows [n, columns], or of any shape, and their classes [n, ways]."""
        x = data.x.flatten(1)
        mean = x.mean(0)
        scale = (x - mean).square().mean(0).sqrt()
        scale = scale.where(scale > 1e-6, 1)  # of a constant column, which says nothing
        count = x.new_tensor(len(x)).log() * self.counts
        table = Table(mean, scale, count, [])
        cells = self.cells(table, x, data.y)
        for layer in self.layers[:-1]:
            table.given.append(layer.across(cells))
            cells = layer.down(table.given[-1])
        table.given.append(self.layers[-1].across(cells, cells[-1:]))  # in the end the classes alone are looked at
        return table

    def predict(self, state: Table, x: Any) -> Tensor:
        """Logits [n, classes] for rows x [n, columns]."""
        cells = self.cells(state, x.flatten(1), None)
        for layer, given in zip(self.layers, state.given, strict=True):
            asking = cells[-len(given) :]
            cells = layer.down(layer.across(cells, asking), memory=given)
        return self.decoder(cells[-1])

    def cells(self, table: Table, x: Tensor, y: Tensor | None) -> Tensor:
        """Rows as tokens [columns + 1, n, width], the class last; it is unknown where ``y`` is None."""
        standard = ((x - table.mean) / table.scale).clamp(-8, 8)
        ways = 0 if y is None else y.shape[-1]
        if ways > self.classes:
            raise ValueError(
                f"the table has {ways} classes but the network knows {self.classes}; train one with classes={ways}."
            )
        known = x.new_zeros(len(x), 0) if y is None else y.to(x.dtype)
        rest = x.new_zeros(len(x), self.classes - ways)
        is_known, count = x.new_full((len(x), 1), float(y is not None)), table.count.expand(len(x), 1)
        label = self.label(torch.cat([known, rest, is_known, count], -1))
        return torch.cat([self.cell(standard.mT[..., None]), label[None]])


class Layer(nn.Module):
    """Attention within each row of cells [columns, n, width], then a layer of a transformer within each column."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.attention = nn.RMSNorm(width), Attention(width, heads)
        self.down = EncoderLayer(width, heads, hidden, nn.RMSNorm, 0.0)

    def across(self, cells: Tensor, asking: Tensor | None = None) -> Tensor:
        """x + attention(norm(x)) within each row, for the cells that ask, all by default."""
        seen = self.norm(cells).transpose(0, 1)
        if asking is None or len(asking) == len(cells):
            return cells + self.attention(seen, seen, seen).transpose(0, 1)
        return asking + self.attention(seen[:, -len(asking) :], seen, seen).transpose(0, 1)
