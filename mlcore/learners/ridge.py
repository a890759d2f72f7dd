"""Ridge regression as the base learner, R2-D2 (Bertinetto, Henriques, Torr and Vedaldi, 2019)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner
from mlcore.mapping import Mapping
from mlcore.nets.norms import BatchNorm
from mlcore.task import Examples


class R2D2Encoder(nn.Module):
    """The embedding of the authors' code: four blocks, of which the last two are embeddings side by side.

    A block is a 3×3 convolution, batch normalisation, 2×2 max-pooling and a leaky ReLU of slope 0.1; the last one's
    pooling does not halve the image. Its paper's filters are 96 to 512; 64 throughout is its smaller network, of 1,152
    features at 32×32 pixels.

    Args:
        in_channels: 1 for grey images, 3 for colour.
        filters: channels of every block.
        dropout: the share of numbers left out after the third and the fourth block.
    """

    def __init__(self, in_channels: int = 3, *, filters: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        blocks = []
        for i in range(4):
            convolution = nn.Conv2d(filters if i else in_channels, filters, 3, padding=1)
            block = [convolution, BatchNorm(filters), nn.MaxPool2d(2, 2 if i < 3 else 1), nn.LeakyReLU(0.1)]
            blocks.append(nn.Sequential(*block, *[nn.Dropout(dropout)] * (i > 1)))
        self.first, self.last = nn.Sequential(*blocks[:3]), blocks[3]

    def forward(self, x: Tensor) -> Tensor:
        third = self.first(x)
        return torch.cat([F.max_pool2d(third, 2, 1).flatten(1), self.last(third).flatten(1)], 1)


class Ridge(MetricLearner):
    """Solve the last layer: W = Zᵀ(ZZᵀ + λI)⁻¹Y, logits α zW, differentiated through (Bertinetto et al., 2019).

    λ and α are learned, as logarithms, so that they stay positive. The paper adds one bias to all logits, which a
    softmax does not see; it is left out. So, unless ``strength`` is given, is the column of ones that the authors' code
    appends to Z.

    Args:
        net: the embedding.
        scale: α at the start. Regression answers 0 or 1; with α = 1 a softmax of such answers is never sure, and its
            gradient teaches little (the same trouble as with the cosines of Matching Networks).
        strength: do as the authors' code does, with a λ of 50: it is not learned but grows with the support set, to
            ``strength`` times its examples, since Z and Y are divided by the root of their number; Z has a column of
            ones; and α itself is learned, not its logarithm.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Learning the comparison, solving the head, :eq:`eq-woodbury`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        scale: float = 10.0,
        strength: float | None = None,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        if strength is not None and strength <= 0:
            raise ValueError(f"strength must be positive, not {strength}.")
        self.strength = strength
        if strength is None:
            self.log_lambda = nn.Parameter(torch.zeros(()))
            self.log_alpha = nn.Parameter(torch.tensor(scale).log())
        else:
            self.alpha = nn.Parameter(torch.tensor(scale))

    def update(self, state: Any, data: Examples) -> Tensor:
        """W [features, ways], from a system as large as the support set, whatever the features."""
        z, y = self.extended(data.x), data.y
        penalty = self.log_lambda.exp() if self.strength is None else self.strength * len(z)
        gram = z @ z.mT + penalty * torch.eye(len(z), dtype=z.dtype, device=z.device)
        return z.mT @ torch.linalg.solve(gram, y)

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """α zW: [n, ways]."""
        alpha = self.log_alpha.exp() if self.strength is None else self.alpha
        return alpha * (self.extended(x) @ state)

    def extended(self, z: Tensor) -> Tensor:
        """Embeddings [n, features], with a one behind each where the authors' code has it."""
        return z if self.strength is None else F.pad(z, (0, 1), value=1.0)
