"""Batch normalisation that survives being differentiated twice, and whose statistics a caller can choose.

``nn.BatchNorm2d`` under ``torch.vmap`` gives wrong second derivatives without a warning, so batch normalisation is a
layer of our own here (chapter *MAML from first principles* shows the trap). It also lets a caller name where its
statistics come from, which moves published accuracies by tens of points (chapter *MAML on Omniglot*).
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from mlcore.nets.batch_norm_kernel import batch_norm

BatchNormPolicy = Literal["transductive", "episode", "support", "running", "one_query"]
"""Whose statistics normalise the queries of a task; see :func:`answer`."""

Source = Literal["batch", "running"] | int | None
Statistics = dict["BatchNorm", tuple[Tensor, Tensor]]

# Numbers in one task's layer from which our derivatives of the kernel outweigh what calling them costs.
_LARGE = 2**15
# Where statistics come from within statistics_from, and those that layers have seen there.
_current: ContextVar[tuple[Source, Statistics]] = ContextVar("statistics")


@contextmanager
def statistics_from(source: Source) -> Iterator[Statistics]:
    """Within the block every batch normalisation takes its statistics from ``source``.

    Args:
        source: ``"batch"``, all rows of the input; an integer k, its first k rows; ``"running"``, the averages kept in
            the buffers; ``None``, as torch does: the batch's in training mode, which also updates the buffers, and the
            buffers' in evaluation mode.

    Gives the mean and the unbiased variance that each layer saw last, where they were a batch's.
    """
    seen: Statistics = {}
    token = _current.set((source, seen))
    try:
        yield seen
    finally:
        _current.reset(token)


def source_now() -> Source:
    """Where the block at hand takes its statistics from; outside of any, ``None``."""
    return _current.get((None, {}))[0]


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) over [n, features, ...], with derivatives that we checked.

    Outside of :func:`statistics_from` it does what torch's does. There, and for running averages, torch's own kernel
    does the work: constants as statistics leave nothing to get wrong, and the buffers' update is refused under
    ``vmap``. Elsewhere it is plain arithmetic, or :func:`mlcore.nets.batch_norm_kernel.batch_norm` in large layers and
    where no transform of ``torch.func`` is at work.

    Derived in: MAML on Omniglot, :eq:`eq-batch-norm`.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x: Tensor) -> Tensor:
        source, seen = _current.get((None, {}))
        if source is None and self.training and transformed():
            source = "batch"  # a transform may not write to the averages
        if source is None or source == "running":
            update = self.training and source is None
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, update, self.momentum, self.eps
            )
        rows = x if source == "batch" else x[:source]
        count = rows.numel() // rows.shape[1]
        small = x.numel() < _LARGE
        if source == "batch" and not (small and transformed()):
            y, mean, var = batch_norm(x, self.weight, self.bias, self.eps, by_torch=small)
        else:
            over, shape = (0, *range(2, x.dim())), (1, -1) + (1,) * (x.dim() - 2)
            x, rows = x.to(self.weight.dtype), rows.to(self.weight.dtype)  # sums want more digits than bfloat16 has
            mean = rows.mean(over)
            centred = x - mean.view(shape)
            var = centred[: len(rows)].square().mean(over)  # torch.var_mean takes several times as long on a CPU
            y = centred * (self.weight * torch.rsqrt(var + self.eps)).view(shape) + self.bias.view(shape)
        seen[self] = (mean.detach(), var.detach() * (count / max(count - 1, 1)))
        return y

    @torch.no_grad()
    def update_running(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics towards a batch's mean and (unbiased) variance."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        state_dict.pop(f"{prefix}num_batches_tracked", None)  # of torch's layer: we keep no such count
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def transformed() -> bool:
    """Whether this runs within a transform of ``torch.func``, such as ``vmap``; torch has no public way to ask."""
    return torch._C._are_functorch_transforms_active()


def batch_norms(net: nn.Module) -> list[BatchNorm]:
    """The batch normalisation layers of a network."""
    return [module for module in net.modules() if isinstance(module, BatchNorm)]


def check_policy(batch_norm: str) -> None:
    """Refuse a policy that does not exist."""
    if batch_norm not in get_args(BatchNormPolicy):
        raise ValueError(f"batch_norm must be one of {', '.join(get_args(BatchNormPolicy))}, not {batch_norm!r}.")


def learning_source(policy: BatchNormPolicy) -> Source:
    """Where the statistics come from while a support set is learned: from itself, but for ``"running"``."""
    return "running" if policy == "running" else "batch"


def answer(
    policy: BatchNormPolicy, outputs_of: Callable[[Any], Any], support_x: Any, query_x: Any
) -> tuple[Any, Statistics]:
    """Outputs for the queries of one task, normalised as ``policy`` says, and the statistics seen on the way.

    Args:
        policy: ``"transductive"``: by the query batch's own statistics, as the MAML code does; ``"episode"``: by those
            of support set and queries together, as Prototypical Networks train; ``"support"``: by the support set's;
            ``"running"``: by averages from meta-training; ``"one_query"``: by those of the support set plus the one
            query at hand, as Reptile's code does.
        outputs_of: the network, adapted or not: inputs [n, *input] to outputs [n, ...].
        support_x: inputs [n_support, *input].
        query_x: inputs [n_query, *input].

    Derived in: MAML on Omniglot, :eq:`eq-batch-norm`.
    """
    if policy in ("transductive", "running"):
        with statistics_from(learning_source(policy)) as seen:
            return outputs_of(query_x), seen
    n_support, n_query = (len(tree_leaves(x)[0]) for x in (support_x, query_x))

    def behind_support(queries: slice) -> Any:
        together = tree_map(lambda s, q: torch.cat([s, q[queries]]), support_x, query_x)
        return tree_map(lambda outputs: outputs[n_support:], outputs_of(together))

    if policy == "one_query":
        with statistics_from("batch") as seen:
            each = [behind_support(slice(i, i + 1)) for i in range(n_query)]
        return tree_map(lambda *outputs: torch.cat(outputs), *each), seen
    with statistics_from(n_support if policy == "support" else "batch") as seen:
        return behind_support(slice(None)), seen


def written_out(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with torch's batch normalisation replaced by ours, weights and statistics kept.

    It takes over the state dict of the original network. :func:`as_torch` is the way back.

    Raises:
        ValueError: a batch normalisation without scale and shift, without running averages, or with a forward pass of
            its own; a lazy layer that has seen no input yet; weights that a hook computes.
    """
    for name, module in net.named_modules():
        layer = f"the layer {name!r}, {type(module).__name__}," if name else f"the network, {type(module).__name__},"
        if any(map(nn.parameter.is_lazy, module.parameters(recurse=False))):
            raise ValueError(f"{layer} has no weights yet; call the network on a batch of inputs once before.")
        if any(isinstance(value, Tensor) and value.grad_fn is not None for value in vars(module).values()):
            raise ValueError(
                f"{layer} has weights that a hook computes, which cannot be copied; use torch.nn.utils.parametrizations"
                ", such as parametrizations.weight_norm, or make a pruning permanent."
            )
    return _replaced(copy.deepcopy(net), _ours, {})


