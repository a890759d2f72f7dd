"""Matching Networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra, 2016)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.learners.metric import MetricLearner, cosines
from mlcore.mapping import Mapping
from mlcore.nets.lstm import LSTMCell
from mlcore.task import Examples


class MatchingNet(MetricLearner):
    """Attend to the support set: P(y | x) = Σ_i a(x, x_i) y_i, a = softmax of cosines (Vinyals et al., 2016, eq. 1).

    Args:
        net: the embedding f' = g'.
        full_context: embed each image in the light of the whole support set (section 2.1.2 and appendix A): a
            bidirectional LSTM reads the support images, and an LSTM with attention reads a query ``reads`` times.
        features: length of an embedding; only ``full_context`` needs it.
        reads: K, the steps of the attention LSTM.
        scale: what the cosines are multiplied by before the softmax. The paper's 1 keeps every attention weight within
            a factor of e² of any other; later code multiplies by 10 or more.
        query_length: leave a query's embedding as long as it is, so that its length is a temperature that the network
            learns, as some implementations do; by default it is divided by its length, as a cosine asks.
        mapping, bfloat16: as for :class:`~mlcore.learners.metric.MetricLearner`.

    Derived in: Learning a metric, :eq:`eq-matching`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        full_context: bool = False,
        features: int = 64,
        reads: int = 5,
        scale: float = 1.0,
        query_length: bool = False,
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, mapping=mapping, bfloat16=bfloat16)
        self.full_context, self.reads, self.scale, self.query_length = full_context, reads, scale, query_length
        self.reads_order = full_context
        if full_context:
            self.forwards, self.backwards = LSTMCell(features, features), LSTMCell(features, features)
            self.attend = LSTMCell(features, 2 * features, outputs=features)

    def update(self, state: Any, data: Examples) -> tuple[Tensor, Tensor]:
        """Support embeddings g(x_i, S) and their labels: the memory that queries attend to."""
        return (self._support_in_context(data.x) if self.full_context else data.x), data.y

    def predict(self, state: tuple[Tensor, Tensor], x: Any) -> Tensor:
        """log P(y | x): [n, ways]."""
        support_z, support_y = state
        if self.full_context:
            x = self._query_in_context(x, support_z)
        return (self.attention(x, support_z) @ support_y).clamp_min(1e-12).log()

    def attention(self, query_z: Tensor, support_z: Tensor) -> Tensor:
        """a(x, x_i), each row sums to 1: [n_query, n_support]."""
        angles = query_z @ F.normalize(support_z, dim=-1).mT if self.query_length else cosines(query_z, support_z)
        return (self.scale * angles).softmax(-1)

    def _support_in_context(self, z: Tensor) -> Tensor:
        """g(x_i, S) = h→_i + h←_i + g'(x_i): [n_support, features]."""
        return z + self.forwards.read(z) + self.backwards.read(z.flip(0)).flip(0)

    def _query_in_context(self, z: Tensor, support_z: Tensor) -> Tensor:
        """f(x, S): ``reads`` steps of an LSTM fed with f'(x), each after a look at the support set."""
        hidden, cell = z, torch.zeros_like(z)
        for _ in range(self.reads):
            glimpse = (hidden @ support_z.mT).softmax(-1) @ support_z
            output, cell = self.attend(z, torch.cat([hidden, glimpse], -1), cell)
            hidden = output + z
        return hidden
