"""Proto-MAML (Triantafillou et al., 2020)."""

from torch import Tensor
from torch.func import functional_call

from mlcore.learners.maml import MAML, Params
from mlcore.learners.metric import class_means
from mlcore.learners.protonet import linear_head


class ProtoMAML(MAML):
    """MAML whose head starts, in each task, as the linear classifier that the task's prototypes amount to.

    W_k = 2 c_k and b_k = -‖c_k‖² (Triantafillou et al., 2020, section 3), and the meta-gradient also flows through this
    start. Without inner steps it is a Prototypical Network. The number of ways is the task's, not the network's.

    Args:
        net: the body, an embedding such as ``conv4(1)``; it needs no head.
        inner_lr, inner_steps, test_steps, first_order, loss_fn, mapping, bfloat16: as for
            :class:`~mlcore.learners.maml.MAML`.

    Derived in: Rapid learning or feature reuse?, :eq:`eq-protomaml`.
    """

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Params:
        """Body and head after the inner steps from the prototypes of one support set."""
        weight, bias = linear_head(class_means(self.net(support_x), self.rows(support_y)))
        start = self.start() | {_WEIGHT: weight, _BIAS: bias}
        return self.descend(lambda params: self.row_loss(self.predict(params, support_x), support_y), start)

    def predict(self, adapted: Params, query_x: Tensor) -> Tensor:
        """The adapted head on the adapted body's embeddings."""
        body = {name: value for name, value in adapted.items() if name not in (_WEIGHT, _BIAS)}
        return functional_call(self.net, body, (query_x,)) @ adapted[_WEIGHT].T + adapted[_BIAS]


# No parameter of a network can have these names.
_WEIGHT, _BIAS = "prototypes.", "biases."
