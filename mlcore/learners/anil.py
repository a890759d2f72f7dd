"""ANIL: almost no inner loop (Raghu, Raghu, Bengio and Vinyals, 2020)."""

from collections.abc import Iterable
from itertools import repeat
from typing import Any, cast

from torch import Tensor, nn
from torch.func import functional_call

from mlcore.inner import Params
from mlcore.learners.maml import MAML
from mlcore.task import Examples


class ANIL(MAML):
    """MAML that adapts the head alone, on features that all tasks share (Raghu et al., 2020, section 4).

    The body computes the features of a support set once, whatever the number of inner steps, and only the head is
    differentiated twice.

    Args:
        net: an ``nn.Sequential`` whose last module is the head, such as ``conv4(1, 5)``.
        tied_head: start the head of every class from one row, the mean of the head's rows, since a class has no number
            outside its task. What all classes share cancels in a softmax: with a cross-entropy such a start learns
            nothing and is worth an empty head. By default each row starts from its own.
        inner_lr, inner_steps, test_steps, first_order, loss_fn, mapping, bfloat16: as for
            :class:`~mlcore.learners.maml.MAML`.

    Raises:
        TypeError: ``net`` is not a sequence that ends in an ``nn.Linear``.

    Derived in: Rapid learning or feature reuse?, :eq:`eq-anil`.
    """

    def __init__(self, net: nn.Module, *, tied_head: bool = False, **settings) -> None:
        check_head(net)
        super().__init__(net, **settings)
        self.tied_head = tied_head

    @property
    def body(self) -> nn.Module:
        """The network without its head."""
        return cast(nn.Sequential, self.net)[:-1]

    @property
    def head(self) -> nn.Module:
        """The last layer of the network."""
        return cast(nn.Sequential, self.net)[-1]

    def start(self) -> Params:
        """Weights and biases of the head."""
        head = self.head.named_parameters()
        return {name: value.mean(0, keepdim=True).expand_as(value) if self.tied_head else value for name, value in head}

    def stream(self, support: Examples) -> Iterable[Examples]:
        """The support set's features, once a step."""
        return repeat(Examples(self.body(support.x), support.y), self.steps)

    def support_loss(self, state: Params, data: Examples) -> Tensor:
        """The loss of a head on features."""
        return self.loss_fn(functional_call(self.head, state, (data.x,)), data.y)

    def predict(self, state: Params, x: Any) -> Tensor:
        """The adapted head on the body's features."""
        return functional_call(self.head, state, (self.body(x),))


def check_head(net: nn.Module) -> None:
    """Refuse a network that cannot be parted into a body and a linear head."""
    if not (isinstance(net, nn.Sequential) and len(net) > 1 and isinstance(net[-1], nn.Linear)):
        raise TypeError(
            f"the network must be an nn.Sequential that ends in its head, an nn.Linear, not {type(net).__name__}; "
            "write it as nn.Sequential(body, head)."
        )
