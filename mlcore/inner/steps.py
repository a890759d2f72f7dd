"""One gradient step on a support set, and how its gradient is computed."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from mlcore.nets.norms import transformed

Params = dict[str, Tensor]
Rates = float | Mapping[str, float | Tensor]
"""A step size for all parameters, or one for each by name: a number, or a tensor that broadcasts to it."""

LossFn = Callable[[Tensor, Tensor], Tensor]
"""Outputs and targets of one task, both rows, to a mean loss, such as those of :mod:`mlcore.objective`."""


def inner_step(
    loss_fn: Callable[[Params], Any],
    params: Params,
    lr: Rates,
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
    rates = lr if isinstance(lr, Mapping) else dict.fromkeys(params, lr)
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
