"""Batch normalisation by torch's own kernels, with second derivatives that are right under ``torch.vmap`` too.

torch differentiates its kernel twice by a formula that ``vmap`` gets wrong without a warning (chapter *MAML from first
principles*). Here the kernel computes the output and the first derivative, and the second is written out. It pays in
large layers; elsewhere plain arithmetic is as fast.

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


def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, *, mapped: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise [n, features, ...] by the batch's own statistics: the output, and the mean and variance, constants.

    With ``mapped=False`` torch differentiates its kernel by itself, which is faster, but right outside ``vmap`` only.
    Otherwise a third derivative is refused, and so is forward mode.
    """
    y, mean, r = (_BatchNorm.apply if mapped else _kernel_forward)(x, weight, bias, eps)
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
        u, p, q = grad_outputs
        g, x, weight, mean, r, g_weight, g_bias = ctx.saved_tensors
        shape, n = (1, -1) + (1,) * (x.dim() - 2), x.numel() // x.shape[1]
        s = weight * r
        along_u, u_weight, u_bias = _kernel(u, x, weight, mean, r)  # s (u - ⟨u⟩ - x̂ ⟨u x̂⟩), n ⟨u x̂⟩, n ⟨u⟩
        g_mean, g_hat, u_mean, u_hat = g_bias / n, g_weight / n, u_bias / n, u_weight / n
        # ∂g = along_u + p x̂ + q
        by_g = along_u + (p * r).view(shape) * x + (q - p * r * mean).view(shape)
        # By way of x̂, r (c - ⟨c⟩ - x̂ ⟨c x̂⟩) with c = (p - s ⟨u x̂⟩) g - s ⟨g x̂⟩ u; and by way of the factor r.
        by_weight = r * ((u * g).sum((0, *range(2, x.dim()))) - n * (u_mean * g_mean + u_hat * g_hat))
        of_g, of_u = p - s * u_hat, -s * g_hat
        c_mean, c_hat = of_g * g_mean + of_u * u_mean, of_g * g_hat + of_u * u_hat
        of_x = -r * r * (c_hat + weight * by_weight / n)
        by_x = (r * of_g).view(shape) * g + (r * of_u).view(shape) * u
        by_x = by_x + of_x.view(shape) * x - (r * c_mean + of_x * mean).view(shape)
        return *_Last.apply(by_g, by_x, by_weight), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple, *inputs: Tensor) -> tuple:
        return _apart(_BatchNormBackward.apply(*_together(inputs, in_dims, info.batch_size)), info.batch_size)


class _Last(Function):
    """The same numbers, which refuse to be differentiated: the formulas above take μ and r for constants."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*derivatives: Tensor) -> tuple[Tensor, ...]:
        return tuple(derivative.view_as(derivative) for derivative in derivatives)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        raise NotImplementedError("batch normalisation by the batch's statistics has no third derivative here.")


def _kernel(g: Tensor, x: Tensor, weight: Tensor, mean: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.native_batch_norm_backward(g, x, weight, None, None, mean, r, True, 0.0, [True] * 3)


def _together(tensors: Sequence[Tensor], dims: Sequence[int | None], tasks: int) -> Iterator[Tensor]:
    """Many tasks as one with more features: rows become [n, tasks x features, ...] and vectors [tasks x features]."""
    for tensor, dim in zip(tensors, dims, strict=False):  # a last argument may be no tensor
        each = tensor.expand(tasks, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        yield each.movedim(0, 1).flatten(1, 2) if each.dim() > 2 else each.flatten()


def _apart(outputs: tuple[Tensor, Tensor, Tensor], tasks: int) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """The outputs for rows and of two vectors, for each task, and where its dimension is."""
    rows, *vectors = outputs
    return (rows.unflatten(1, (tasks, -1)), *(vector.view(tasks, -1) for vector in vectors)), (1, 0, 0)