def as_torch(net: nn.Module) -> nn.Module:
    """A copy of ``net`` with our batch normalisation replaced by torch's, to take away and use without this package.

    Its state dict is one of the network that :func:`written_out` was given.
    """
    return _replaced(copy.deepcopy(net), _torchs, {})


def _replaced(
    module: nn.Module, change: Callable[[nn.Module], nn.Module | None], done: dict[nn.Module, nn.Module]
) -> nn.Module:
    # A layer that a network uses in two places stays one layer.
    if module not in done:
        done[module] = change(module) or module
        for name, child in done[module]._modules.items():
            if child is not None:
                setattr(done[module], name, _replaced(child, change, done))
    return done[module]


class _AnyBatchNorm(nn.BatchNorm2d):
    """torch's batch normalisation for inputs of any rank."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class _BatchNormAct(BatchNorm):
    """With a dropout and an activation after it in one layer, as timm has them."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class _AnyBatchNormAct(_AnyBatchNorm):
    """The same of torch's."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(input)))


def _ours(module: nn.Module) -> nn.Module | None:
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm):
        return None
    if module.momentum is None or not module.affine or not module.track_running_stats:
        raise ValueError(f"{module} is not supported; use affine=True, track_running_stats=True and a momentum.")
    acts = hasattr(module, "drop") and hasattr(module, "act")
    if not acts and type(module).forward not in (nn.BatchNorm2d.forward, nn.SyncBatchNorm.forward):
        raise ValueError(
            f"{type(module).__name__} is a batch normalisation with a forward pass of its own, whose statistics nobody "
            "can choose; use nn.BatchNorm2d and a layer after it."
        )
    kind = _BatchNormAct if acts else BatchNorm
    return _same_numbers(module, kind(module.num_features, eps=module.eps, momentum=module.momentum))


def _torchs(module: nn.Module) -> nn.Module | None:
    if not isinstance(module, BatchNorm):
        return None
    kind = _AnyBatchNormAct if isinstance(module, _BatchNormAct) else _AnyBatchNorm
    return _same_numbers(module, kind(len(module.weight), eps=module.eps, momentum=module.momentum))


def _same_numbers(old: Any, new: Any) -> nn.Module:
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    for name, child in old.named_children():
        setattr(new, name, child)
    return new.train(old.training)
