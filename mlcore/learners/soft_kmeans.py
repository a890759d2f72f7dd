"""Prototypes refined by soft k-means (Ren, Triantafillou, Ravi, Snell, Swersky, Tenenbaum, Larochelle, Zemel, 2018)."""

from typing import Any, Literal

from torch import Tensor, nn

from mlcore.learners.protonet import ProtoNet
from mlcore.mapping import Mapping
from mlcore.task import Examples


class SoftKMeans(ProtoNet):
    """Let the queries of a task help to find its prototypes: each counts for a class by its share in it.

    c'_k = (Σ_i y_ik z_i + Σ_j p_jk z_j) / (Σ_i y_ik + Σ_j p_jk), with p_jk = softmax_k(-d(z_j, c_k)), over support
    examples i and queries j (Ren et al., 2018, section 3.1.1, where unlabelled examples stand in the place of queries).
    It is transductive: the answer to a query depends on the others that it comes with.

    Args:
        net: the embedding f_φ.
        steps: how often the prototypes are refined; once in the paper; 0 gives Prototypical Networks.
        distance, mapping, bfloat16: as for :class:`~mlcore.learners.protonet.ProtoNet`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        steps: int = 1,
        distance: Literal["euclidean", "scaled", "cosine"] = "euclidean",
        mapping: Mapping = "vmap",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, distance=distance, mapping=mapping, bfloat16=bfloat16)
        if steps < 0:
            raise ValueError(f"steps={steps} must not be negative.")
        self.steps = steps

    def update(self, state: Any, data: Examples) -> Any:
        """The sum of each class's embeddings [ways, features], and how many they are [ways]."""
        return data.y.mT @ data.x, data.y.sum(0)

    def predict(self, state: Any, x: Any) -> Tensor:
        """-d(z, c'_k), the logits: [n, ways]."""
        sums, counts = state
        prototypes = sums / counts[:, None]
        for _ in range(self.steps):
            share = super().predict(prototypes, x).softmax(-1)
            prototypes = (sums + share.mT @ x) / (counts + share.sum(0))[:, None]
        return super().predict(prototypes, x)
