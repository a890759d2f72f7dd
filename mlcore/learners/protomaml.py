"""Proto-MAML (Triantafillou et al., 2020)."""

from typing import Any

from torch import Tensor
from torch.func import functional_call

from mlcore.inner import Params
from mlcore.learners.maml import MAML
from mlcore.learners.metric import class_means
from mlcore.learners.protonet import linear_head
from mlcore.task import Examples


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

    def adapt(self, support: Examples) -> Params:
        """Body and head after the inner steps from the prototypes of one support set."""
        z = self.net(support.x)
        weight, bias = linear_head(class_means(z, support.y.to(z.dtype)))
        state = self.start() | {_WEIGHT: weight, _BIAS: bias}
        for data in self.stream(support):
            state = self.update(state, data)
        return state

    def predict(self, state: Params, x: Any) -> Tensor:
        """The adapted head on the adapted body's embeddings."""
        body = {name: value for name, value in state.items() if name not in (_WEIGHT, _BIAS)}
        return functional_call(self.net, body, (x,)) @ state[_WEIGHT].T + state[_BIAS]


# No parameter of a network can have these names.
_WEIGHT, _BIAS = "prototypes.", "biases."
