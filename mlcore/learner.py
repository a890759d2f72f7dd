"""The contract: a learning algorithm begins somewhere, updates on data, and predicts.

Meta-learning learns the first two. How tasks are mapped is in :mod:`mlcore.mapping`; whose statistics normalise, in
:mod:`mlcore.nets.norms`.
"""

import copy
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mlcore.checks import check_task, explained
from mlcore.mapping import Mapping, check_mapping, first_tensor, map_or_loop, tasks_at_once
from mlcore.nets.derivatives import right_derivatives
from mlcore.nets.norms import (
    BatchNormPolicy,
    Statistics,
    answer,
    batch_norms,
    check_policy,
    learning_source,
    statistics_from,
)
from mlcore.objective import Objective
from mlcore.task import Examples, Task

if TYPE_CHECKING:
    from mlcore.adapted import AdaptedModel


class Judged(NamedTuple):
    """What came of a batch of tasks."""

    outputs: Any  # [tasks, n_query, ...], whatever the learner predicts
    losses: Tensor  # [tasks]
    scores: dict[str, Tensor]  # [tasks, ...] by metric


class Learner(nn.Module):
    """A learning algorithm with something to meta-learn: the parameters of this module.

    A method writes :meth:`begin`, :meth:`update` and :meth:`predict` for *one* task; :meth:`judged` maps them over a
    batch of tasks.

    Args:
        mapping: how tasks are mapped. ``"vmap"`` computes all tasks at once, an integer in chunks of that many tasks,
            ``"loop"`` one after another; all give the same gradients, and :meth:`meta_backward` holds the memory of one
            chunk. ``"auto"`` is ``"vmap"``, but for convolutions on a CPU chunks of up to 16 tasks, since more at once
            only fall out of its cache; and a loop, its images laid out channels last, where a task fills the processor
            by itself. It is a loop, too, where ``vmap`` cannot.
        bfloat16: compute networks in bfloat16 during training, which some processors do faster. Weights, losses,
            statistics and evaluation stay in full precision.

    Derived in: Learning to learn, :eq:`eq-learner`.
    """

    batch_norm: BatchNormPolicy = "transductive"
    """The policy of the method's paper, which :func:`mlcore.evaluate` follows unless told otherwise."""
    reads_order = False
    """Whether the order of a support set may change what is learned from it."""
    embeds_each_input_alone = False
    """Whether an input has one embedding in all tasks, where running statistics normalise."""
    only_in_training: tuple[str, ...] = ()
    """How the names of parameters begin that no task with a support set needs: weights that ship leave them out."""

    def __init__(self, *, mapping: Mapping = "auto", bfloat16: bool = False) -> None:
        super().__init__()
        check_mapping(mapping)
        self.mapping: Mapping = mapping
        self.low_precision = bfloat16  # nn.Module.bfloat16 is a method

    # What a method writes, for one task.

    def begin(self) -> Any:
        """Before any data: initial weights, an empty memory, a prior. Nothing by default."""
        return ()

    def update(self, state: Any, data: Any) -> Any:
        """See some data of a task: a gradient step, a write, class means. Returns the new state."""
        raise NotImplementedError(f"{type(self).__name__} must define update(state, data).")

    def predict(self, state: Any, x: Any) -> Any:
        """Outputs for inputs x [n, *input] of a task: [n, *output], or several such tensors."""
        raise NotImplementedError(f"{type(self).__name__} must define predict(state, x).")

    def stream(self, support: Any) -> Iterable[Any]:
        """The portions in which a support set is seen: all of it at once by default."""
        return (support,)

    def adapt(self, support: Any) -> Any:
        """Learn from one support set: :meth:`update` folded over :meth:`stream`, from :meth:`begin` on."""
        state = self.begin()
        for data in self.stream(support):
            state = self.update(state, data)
        return state

    def loss(self, state: Any, outputs: Any, query: Any, objective: Objective) -> Tensor:
        """What meta-training lowers, for one task: the objective's loss on the queries."""
        return objective.loss(outputs, query.y)

    def leave(self, state: Any) -> tuple[Tensor, ...]:
        """What a task leaves for the next meta-batch; :meth:`receive` is handed the means over tasks."""
        return ()

    def receive(self, *means: Tensor) -> None:
        """Take note of a meta-update: of what :meth:`leave` gave for each task, averaged."""

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """What is computed for a whole batch before its tasks are taken singly; nothing by default."""
        return task

    # What is made of it, for a batch of tasks.

    def forward(self, task: Task, *, batch_norm: BatchNormPolicy | None = None) -> Any:
        """Adapt to every task of a batch and predict its queries: outputs [tasks, n_query, ...].

        Args:
            task: a batch of tasks.
            batch_norm: whose statistics normalise the queries, see :func:`mlcore.nets.norms.answer`; by default the
                learner's own :attr:`batch_norm`, and in training mode that of meta-training.
        """
        return self._mapped(task, None, batch_norm or self.policy_now)[0]

    def judged(
        self,
        task: Task,
        objective: Objective,
        *,
        batch_norm: BatchNormPolicy | None = None,
        prepared: bool = False,
    ) -> Judged:
        """Outputs as from :meth:`forward`, and each task's loss and scores.

        Args:
            task, batch_norm: as for :meth:`forward`.
            objective: what is good, usually ``tasks.objective``.
            prepared: the task is what :meth:`prepare` would make of it.
        """
        return Judged(*self._mapped(task, objective, batch_norm or self.policy_now, prepared=prepared)[:3])

    def meta_loss(self, task: Task, objective: Objective) -> Tensor:
        """The meta-objective on a batch: the mean loss after adaptation, a scalar to differentiate."""
        return self.judged(task, objective).losses.mean()

    def meta_backward(self, task: Task, objective: Objective) -> Judged:
        """Accumulate the meta-gradient in ``.grad``, and move what outlives a meta-update.

        Only the tasks that are mapped at once are held in memory: the gradient of a mean is the mean of gradients.
        """
        check_task(task)
        judged, remains = [], []
        for part in task.split(self.tasks_at_once(task)):
            *result, statistics, left = self._mapped(part, objective, self.training_policy)
            if result[1].requires_grad:
                (result[1].sum() / task.count).backward()
            judged.append(tree_map(Tensor.detach, tuple(result)))
            remains.append(tree_map(Tensor.detach, (statistics, left)))
        statistics, left = tree_map(lambda *parts: torch.cat(parts).mean(0), *remains)
        if self.training:
            # Without any to move, as where averages are frozen, there are none.
            for layer, mean, var in zip(batch_norms(self), statistics[::2], statistics[1::2], strict=False):
                layer.update_running(mean, var)
            self.receive(*left)
        return Judged(*tree_map(lambda *parts: torch.cat(parts), *judged))

    @property
    def training_policy(self) -> BatchNormPolicy:
        """Whose statistics normalise in meta-training: the query batch's own, but where averages are frozen."""
        return "running" if self.batch_norm == "running" else "transductive"

    @property
    def policy_now(self) -> BatchNormPolicy:
        """The policy of the mode at hand, training or evaluation."""
        return self.training_policy if self.training else self.batch_norm

    def tasks_at_once(self, task: Task) -> int:
        """How many tasks are mapped at once."""
        return tasks_at_once(self.mapping, self, task)

    def answer(self, policy: BatchNormPolicy, state: Any, support: Any, query_x: Any) -> tuple[Any, Statistics]:
        """Outputs for the queries of one task, normalised as ``policy`` says, and the statistics that layers saw."""
        # Without batch normalisation all policies are one.
        policy = policy if batch_norms(self) else "running"
        return answer(policy, lambda x: self.predict(state, x), getattr(support, "x", ()), query_x)

    def _mapped(
        self, task: Task, objective: Objective | None, policy: BatchNormPolicy, *, prepared: bool = False
    ) -> tuple:
        """Outputs, losses, scores, statistics that layers saw on the queries, and what tasks leave."""
        check_policy(policy)
        check_task(task)
        layers = batch_norms(self)

        def one(support: Any, query: Any) -> tuple:
            with statistics_from(learning_source(policy)):
                state = self.adapt(support)
            outputs, seen = self.answer(policy, state, support, query.x)
            loss, scores = (), {}
            if objective is not None:
                with statistics_from(learning_source(policy)):
                    loss = self.loss(state, outputs, query, objective)
                constants = tree_map(Tensor.detach, outputs)
                scores = {name: metric.of(constants, query.y) for name, metric in objective.metrics.items()}
            # Statistics leave the mapped function as outputs: vmap forbids writing to a shared buffer inside.
            # A layer that the queries did not pass stays where it is.
            running = ((layer.running_mean, layer.running_var) for layer in layers)
            both = (seen.get(layer, stays) for layer, stays in zip(layers, running, strict=True)) if seen else ()
            statistics = tuple(part for pair in both for part in pair)
            return outputs, loss, scores, statistics, self.leave(state)

        with self.explained(task), self.precision(first_tensor(task).device):
            task = task if prepared else self.prepare(task, policy)
            with right_derivatives(self):
                results, failed = map_or_loop(one, tuple(task), self.tasks_at_once(task), self.mapping)
        if failed:
            self.mapping = "loop"
        return results

    # For users.

    def fit(self, support_x: Any, names: Any, *, batch_norm: BatchNormPolicy | None = None) -> "AdaptedModel":
        """Learn one labelled support set, as in use: a model that names new inputs, each by itself.

        ``learner.fit(photos, ["cat", "dog", "cat"]).predict(more_photos)``. It is adapted once, in evaluation mode.

        Args:
            support_x: labelled inputs [n, *input]; ``uint8`` images become floats in [0, 1]. A tuple or dict of tensors
                where an input has several parts.
            names: their classes, integers or strings, in a list, an array or a tensor; or for regression the targets
                [n, *output], floats.
            batch_norm: as for :meth:`forward`; where the paper's policy lets queries see each other, ``"support"``.
        """
        from mlcore.adapted import fitted  # which needs this module

        return fitted(self, support_x, names, batch_norm)

    def replace(self, **settings: Any) -> Self:
        """The same learner, sharing its weights, with other settings, such as ``test_steps=10``."""
        for name in settings:
            if name.startswith("_") or name not in self.__dict__:
                raise ValueError(f"{type(self).__name__} has no setting {name!r} to replace.")
        other = copy.copy(self)
        other.__dict__.update(settings)
        return other

    def precision(self, device: torch.device) -> AbstractContextManager:
        """The context that networks are computed in."""
        if not (self.low_precision and self.training):
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)

    def explained(self, task: Task) -> AbstractContextManager[None]:
        """Within the block, torch's error about inputs that do not fit the network comes in one sentence.

        Only after the error: a network may well reshape or convert its input before the first layer.
        """
        net = getattr(self, "net", None)
        if isinstance(net, nn.Module) and isinstance(task.query, Examples) and isinstance(task.query.x, Tensor):
            return explained(net, task.query.x[0])
        return nullcontext()


@contextmanager
def in_evaluation_mode(learner: nn.Module) -> Iterator[None]:
    """Within the block the learner is in evaluation mode; after it, as it was."""
    was_training = learner.training
    learner.eval()
    try:
        yield
    finally:
        learner.train(was_training)
