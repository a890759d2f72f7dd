"""Right derivatives for networks of any origin, whatever functions of torch their forward passes call.

Under ``torch.vmap``, torch differentiates its layer, instance and batch norms and its embeddings with padding by
formulas that are wrong without a warning (chapter *MAML from first principles* shows the trap). Second derivatives of
weight normalisation, and of embeddings that scale by frequency, are wrong even without ``vmap``, and fused attention
has none on a CPU. Here they are plain arithmetic, which torch differentiates rightly any number of times, and a mode
puts that in their place where a learner's networks may need it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mlcore.nets.norms import transformed

# Of torch.nn's layers, those that call what is wrong.
_WRONG = (
    nn.LayerNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.modules.batchnorm._BatchNorm,  # in a learner that keeps its network as it is
    nn.MultiheadAttention,
    nn.Hardsigmoid,
    nn.RNNBase,
    nn.utils.parametrizations._WeightNorm,
)


def right_derivatives(module: nn.Module) -> AbstractContextManager:
    """A context in which all that ``module`` computes has right derivatives; none where its layers' are right anyway.

    A class from outside of torch and this package may call any function in its forward pass. The context costs a
    microsecond or two for each call, so networks of other layers of torch, and of ours, do without.
    """
    return _Written() if any(map(_may_be_wrong, module.modules())) else nullcontext()


def _may_be_wrong(module: nn.Module) -> bool:
    origin = type(module).__module__
    if origin.startswith("mlcore."):
        return False
    if isinstance(module, nn.Embedding) and (module.padding_idx is not None or module.scale_grad_by_freq):
        return True
    return isinstance(module, _WRONG) or not origin.startswith("torch.nn.")


class _Written(TorchFunctionMode):
    """Within it, calls of the functions in ``_INSTEAD`` are answered by plain arithmetic."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        instead = _INSTEAD.get(func) or func
        return instead(*args, **(kwargs or {}))


def normalised(x: Tensor, over: tuple[int, ...], weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """(x - μ) / √(σ² + ε) · weight + bias, with mean and variance over some dimensions."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))  # sums want more digits than bfloat16 has
    centred = wide - wide.mean(over, keepdim=True)
    y = centred * torch.rsqrt(centred.square().mean(over, keepdim=True) + eps)
    y = y if weight is None else y * weight
    return (y if bias is None else y + bias).to(x.dtype)


def layer_norm(
    x: Tensor,
    shape: list[int] | tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    _cudnn: bool = True,
) -> Tensor:
    """``F.layer_norm`` over the last dimensions."""
    return normalised(x, tuple(range(-len(shape), 0)), weight, bias, eps)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``F.scaled_dot_product_attention``, softmax(QKᵀ / √d) V: [..., n, d] attends to [..., m, d].

    A query that may attend to nothing gets zeros, as torch's.
    """
    if enable_gqa:
        key, value = (t.repeat_interleave(query.shape[-3] // t.shape[-3], -3) for t in (key, value))
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        allowed = attn_mask if attn_mask.dtype == torch.bool else attn_mask > -torch.inf
        scores = scores if attn_mask.dtype == torch.bool else scores + attn_mask.where(allowed, 0)
        # A finite number: -inf in a whole row would leave it, and its gradient, no number.
        scores = scores.where(allowed, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).where(allowed, 0)
    else:
        weights = scores.softmax(-1)
    return F.dropout(weights, dropout_p) @ value


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if running_mean is not None or not training:  # constants; or averages to write to, which vmap refuses
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return normalised(x, (0, *range(2, x.dim())), _by_channel(weight, x), _by_channel(bias, x), eps)


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if running_mean is not None or not use_input_stats:
        return F.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return normalised(x, tuple(range(2, x.dim())), _by_channel(weight, x), _by_channel(bias, x), eps)


def _by_channel(vector: Tensor | None, x: Tensor) -> Tensor | None:
    return None if vector is None else vector.view(-1, *[1] * (x.dim() - 2))


def _embedding(
    x: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    z = F.embedding(x, weight, None, max_norm, norm_type, False, sparse)
    constant = z.detach()
    if scale_grad_by_freq:  # the gradient of each row is divided by the row's occurrences
        ids = x.flatten()
        count = weight.new_zeros(len(weight)).scatter_add(0, ids, weight.new_ones(len(ids)))
        z = constant + (z - constant) / count[x][..., None]
    if padding_idx is not None:
        z = z.where((x != padding_idx % len(weight))[..., None], constant)
    return z


def _adaptive_avg_pool2d(x: Tensor, size: Any) -> Tensor:
    # The same mean, but torch's strides afterwards have no batching rule where channels come last.
    return x.mean((-2, -1), keepdim=True) if size in (1, (1, 1), [1, 1]) else F.adaptive_avg_pool2d(x, size)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    over = [d for d in range(v.dim()) if d != dim]  # all of them for -1
    return v * (g / v.square().sum(over, keepdim=True).sqrt())


def _without_rule(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which says that vmap is to blame for what torch says in many ways."""

    def attempt(*args: Any, **settings: Any) -> Any:
        try:
            return function(*args, **settings)
        except RuntimeError as error:
            if not transformed():
                raise
            raise RuntimeError(f"vmap has no rule for torch.{function.__name__}") from error

    return attempt


def _heads(*args: Any, need_weights: bool = True, **settings: Any) -> tuple[Tensor, Tensor | None]:
    # With weights torch's attention is two matrix products already.
    outputs, weights = F.multi_head_attention_forward(*args, need_weights=True, **settings)
    return outputs, weights if need_weights else None


_INSTEAD: dict[Any, Callable[..., Any]] = {
    F.layer_norm: layer_norm,
    torch.layer_norm: layer_norm,
    F.batch_norm: _batch_norm,
    torch.batch_norm: lambda x, weight, bias, mean, var, training, momentum, eps, _cudnn: _batch_norm(
        x, mean, var, weight, bias, training, momentum, eps
    ),
    F.instance_norm: _instance_norm,
    torch.instance_norm: lambda x, weight, bias, mean, var, own, momentum, eps, _cudnn: _instance_norm(
        x, mean, var, weight, bias, own, momentum, eps
    ),
    F.embedding: _embedding,
    torch.embedding: lambda weight, x, padding_idx=-1, scale_grad_by_freq=False, sparse=False: _embedding(
        x, weight, None if padding_idx < 0 else padding_idx, scale_grad_by_freq=scale_grad_by_freq, sparse=sparse
    ),
    F.scaled_dot_product_attention: attention,
    F.multi_head_attention_forward: _heads,
    F.adaptive_avg_pool2d: _adaptive_avg_pool2d,
    F.hardsigmoid: lambda x, inplace=False: F.relu6(x + 3) / 6,  # torch's has no second derivative
    torch._weight_norm: _weight_norm,  # pyright: ignore[reportPrivateImportUsage]
    **{recurrent: _without_rule(recurrent) for recurrent in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)},
}
