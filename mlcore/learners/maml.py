"""Model-agnostic meta-learning (Finn, Abbeel and Levine, 2017)."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp

from mlcore.learners.base import Learner, LossFn, Mapping
from mlcore.nets import transformed

Params = dict[str, Tensor]


def inner_step(
    loss_fn: Callable[[Params], Any],
    params: Params,
    lr: float | Params,
    *,
    first_order: bool = False,
    has_aux: bool = False,
) -> Any:
    """One gradient step θ' = θ - α ∇L(θ), differentiable with respect to θ (Finn et al., 2017, equation 1).

    Args:
        loss_fn: the loss L of the parameters.
        params: θ, by name.
        lr: α; or, by name, a rate for each tensor, a scalar or of its shape, differentiable as well.
        first_order: the gradient counts as a constant, so that dθ'/dθ is the identity.
        has_aux: ``loss_fn`` returns the loss and something besides, and this function θ' and that.

    Derived in: MAML from first principles, :eq:`eq-inner-step`.
    """
    gradient, *aux = support_gradient(loss_fn, params, constant=first_order, has_aux=has_aux)
    rates = lr if isinstance(lr, dict) else dict.fromkeys(params, lr)
    adapted = {name: value - rates[name] * gradient[name] for name, value in params.items()}
    return (adapted, *aux) if has_aux else adapted


def support_gradient(
    loss_fn: Callable[[Params], Any], params: Params, *, constant: bool, has_aux: bool = False
) -> tuple[Any, ...]:
    """∇L(θ), by name and of each parameter's shape, and what ``loss_fn`` returns besides with ``has_aux``.

    With ``constant``, as in first order, and where autograd is off, nobody will differentiate the gradient again: it is
    computed without a record of how it came about.

    Raises:
        ValueError: the loss is not one number.

    Chapter: Where the time goes.
    """
    constant = constant or not torch.is_grad_enabled()
    if transformed() or not (constant or all(p.requires_grad for p in params.values())):
        loss, pull_back, *aux = vjp(loss_fn, detached(params) if constant else params, has_aux=has_aux)
        check_scalar(loss)
        with torch.set_grad_enabled(not constant):
            (gradient,) = pull_back(torch.ones_like(loss), retain_graph=not constant)
        return gradient, *aux
    # Nobody maps or differentiates this as a function: autograd's own graph does, at less cost for each operation.
    # One parameter may be computed from another, as in Proto-MAML; the views are what the loss alone depends on.
    start = {name: p.detach().requires_grad_() if constant else p.view_as(p) for name, p in params.items()}
    with torch.enable_grad():
        result = loss_fn(start)
    loss, *aux = result if has_aux else (result,)
    check_scalar(loss)
    gradients = torch.autograd.grad(loss, list(start.values()), create_graph=not constant, materialize_grads=True)
    return dict(zip(start, gradients, strict=True)), *aux


def check_scalar(loss: Tensor) -> None:
    """Refuse a loss of several numbers, whose sum would be taken for it."""
    if loss.dim():
        raise ValueError(f"loss_fn must give one number, not {list(loss.shape)}; take the mean over rows.")


def detached(params: Params) -> Params:
    """The same numbers, as constants."""
    return {name: value.detach() for name, value in params.items()}


class MAML(Learner):
    """Learn an initialisation θ from which a few gradient steps on a support set do well on its queries.

    Args:
        net: the network f_θ; all its trainable parameters are adapted.
        inner_lr: α. The original code sums the cross-entropy over classes where ours takes the mean, so its 0.4 for
            5-way tasks is 5 × 0.4 = 2.0 here (1-shot; with one step and plain gradient descent).
        inner_steps: gradient steps in meta-training.
        test_steps: gradient steps in evaluation mode; as many as ``inner_steps`` by default.
        first_order: drop the Hessian (FOMAML).
        loss_fn, mapping, bfloat16: as for :class:`~mlcore.learners.base.Learner`.

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
        bfloat16: bool = False,
    ) -> None:
        super().__init__(net, loss_fn=loss_fn, mapping=mapping, bfloat16=bfloat16)
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

    def start(self) -> Params:
        """θ: the parameters that the inner loop moves, before its first step."""
        return {name: value for name, value in self.net.named_parameters() if value.requires_grad}

    def rates(self, step: int) -> float | Params:
        """α of inner step ``step``, the first being 0."""
        return self.inner_lr

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Params:
        """Fast weights θ' after the inner steps on one support set."""
        return self.descend(lambda params: self.row_loss(self.predict(params, support_x), support_y), self.start())

    def descend(self, support_loss: Callable[[Params], Tensor], params: Params) -> Params:
        """The inner loop: gradient steps on ``support_loss`` from ``params``."""
        for step in range(self.inner_steps if self.training else self.test_steps):
            params = inner_step(support_loss, params, self.rates(step), first_order=self.first_order)
        return params

    def predict(self, adapted: Params, query_x: Tensor) -> Tensor:
        """f_θ'(x) for one task's queries."""
        return functional_call(self.net, adapted, (query_x,))
