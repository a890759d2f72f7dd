"""The one sentence of few-shot learning, as a class: adapt on the support set, predict on the query set."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore.nets import batch_norms, statistics_from, with_written_out_norms
from mlcore.tasks import Task

LossFn = Callable[[Tensor, Tensor], Tensor]
BatchNormPolicy = Literal["transductive", "support", "running", "one_query"]
Mapping = Literal["auto", "vmap", "loop"] | int

# Of convolutions on a CPU, measured: numbers in a task's first layer from which a loop is fastest, the most that are
# worth mapping at once, and the most tasks.
_ALONE, _TOGETHER, _TASKS = 10**6, 2**23, 16


class Learner(nn.Module):
    """A learning algorithm with something to meta-learn. A method overrides :meth:`adapt` and :meth:`predict`.

    Both see *one* task; :meth:`forward` maps them over a batch of tasks. Targets reach ``adapt`` as rows,
    [n_support, ways] one-hot or [n_support, *output]: a number of classes is then a shape, and regression is the same
    code. Called by hand, ``adapt`` takes class labels [n_support] as well.

    Args:
        net: the network; torch's batch normalisation is replaced by ours (see :mod:`mlcore.nets`).
        loss_fn: maps outputs and targets, both rows, to a mean loss: ``F.cross_entropy`` (default) or ``F.mse_loss``.
        mapping: how tasks are mapped. ``"vmap"`` computes all tasks at once, an integer in chunks of that many tasks,
            ``"loop"`` one after another; all give the same gradients, and :meth:`meta_backward` holds the memory of one
            chunk. ``"auto"`` is ``"vmap"``, but for convolutions on a CPU chunks of up to 16 tasks, fewer where their
            images are large or many, since more at once only fall out of its cache; and a loop where a task fills the
            processor by itself.
        bfloat16: compute the network in bfloat16 during training, which some processors do faster. Weights, losses,
            statistics and evaluation stay in full precision.

    Derived in: Learning to learn, :eq:`eq-learner`.
    """

    batch_norm: BatchNormPolicy = "transductive"
    """The policy of the method's paper, which :func:`mlcore.evaluate` follows unless told otherwise."""

    def __init__(
        self,
        net: nn.Module,
        *,
        loss_fn: LossFn = F.cross_entropy,
        mapping: Mapping = "auto",
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        if mapping not in ("auto", "vmap", "loop") and not (isinstance(mapping, int) and mapping > 0):
            raise ValueError(f"mapping must be 'auto', 'vmap', 'loop' or a number of tasks, not {mapping!r}.")
        self.net = with_written_out_norms(net)
        for layer in batch_norms(self.net):
            layer.source = "batch"
        self.loss_fn, self.mapping, self.bfloat16 = loss_fn, mapping, bfloat16
        self._seen_statistics: list[tuple[Tensor, ...]] | None = None  # of a meta-batch's parts, while it is computed

    def adapt(self, support_x: Tensor, support_y: Tensor) -> Any:
        """Learn from one support set. Returns whatever was learned: fast weights, prototypes, …"""
        raise NotImplementedError(f"{type(self).__name__} must define adapt(support_x, support_y).")

    def predict(self, adapted: Any, query_x: Tensor) -> Tensor:
        """Outputs [n_query, *output] of one task, given what ``adapt`` returned.

        Called by hand, a network with batch normalisation of its own goes by the statistics of the queries it is given
        together; :meth:`label` names them one by one.
        """
        raise NotImplementedError(f"{type(self).__name__} must define predict(adapted, query_x).")

    def forward(self, batch: Task, *, batch_norm: BatchNormPolicy | None = None) -> Tensor:
        """Adapt to every task of a batch and predict its queries: outputs [tasks, n_query, *output].

        Args:
            batch: tasks as :class:`mlcore.Task` holds them.
            batch_norm: whose statistics normalise the queries. ``"transductive"``: the query batch's own, as the MAML
                code does; ``"support"``: the support set's; ``"running"``: averages from meta-training, in adaptation
                too; ``"one_query"``: those of the support set plus the one query at hand, as Reptile's code does. By
                default the learner's own ``batch_norm``.
        """
        return self.run(batch, batch_norm or self.batch_norm)[0]

    def label(
        self,
        support_x: Tensor,
        names: Sequence[str | int],
        query_x: Tensor,
        *,
        batch_norm: BatchNormPolicy | None = None,
    ) -> list[str | int]:
        """Name new examples after one labelled support set, as in use: in evaluation mode, each query by itself.

        Args:
            support_x: labelled examples [n_support, *input].
            names: their classes.
            query_x: examples to name [n_query, *input].
            batch_norm: as for :meth:`forward`; where the paper's policy lets queries see each other, ``"support"``.
        """
        classes = sorted(set(names))
        support_y = torch.tensor([classes.index(name) for name in names])
        unknown = torch.zeros(len(query_x), dtype=torch.int64)
        batch = Task(*(part[None].to(query_x.device) for part in (support_x, support_y, query_x, unknown)))
        policy = batch_norm or ("support" if self.batch_norm == "transductive" else self.batch_norm)
        with torch.no_grad(), in_evaluation_mode(self):
            outputs = self(batch, batch_norm=policy)
        return [classes[position] for position in outputs[0].argmax(-1).tolist()]

    def run(
        self, batch: Task, batch_norm: BatchNormPolicy, keep: Callable[[Any], tuple[Tensor, ...]] = lambda adapted: ()
    ) -> tuple[Tensor, ...]:
        """:meth:`forward`, and what ``keep`` picks from each task's ``adapt``, stacked over tasks."""
        check_policy(batch_norm)
        check_task(batch)
        record = self.training and batch_norm == "transductive"

        def one_task(support_x: Tensor, targets: Tensor, query_x: Tensor) -> tuple[Tensor, ...]:
            with statistics_from(self.net, "running" if batch_norm == "running" else "batch"):
                adapted = self.adapt(support_x, targets)
            outputs = self._predict_with(batch_norm, adapted, support_x, query_x)
            # Statistics leave the mapped function as outputs: vmap forbids writing to a shared buffer inside.
            return *(part for layer in layers for part in layer.batch_statistics), outputs, *keep(adapted)

        layers = batch_norms(self.net) if record else []
        targets = self.targets(batch.support_y)
        with self.explained(batch.query_x[0]), self.precision(batch.query_x.device):
            results = self._map(one_task, batch.support_x, targets, batch.query_x)
        statistics, results = results[: 2 * len(layers)], results[2 * len(layers) :]
        if self._seen_statistics is None:
            self._update_running(statistics)
        else:
            self._seen_statistics.append(statistics)
        return results

    def _update_running(self, statistics: Sequence[Tensor]) -> None:
        """Move the running averages once, by the mean over all tasks: a mean and a variance of each layer."""
        for layer, mean, var in zip(batch_norms(self.net), statistics[::2], statistics[1::2], strict=False):
            layer.update_running(mean.mean(0), var.mean(0))

    def _predict_with(self, policy: BatchNormPolicy, adapted: Any, support_x: Tensor, query_x: Tensor) -> Tensor:
        n_support = len(support_x)
        if policy == "support":
            with statistics_from(self.net, n_support):
                return self.predict(adapted, torch.cat([support_x, query_x]))[n_support:]
        if policy == "one_query":

            def one_query(x: Tensor) -> Tensor:
                return self.predict(adapted, torch.cat([support_x, x[None]]))[n_support]

            with statistics_from(self.net, "batch"):
                return torch.vmap(one_query, randomness="different")(query_x)
        with statistics_from(self.net, "running" if policy == "running" else "batch"):
            return self.predict(adapted, query_x)

    def tasks_at_once(self, support_x: Tensor, query_x: Tensor) -> int:
        """How many tasks are mapped at once."""
        if self.mapping == "loop":
            return 1
        if isinstance(self.mapping, int):
            return self.mapping
        convolution = next((m for m in self.net.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)), None)
        if self.mapping == "vmap" or convolution is None or support_x.device.type != "cpu":
            return len(support_x)
        examples = support_x.shape[1] + query_x.shape[1]
        image = max(1, math.prod(support_x.shape[3:]) // math.prod(convolution.stride))
        task = examples * convolution.out_channels * image  # numbers in the first layer
        return 1 if task >= _ALONE else min(_TASKS, _TOGETHER // task)

    def _map(self, one_task: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        at_once = self.tasks_at_once(tensors[0], tensors[-1])
        if at_once > 1:
            return torch.vmap(one_task, randomness="different", chunk_size=at_once)(*tensors)
        return tuple(torch.stack(parts) for parts in zip(*map(one_task, *tensors), strict=True))

    def loss(self, batch: Task) -> Tensor:
        """The meta-objective on a batch: mean query loss after adaptation, a scalar to differentiate."""
        return self.loss_and_outputs(batch)[0]

    def loss_and_outputs(self, batch: Task) -> tuple[Tensor, Tensor]:
        """The meta-objective, and the outputs [tasks, n_query, *output] it was computed from."""
        outputs = self(batch)
        return self.query_loss(outputs, batch.query_y), outputs

    def query_loss(self, outputs: Tensor, query_y: Tensor) -> Tensor:
        """Mean loss of outputs [tasks, n_query, *output] against the queries' labels or targets."""
        return self.row_loss(outputs.flatten(0, 1), self.targets(query_y, ways=outputs.shape[-1]).flatten(0, 1))

    def row_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """``loss_fn`` on rows, after checking that they fit."""
        targets = self.rows(targets, ways=outputs.shape[-1])
        if outputs.shape != targets.shape:
            raise ValueError(
                f"the network gives {list(outputs.shape[1:])} outputs a row but the task needs "
                f"{list(targets.shape[1:])}; build it with outputs equal to the ways, or to the size of a target."
            )
        return self.loss_fn(outputs.to(torch.promote_types(outputs.dtype, targets.dtype)), targets)

    def meta_backward(self, batch: Task) -> tuple[Tensor, Tensor]:
        """Accumulate the meta-gradient in ``.grad``. Returns the loss and outputs, both detached.

        Only the tasks that are mapped at once are held in memory: the gradient of a mean is the mean of gradients.
        """
        tasks, losses, outputs = len(batch.support_x), [], []
        self._seen_statistics = []
        try:
            for part in batch.split(self.tasks_at_once(batch.support_x, batch.query_x)):
                loss, part_outputs = self.loss_and_outputs(part)
                loss = len(part.support_x) / tasks * loss
                loss.backward()
                losses.append(loss.detach())
                outputs.append(part_outputs.detach())
            self._update_running([torch.cat(parts) for parts in zip(*self._seen_statistics, strict=True)])
        finally:
            self._seen_statistics = None
        return torch.stack(losses).sum(), torch.cat(outputs)

    def precision(self, device: torch.device) -> AbstractContextManager:
        """The context that the network is computed in."""
        if not (self.bfloat16 and self.training):
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)

    @contextmanager
    def explained(self, x: Tensor) -> Iterator[None]:
        """Within the block, torch's error about examples x [n, *input] that do not fit comes in one sentence.

        Only after the error: a network may well reshape or convert its input before the first layer.
        """
        try:
            yield
        except RuntimeError:
            self.check_input(x)
            raise

    def check_input(self, x: Tensor) -> None:
        """Refuse examples [n, *input] that the first layer, by itself, cannot take."""
        with_weights = (m for m in self.net.modules() if next(m.parameters(recurse=False), None) is not None)
        first = next(with_weights, None)
        if not isinstance(first, nn.Conv2d | nn.Linear):
            return
        if x.dtype != (wanted := first.weight.dtype):
            raise TypeError(f"the examples are {x.dtype} but the network's weights {wanted}; convert: x.to({wanted}).")
        image = list(x.shape[1:])
        if isinstance(first, nn.Conv2d) and (len(image) != 3 or image[0] != first.in_channels):
            fix = "change the images or the network's in_channels"
            if len(image) == 2:
                fix = "add a channel: x.unsqueeze(-3)"
            elif image[-1] == first.in_channels:
                fix = "put channels first: x.movedim(-1, -3)"
            raise ValueError(
                f"an example has shape {image}, but the network's first layer needs images "
                f"[{first.in_channels} channel{'s' * (first.in_channels > 1)}, height, width]; {fix}."
            )

    def rows(self, y: Tensor, ways: int = 0) -> Tensor:
        """The class labels [n] of one task as one-hot rows; rows as they are."""
        if y.is_floating_point():
            return y
        present = sorted(set(y.tolist()))
        if present != list(range(len(present))):
            raise ValueError(f"labels must be 0 to ways - 1, each with an example, not {present}; see Learner.label.")
        return self.targets(y, ways)

    def targets(self, y: Tensor, ways: int = 0) -> Tensor:
        """Labels [..., n] as one-hot rows in the network's precision; regression targets as they are."""
        if y.is_floating_point():
            if self.loss_fn is F.cross_entropy:
                raise TypeError(
                    "targets are floats but loss_fn is cross_entropy; pass loss_fn=F.mse_loss for regression."
                )
            return y
        # Every class has support, so the largest label there counts the ways; queries may leave a class out.
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        return F.one_hot(y, max(ways, int(y.max()) + 1)).to(dtype)


@contextmanager
def in_evaluation_mode(learner: Learner) -> Iterator[None]:
    """Within the block the learner is in evaluation mode; after it, as it was."""
    was_training = learner.training
    learner.eval()
    try:
        yield
    finally:
        learner.train(was_training)


def check_policy(batch_norm: str) -> None:
    """Refuse a policy that does not exist."""
    if batch_norm not in get_args(BatchNormPolicy):
        raise ValueError(f"batch_norm must be one of {', '.join(get_args(BatchNormPolicy))}, not {batch_norm!r}.")


def check_task(batch: Task) -> None:
    """Refuse a batch whose tensors do not fit each other, in one sentence."""
    if not isinstance(batch, Task):
        raise TypeError(
            f"a learner is called on a Task, such as tasks.sample(4, seeded(0)), not {type(batch).__name__}."
        )
    tasks = len(batch.support_x)
    for name, tensor in batch._asdict().items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(tensor).__name__}.")
        if tensor.dim() < 2 or len(tensor) != tasks:
            raise ValueError(
                f"{name} has shape {list(tensor.shape)}, but must be [{tasks} tasks, examples, ...]; "
                "a single task needs a leading dimension of 1: x[None]."
            )
    for half in ("support", "query"):
        x, y = getattr(batch, f"{half}_x"), getattr(batch, f"{half}_y")
        if x.dim() < 3:
            raise ValueError(
                f"{half}_x has shape {list(x.shape)}, but must be [tasks, examples, *input]; "
                "a single task needs a leading dimension of 1: x[None]."
            )
        if x.shape[1] != y.shape[1]:
            raise ValueError(f"{half}_x has {x.shape[1]} examples a task but {half}_y has {y.shape[1]}.")
        if not y.is_floating_point() and (y.dtype != torch.int64 or y.dim() != 2):
            raise TypeError(
                f"{half}_y must be int64 labels [tasks, examples] or float targets [tasks, examples, *output], "
                f"not {y.dtype} of shape {list(y.shape)}."
            )
