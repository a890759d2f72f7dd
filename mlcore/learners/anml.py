"""A neuromodulated meta-learning algorithm, ANML (Beaulieu et al., 2020)."""

from torch import Tensor, nn

from mlcore.learners.oml import OML


class Gated(nn.Module):
    """The outputs of one network, each multiplied by a number in (0, 1) that another network reads off the input."""

    def __init__(self, net: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.net, self.gate = net, gate

    def forward(self, x: Tensor) -> Tensor:
        """[n, *input] -> [n, features]."""
        return self.net(x) * self.gate(x).sigmoid()


class ANML(OML):
    """OML on features that a second network opens and closes, input by input (Beaulieu et al., 2020).

    In the paper the gated network also moves within a task, in meta-training; here, as in its test, only the head does.

    Args:
        net: the gated network, inputs to vectors [n, features].
        gate: the neuromodulatory network, of the same inputs and outputs.
        settings: as for :class:`~mlcore.learners.oml.OML`.

    Derived in: Learning without forgetting, :eq:`eq-forget-gate`.
    """

    def __init__(self, net: nn.Module, gate: nn.Module, **settings) -> None:
        super().__init__(Gated(net, gate), **settings)
