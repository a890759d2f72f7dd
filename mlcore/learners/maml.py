"""Model-agnostic meta-learning (Finn, Abbeel and Levine, 2017)."""

from collections.abc import Iterable
from itertools import repeat
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from mlcore.inner import LossFn, Params, Rates, inner_step
from mlcore.learner import Learner
from mlcore.mapping import Mapping
from mlcore.nets.norms import written_out
from mlcore.objective import checked, cross_entropy
from mlcore.task import Examples


class MAML(Learner):
    """Learn an initialisation θ from which a few gradient steps on a support set do well on its queries.

    It begins at θ, an update is a gradient step, and the support set is seen once a step.

    Args:
        net: the network f_θ; all its trainable parameters are adapted. Its batch normalisation is replaced by ours.
        inner_lr: α. The original code sums the cross-entropy over classes where ours takes the mean, so its 0.4 for
            5-way tasks is 5 × 0.4 = 2.0 here (1-shot; with one step and plain gradient descent). Or by name a rate for
            each parameter, or each module that holds some, such as ``{"body": 0.01, "head": 1.0}``.
        inner_steps: gradient steps in meta-training.
        test_steps: gradient steps in evaluation mode; as many as ``inner_steps`` by default.
        first_order: drop the Hessian (FOMAML).
        loss_fn: the loss on a support set, of :mod:`mlcore.objective` or of your own: outputs and targets of one task,
            both rows, to a mean.
        mapping, bfloat16: as for :class:`~mlcore.learner.Learner`.

    Derived in: MAML from first principles, :eq:`eq-meta-gradient`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float | dict[str, float],
        inner_steps: int = 1,
        test_steps: int | None = None,
        first_order: bool = False,
        loss_fn: LossFn = cross_entropy,
        mapping: Mapping = "auto",
        bfloat16: bool = False,
    ) -> None:
        super().__init__(mapping=mapping, bfloat16=bfloat16)
        test_steps = inner_steps if test_steps is None else test_steps
        rates = inner_lr.values() if isinstance(inner_lr, dict) else (inner_lr,)
        if min(rates, default=0) <= 0:
            raise ValueError(f"inner_lr must be positive, not {inner_lr}.")
        if min(inner_steps, test_steps) < 0:
            raise ValueError(f"inner_steps={inner_steps} and test_steps={test_steps} must not be negative.")
        self.net = written_out(net)
        if not any(p.requires_grad for p in self.net.parameters()):
            raise ValueError("every parameter of the network is frozen; unfreeze some: net.requires_grad_(True).")
        self.inner_lr, self.inner_steps, self.test_steps = inner_lr, inner_steps, test_steps
        self.first_order, self.loss_fn = first_order, checked(loss_fn)
        self._check_rates()

    @property
    def steps(self) -> int:
        """Gradient steps in the mode at hand, training or evaluation."""
        return self.inner_steps if self.training else self.test_steps

    def start(self) -> Params:
        """θ: the parameters that the inner loop moves, before its first step."""
        return {name: value for name, value in self.net.named_parameters() if value.requires_grad}

    def begin(self) -> Any:
        """θ."""
        return self.start()

    def stream(self, support: Any) -> Iterable[Any]:
        """The whole support set, once a step."""
        return repeat(support, self.steps)

    def rates(self) -> Rates:
        """α, one for all parameters or one for each."""
        if not isinstance(self.inner_lr, dict):
            return self.inner_lr
        return {name: self.inner_lr[_named(name, self.inner_lr)] for name in self.start()}

    def _check_rates(self) -> None:
        if isinstance(self.inner_lr, dict):
            moved = dict(self.net.named_parameters())
            idle = [key for key in self.inner_lr if not any(_named(name, [key]) for name in moved)]
            without = [name for name in self.start() if not _named(name, self.inner_lr)]
            if idle or without:
                what = f"names {idle[0]!r}, which no parameter has" if idle else f"has no rate for {without[0]!r}"
                raise ValueError(f"inner_lr {what}; the parameters are {', '.join(self.start())}.")

    def update(self, state: Any, data: Examples) -> Any:
        """One gradient step on the support loss."""
        return inner_step(lambda p: self.support_loss(p, data), state, self.rates(), first_order=self.first_order)

    def support_loss(self, state: Any, data: Examples) -> Tensor:
        """The loss of weights on a support set."""
        return self.loss_fn(self.predict(state, data.x), data.y)

    def predict(self, state: Any, x: Any) -> Tensor:
        """f_θ'(x)."""
        return functional_call(self.net, state, (x,))


def _named(parameter: str, keys: Iterable[str]) -> str:
    """The longest of ``keys`` that names a parameter, or a module that holds it; nothing if none does."""
    return max((key for key in keys if f"{parameter}.".startswith(f"{key}.")), key=len, default="")
