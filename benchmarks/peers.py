"""MAML's meta-gradient as other libraries compute it, on a network and tasks that they all share.

Each function takes a plain torch network and an :class:`Experiment` and returns a step: a function of a batch of tasks
that leaves the meta-gradient, the mean over tasks, in ``.grad`` of the network it returns beside it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import higher
import metalearn.algorithms
import metalearn.inner_optimizers
import metalearn.loss
import torch
import torch.nn.functional as F
import torchopt
from easyfsl.samplers import TaskSampler
from metalearn.model_wrappers.MAMLWrapper import MAML_Model
from metalearn.nn_models.basic_layers.BatchNormalization import BatchNorm
from torch import Tensor, nn

from mlcore import MAML, Objective, Task, classification

Step = Callable[[Task], object]


@dataclass(frozen=True)
class Experiment:
    """What is common to all libraries in one cell of the table."""

    inner_lr: float
    inner_steps: int
    first_order: bool
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    objective: Objective = classification  # ours, of the same loss


def mlcore_step(net: nn.Module, experiment: Experiment) -> tuple[Step, nn.Module]:
    """Ours, with its own choice of tasks at once."""
    learner = MAML(
        net,
        inner_lr=experiment.inner_lr,
        inner_steps=experiment.inner_steps,
        first_order=experiment.first_order,
        loss_fn=experiment.objective.loss,
    )
    return lambda batch: learner.meta_backward(batch, experiment.objective), learner.net


def higher_step(net: nn.Module, experiment: Experiment) -> tuple[Step, nn.Module]:
    """higher (Grefenstette et al., 2019): one task after another, through a differentiable optimiser."""
    net = copy.deepcopy(net)
    inner = torch.optim.SGD(net.parameters(), lr=experiment.inner_lr)

    def step(batch: Task) -> None:
        for support_x, support_y, query_x, query_y in zip(*batch.support, *batch.query, strict=True):
            with higher.innerloop_ctx(
                net, inner, copy_initial_weights=False, track_higher_grads=not experiment.first_order
            ) as (fast, descent):
                for _ in range(experiment.inner_steps):
                    descent.step(experiment.loss_fn(fast(support_x), support_y))
                loss = experiment.loss_fn(fast(query_x), query_y) / batch.count
                if not experiment.first_order:
                    loss.backward()
                    continue
                for p, gradient in zip(
                    net.parameters(), torch.autograd.grad(loss, list(fast.parameters())), strict=True
                ):
                    p.grad = gradient if p.grad is None else p.grad + gradient

    return step, net


def torchopt_step(net: nn.Module, experiment: Experiment) -> tuple[Step, nn.Module] | None:
    """TorchOpt (Ren et al., 2023): one task after another; it has no first-order form."""
    if experiment.first_order:
        return None
    net = copy.deepcopy(net)
    start = dict(net.named_parameters())
    inner = torchopt.MetaSGD(net, lr=experiment.inner_lr)
    weights, state = (torchopt.extract_state_dict(part, by="reference") for part in (net, inner))

    def step(batch: Task) -> None:
        for support_x, support_y, query_x, query_y in zip(*batch.support, *batch.query, strict=True):
            for _ in range(experiment.inner_steps):
                inner.step(experiment.loss_fn(net(support_x), support_y))
            (experiment.loss_fn(net(query_x), query_y) / batch.count).backward()
            torchopt.recover_state_dict(net, weights)
            torchopt.recover_state_dict(inner, state)

    return step, _Holding(start)


class _Holding(nn.Module):
    """The parameters that gradients were left in, in the network's order."""

    def __init__(self, params: dict[str, Tensor]) -> None:
        super().__init__()
        self.params = nn.ParameterList(params.values())


class _Loss(metalearn.loss.BaseLoss):
    """A loss in that library's form; the metric it asks for besides is the loss again."""

    def __init__(self, loss_fn: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.loss_fn = loss_fn

    def forward(self, out_dict: dict, targets: dict, model_states: object = None, **_: object) -> tuple[Tensor, Tensor]:
        loss = self.loss_fn(out_dict["logits"], targets["labels"])
        return loss, loss.detach()


class _TakingKeywords(nn.Module):
    """That library passes keywords to every part of a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, **_: object) -> Tensor:
        return self.net(x)


def _with_its_norms(net: nn.Module) -> nn.Module:
    """Its own layer in place of torch's, without running averages; its converter asks that layer for too much."""
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = BatchNorm(child.num_features, track_running_stats=False)
            norm.weight, norm.bias = child.weight, child.bias
            setattr(net, name, norm)
        else:
            _with_its_norms(child)
    return net


def metalearn_step(net: nn.Module, experiment: Experiment, chunk_size: int) -> tuple[Step, nn.Module]:
    """parallel-metalearn: ``vmap`` over chunks of tasks; a step of an outer optimiser and a metric are part of it."""
    model = MAML_Model(_TakingKeywords(_with_its_norms(copy.deepcopy(net))), _TakingKeywords(nn.Identity()))
    inner = metalearn.inner_optimizers.InnerSGD(
        model.get_fast_weights(), experiment.first_order, inner_lr=experiment.inner_lr, learn_lr=False
    )
    maml = metalearn.algorithms.MAML(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
        inner_optimizer=inner.to(next(net.parameters()).dtype),
        support_loss_fn=_Loss(experiment.loss_fn),
        inner_steps=experiment.inner_steps,
        chunk_size=chunk_size,
        device=torch.device("cpu"),
    )

    def step(batch: Task) -> None:
        labels = [{"labels": half.y} for half in batch]
        maml.step(iter([(batch.support.x, labels[0], batch.query.x, labels[1])]))

    return step, model


class _TakingASource:
    """What torch's Sampler was when easyfsl was written: its constructor took a data source."""

    def __init__(self, data_source: object = None) -> None:
        pass


class EasySampler(TaskSampler, _TakingASource):
    """easyfsl's sampler of episodes, on today's torch."""
