"""Relation Networks (Sung, Yang, Zhang, Xiang, Torr and Hospedales, 2018)."""

from typing import Any

import torch
from torch import Tensor, nn

from mlcore.learner import Learner
from mlcore.learners.metric import MetricLearner
from mlcore.nets.norms import BatchNorm, BatchNormPolicy, Statistics, statistics_from
from mlcore.objective import Objective, mse
from mlcore.task import Examples, Task


def relation_encoder(in_channels: int = 1, *, filters: int = 64) -> nn.Sequential:
    """The paper's embedding (figure 2): four blocks, the first two pooled and not padded; [filters, 5, 5] at 28×28."""
    layers = []
    for i in range(4):
        padding = 0 if i < 2 else 1
        layers += [nn.Conv2d(filters if i else in_channels, filters, 3, padding=padding), BatchNorm(filters), nn.ReLU()]
        if i < 2:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def drawn(module: nn.Module) -> None:
    """Draw a layer's weights as the authors' code does: apply it to a network, ``net.apply(drawn)``.

    Those of a convolution with C filters k×k from N(0, 2 / (k² C)), its biases being 0; those of a linear layer from
    N(0, 0.01²), its biases being 1.
    """
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.constant_(module.bias, float(isinstance(module, nn.Linear)))


class RelationNet(MetricLearner):
    """Learn the comparison too: r = g_φ(C(Σ f_φ(x_i), f_φ(x_j))) in [0, 1] (Sung et al., 2018, equation 1).

    The features of a class's shots are added, put beside a query's features, channel on channel, and judged by a small
    convolutional network. The loss is the squared error against 1 for the right class, 0 for the others (equation 2).

    Args:
        net: the embedding, to feature maps [filters, height, width], such as :func:`relation_encoder`.
        filters: channels of those maps.
        map_size: their height and width.
        hidden: units of the module's hidden layer.
        as_released: do as the authors' code does. All weights, those of ``net`` too, are drawn by :func:`drawn`, and
            support set and queries are normalised apart, each by its own statistics, in meta-training as in evaluation.
        bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`, for the relation module too.

    Derived in: Learning the comparison, solving the head, :eq:`eq-relation`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        filters: int = 64,
        map_size: int = 5,
        hidden: int = 8,
        as_released: bool = False,
        bfloat16: bool = False,
    ) -> None:
        # The pairs of one task are a batch of their own to the module's normalisation: tasks come one after another.
        super().__init__(net, mapping="loop", bfloat16=bfloat16)
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
        self.as_released = as_released
        if as_released:
            self.batch_norm = "transductive"
            self.apply(drawn)

    @property
    def training_policy(self) -> BatchNormPolicy:
        """The whole episode's statistics, or support set and queries apart."""
        return "transductive" if self.as_released else super().training_policy

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """The embedded tasks; a policy that the relation module cannot follow is refused."""
        if policy == "support":
            raise ValueError(
                "RelationNet normalises pairs of images, which a support set alone does not have; "
                "use batch_norm='episode', 'transductive', 'running' or 'one_query'."
            )
        if self._trains_apart(policy):
            with statistics_from(None):  # as torch trains: by the batch's own statistics, of which averages are kept
                return Task(*(self.embedded(torch.stack([self.embed(x) for x in half.x]), half.y) for half in task))
        return super().prepare(task, policy)

    def _trains_apart(self, policy: BatchNormPolicy) -> bool:
        return self.training and self.as_released and policy == "transductive"

    def answer(self, policy: BatchNormPolicy, state: Tensor, support: Any, query_x: Any) -> tuple[Tensor, Statistics]:
        """Relation scores, of one query at a time where the policy says so: the module normalises pairs itself."""
        if self._trains_apart(policy):
            with statistics_from(None):
                return self.predict(state, query_x), {}
        if policy != "one_query":
            return super().answer(policy, state, support, query_x)
        outputs, seen = [], {}
        for alone in query_x.split(1):
            scores, seen = super().answer(policy, state, support, alone)
            outputs.append(scores)
        return torch.cat(outputs), seen

    def update(self, state: Any, data: Examples) -> Tensor:
        """The summed feature maps of each class: [ways, filters, height, width]."""
        return torch.einsum("nw,nchk->wchk", data.y, data.x)

    def predict(self, state: Tensor, x: Any) -> Tensor:
        """Relation scores in [0, 1]: [n, ways]."""
        shape = (len(x), len(state), *state.shape[1:])
        pairs = torch.cat([state.expand(shape), x[:, None].expand(shape)], 2).flatten(0, 1)
        with Learner.precision(self, pairs.device):
            logits = self.relation(pairs.contiguous(memory_format=torch.channels_last))
        return logits.to(x.dtype).sigmoid().view(shape[:2])

    def loss(self, state: Any, outputs: Tensor, query: Examples, objective: Objective) -> Tensor:
        """The squared error of scores, whatever the objective."""
        return mse(outputs, query.y)
