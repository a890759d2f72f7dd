"""BOIL: body only update in inner loop (Oh, Yoo, Kim and Yun, 2021)."""

from typing import cast

from torch import nn

from mlcore.inner import Params
from mlcore.learners.anil import check_head
from mlcore.learners.maml import MAML


class BOIL(MAML):
    """MAML that adapts everything but the head, so that features must change (Oh et al., 2021, section 3).

    Args:
        net: an ``nn.Sequential`` whose last module is the head, such as ``conv4(1, 5)``.
        inner_lr, inner_steps, test_steps, first_order, loss_fn, mapping, bfloat16: as for
            :class:`~mlcore.learners.maml.MAML`.

    Raises:
        TypeError: ``net`` is not a sequence that ends in an ``nn.Linear``.

    Derived in: Rapid learning or feature reuse?, :eq:`eq-boil`.
    """

    def __init__(self, net: nn.Module, **settings) -> None:
        check_head(net)
        super().__init__(net, **settings)

    def start(self) -> Params:
        """All parameters of the body."""
        head = {id(value) for value in cast(nn.Sequential, self.net)[-1].parameters()}
        return {name: value for name, value in super().start().items() if id(value) not in head}
