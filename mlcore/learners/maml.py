"""Model-agnostic meta-learning (Finn, Abbeel and Levine, 2017)."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad

from mlcore.learners.base import Learner, LossFn, Mapping

Params = dict[str, Tensor]


def inner_step(loss_fn: Callable[[Params], Tensor], params: Params, lr: float, *, first_order: bool = False) -> Params:
    """One gradient step θ' = θ - α ∇L(θ), differentiable with respect to θ (Finn et al., 2017, equation 1).

    With ``first_order`` the gradient counts as a constant, so that dθ'/dθ is the identity.

    Derived in: MAML from first principles, :eq:`eq-inner-step`.
    """
    at = {name: value.detach() for name, value in params.items()} if first_order else params
    gradient = grad(loss_fn)(at)
    return {name: value - lr * gradient[name] for name, value in params.items()}


class MAML(Learner):
    """Learn an initialisation θ from which a few gradient steps on a support set do well on its queries.

    Args:
        net: the network f_θ; all its trainable parameters are adapted.
        inner_lr: α. The original code sums the cross-entropy over classes where ours takes the mean, so its 0.4 for
            5-way tasks is 5 × 0.4 = 2.0 here (1-shot; with one step and plain gradient descent).
        inner_steps: gradient steps in meta-training.
        test_steps: gradient steps in evaluation mode; as many as ``inner_steps`` by default.
        first_order: drop the Hessian (FOMAML).
        loss_fn, mapping: as for :class:`~mlcore.learners.base.Learner`.

    Derived in: MAML from first principles, :eq:`eq-meta-gradient`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int = 1,
        test_steps: int | None = None,
        first_order: bool = False,
        loss_fn: LossFn = F.cross_entropy,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(net, loss_fn=loss_fn, mapping=mapping)
        test_steps = inner_steps if test_steps is None else test_steps
        if inner_lr <= 0:
            raise ValueError(f"inner_lr must be positive, not {inner_lr}.")
        if min(inner_steps, test_steps) < 0:
            raise ValueError(f"inner_steps={inner_steps} and test_steps={test_steps} must not be negative.")
        self.inner_lr, self.inner_steps, self.test_steps, self.first_order = (
            inner_lr,
            inner_steps,
            test_steps,
            first_order,
        )

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Params:
        """Fast weights θ' after the inner steps on one support set."""

        def support_loss(params: Params) -> Tensor:
            return self.row_loss(self.predict(params, support_x), support_y)

        params = {name: value for name, value in self.net.named_parameters() if value.requires_grad}
        for _ in range(self.inner_steps if self.training else self.test_steps):
            params = inner_step(support_loss, params, self.inner_lr, first_order=self.first_order)
        return params

    def predict(self, adapted: Params, query_x: Tensor) -> Tensor:
        """f_θ'(x) for one task's queries."""
        return functional_call(self.net, adapted, (query_x,))
