"""Relation Networks (Sung, Yang, Zhang, Xiang, Torr and Hospedales, 2018)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learners.base import BatchNormPolicy
from mlcore.learners.metric import MetricLearner
from mlcore.nets import BatchNorm
from mlcore.tasks import Task


def relation_encoder(in_channels: int = 1, *, filters: int = 64) -> nn.Sequential:
    """The paper's embedding (figure 2): four blocks, the first two pooled and not padded; [filters, 5, 5] at 28×28."""
    layers = []
    for i in range(4):
        padding = 0 if i < 2 else 1
        layers += [nn.Conv2d(filters if i else in_channels, filters, 3, padding=padding), BatchNorm(filters), nn.ReLU()]
        if i < 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


class RelationNet(MetricLearner):
    """Learn the comparison too: r = g_φ(C(Σ f_φ(x_i), f_φ(x_j))) in [0, 1] (Sung et al., 2018, equation 1).

    The features of a class's shots are added, put beside a query's features, channel on channel, and judged by a small
    convolutional network. The loss is the squared error against 1 for the right class, 0 for the others (equation 2).

    Args:
        net: the embedding, to feature maps [filters, height, width], such as :func:`relation_encoder`.
        filters: channels of those maps.
        map_size: their height and width.
        hidden: units of the module's hidden layer.
        bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`, for the relation module too.

    Derived in: Learning the comparison, solving the head, :eq:`eq-relation`.
    """

    def __init__(
        self, net: nn.Module, *, filters: int = 64, map_size: int = 5, hidden: int = 8, bfloat16: bool = False
    ) -> None:
        # The pairs of one task are a batch of their own to the module's normalisation: tasks come one after another.
        super().__init__(net, loss_fn=F.mse_loss, mapping="loop", bfloat16=bfloat16)
        blocks = []
        for channels in (2 * filters, filters):
            blocks += [nn.Conv2d(channels, filters, 3, padding=1), BatchNorm(filters), nn.ReLU(), nn.MaxPool2d(2)]
        self.relation = nn.Sequential(
            *blocks,
            nn.Flatten(),
            nn.Linear(filters * (map_size // 4) ** 2, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 1),
        ).to(memory_format=torch.channels_last)

    def forward(self, batch: Task, *, batch_norm: BatchNormPolicy | None = None) -> Tensor:
        if batch_norm == "support":
            raise ValueError(
                "RelationNet normalises pairs of images, which a support set alone does not have; "
                "use batch_norm='transductive', 'running' or 'one_query'."
            )
        return super().forward(batch, batch_norm=batch_norm)

    def fit(self, support_z: Tensor, support_y: Tensor) -> Tensor:
        """The summed feature maps of each class: [ways, filters, height, width]."""
        return torch.einsum("nw,nchk->wchk", support_y, support_z)

    def compare(self, fitted: Tensor, query_z: Tensor) -> Tensor:
        """Relation scores in [0, 1]: [n_query, ways]."""
        shape = (len(query_z), len(fitted), *fitted.shape[1:])
        pairs = torch.cat([fitted.expand(shape), query_z[:, None].expand(shape)], 2).flatten(0, 1)
        with self.precision(pairs.device):
            logits = self.relation(pairs.contiguous(memory_format=torch.channels_last))
        return logits.to(query_z.dtype).sigmoid().view(shape[:2])
