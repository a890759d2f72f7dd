"""Batch normalisation by torch's own kernels, with second derivatives that are right under ``torch.vmap`` too.

torch differentiates its kernel twice by a formula that ``vmap`` gets wrong without a warning (chapter *MAML from first
principles*), and by many passes over its numbers. Here the kernel computes the output and the first derivative, and the
second is written out. It pays in large layers; elsewhere plain arithmetic is as fast.

With n numbers in a channel, x̂ = (x - μ) r, r = (σ² + ε)^-½, s = γ r and ⟨·⟩ the mean over a channel, the output is
y = γ x̂ + β, and for a gradient g of y the first derivatives are

    ∂x = s (g - ⟨g⟩ - x̂ ⟨g x̂⟩),    ∂γ = n ⟨g x̂⟩,    ∂β = n ⟨g⟩.

The second derivatives are those of ⟨u, ∂x⟩ + p ∂γ + q ∂β, for any u, p and q.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, by_torch: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise [n, features, ...] by the batch's own statistics: the output, and the mean and variance, constants.

    With ``by_torch`` torch differentiates its kernel by itself: less for a call, more for a number, and right outside
    ``vmap`` only. Otherwise a third derivative is refused, and so is forward mode.
    """
    y, mean, r = (_kernel_forward if by_torch else _BatchNorm.apply)(x, weight, bias, eps)
    return y, mean.detach(), (r.detach().pow(-2) - eps).clamp(min=0)


def _kernel_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return torch.native_batch_norm(x, weight, bias, None, None, True, 0.0, eps)


class _BatchNorm(Function):
    """x, γ, β ↦ y, μ, r."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        return _kernel_forward(x, weight, bias, eps)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        x, weight, _, _ = inputs
        _, mean, r = output
        ctx.mark_non_differentiable(mean, r)
        ctx.save_for_backward(x, weight, mean, r)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        return *_BatchNormBackward.apply(grad_outputs[0], *ctx.saved_tensors), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Any) -> tuple:
        *tensors, eps = inputs
        return _apart(_BatchNorm.apply(*_together(tensors, in_dims, info.batch_size), eps), info.batch_size)


class _BatchNormBackward(Function):
    """g, x, γ, μ, r ↦ ∂x, ∂γ, ∂β."""

    @staticmethod
    def forward(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _kernel(g, x, weight, mean, r)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        ctx.save_for_backward(*inputs, *output[1:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        return *_BatchNormSecond.apply(*grad_outputs, *ctx.saved_tensors), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Tensor) -> tuple:
        return _apart(_BatchNormBackward.apply(*_together(inputs, in_dims, info.batch_size)), info.batch_size)


class _BatchNormSecond(Function):
    """u, p, q and what they meet ↦ ∂g, ∂x, ∂γ; in place, since every pass over a large layer counts."""

    @staticmethod
    def forward(
        u: Tensor,
        p: Tensor,
        q: Tensor,
        g: Tensor,
        x: Tensor,
        weight: Tensor,
        mean: Tensor,
        r: Tensor,
        g_weight: Tensor,
        g_bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, s = x.numel() // x.shape[1], weight * r
        by_g, u_weight, u_bias = _kernel(u, x, weight, mean, r)  # s (u - ⟨u⟩ - x̂ ⟨u x̂⟩), n ⟨u x̂⟩, n ⟨u⟩
        g_mean, g_hat, u_mean, u_hat = g_bias / n, g_weight / n, u_bias / n, u_weight / n

        def each(channel: Tensor) -> Tensor:
            return channel.view((1, -1) + (1,) * (x.dim() - 2))

        by_g.addcmul_(x, each(p * r)).add_(each(q - p * r * mean))  # and p x̂ + q
        # By way of x̂, r (c - ⟨c⟩ - x̂ ⟨c x̂⟩) with c = (p - s ⟨u x̂⟩) g - s ⟨g x̂⟩ u; and by way of the factor r.
        by_weight = r * ((u * g).sum((0, *range(2, x.dim()))) - n * (u_mean * g_mean + u_hat * g_hat))
        of_g, of_u = p - s * u_hat, -s * g_hat
        c_mean, c_hat = of_g * g_mean + of_u * u_mean, of_g * g_hat + of_u * u_hat
        of_x = -r * r * (c_hat + weight * by_weight / n)
        by_x = torch.addcmul(each(-r * c_mean - of_x * mean), x, each(of_x))
        by_x.addcmul_(g, each(r * of_g)).addcmul_(u, each(r * of_u))
        return by_g, by_x, by_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        # The formulas take μ and r for constants.
        raise NotImplementedError("batch normalisation by the batch's statistics has no third derivative here.")

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Tensor) -> tuple:
        return _apart(_BatchNormSecond.apply(*_together(inputs, in_dims, info.batch_size)), info.batch_size)


def _kernel(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.native_batch_norm_backward(g, x, weight, None, None, mean, r, True, 0.0, [True] * 3)


def _together(tensors: Sequence[Tensor], dims: Sequence[int | None], tasks: int) -> Iterator[Tensor]:
    """Many tasks as one with more features: rows become [n, tasks x features, ...] and vectors [tasks x features]."""
    for tensor, dim in zip(tensors, dims, strict=False):  # a last argument may be no tensor
        each = tensor.expand(tasks, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        yield each.movedim(0, 1).flatten(1, 2) if each.dim() > 2 else each.flatten()


def _apart(outputs: tuple[Tensor, ...], tasks: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The outputs, rows and vectors, for each task, and where its dimension is."""
    dims = tuple(min(output.dim() - 1, 1) for output in outputs)
    return tuple(output.unflatten(dim, (tasks, -1)) for output, dim in zip(outputs, dims, strict=True)), dims
