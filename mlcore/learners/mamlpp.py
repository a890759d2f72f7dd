"""MAML++ (Antoniou, Edwards and Storkey, 2019)."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mlcore.learners.base import BatchNormPolicy, LossFn, Mapping
from mlcore.learners.maml import MAML, Params, inner_step
from mlcore.nets import BatchNorm
from mlcore.tasks import Task


class MAMLPlusPlus(MAML):
    """MAML with the repairs of "How to train your MAML", each of which can be left out.

    The cosine of the outer rate, the last of the paper's repairs, is ``meta_train(…, decay="cosine")``.

    Args:
        net: the network f_θ.
        inner_lr: where every inner rate starts.
        inner_steps: gradient steps in meta-training.
        test_steps: gradient steps in evaluation mode; those beyond ``inner_steps`` use the last one's rates and norms.
        learned_rates: learn a rate for each layer's weights and biases at each step (section 4, "LSLR").
        per_step_norms: batch normalisation with statistics, scale and shift of its own for every state of the inner
            loop, θ⁽⁰⁾ to θ⁽ᴷ⁾ ("BNRS", "BNWB"); scale and shift are then left to the outer loop. The averages of θ⁽ᵏ⁾
            are those of support sets, for the last one, and while the multi-step loss runs, of query sets. The policy
            ``"running"`` uses them, which the paper's code, though it keeps some, never does.
        multi_step_until: up to this meta-update the loss is a weighted sum of the query losses after every inner step,
            with equal weights at first, and the last step's alone in the end ("MSL"). 0 leaves it out.
        first_order_until: up to this meta-update derivatives are of first order ("DA"). 0 leaves it out.
        loss_fn, mapping: as for :class:`~mlcore.learners.base.Learner`.

    Derived in: Making MAML train, :eq:`eq-multi-step-loss` and :eq:`eq-per-step-rates`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int = 5,
        test_steps: int | None = None,
        learned_rates: bool = True,
        per_step_norms: bool = True,
        multi_step_until: int = 0,
        first_order_until: int = 0,
        loss_fn: LossFn = F.cross_entropy,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(
            net, inner_lr=inner_lr, inner_steps=inner_steps, test_steps=test_steps, loss_fn=loss_fn, mapping=mapping
        )
        if inner_steps < 1:
            raise ValueError(f"inner_steps={inner_steps} must be at least 1.")
        self.multi_step_until, self.first_order_until = multi_step_until, first_order_until
        if per_step_norms:
            _give_each_step_its_norms(self.net, states=inner_steps + 1)
        self.per_step_norms = [module for module in self.net.modules() if isinstance(module, PerStepBatchNorm)]
        self.alpha = nn.Parameter(torch.full((inner_steps, len(self.start())), inner_lr)) if learned_rates else None
        self.register_buffer("updates", torch.tensor(0))  # meta-updates so far; a checkpoint must know

    def start(self) -> Params:
        """θ without what the norms of each step hold."""
        norms = {id(value) for norm in self.per_step_norms for value in norm.parameters()}
        return {name: value for name, value in super().start().items() if id(value) not in norms}

    def rates(self, step: int) -> float | Params:
        """α of one step, by layer."""
        if self.alpha is None:
            return self.inner_lr
        return dict(zip(self.start(), self.alpha[min(step, self.inner_steps - 1)], strict=True))

    def step_weights(self) -> Tensor:
        """Weights of the query losses after each inner step, at this meta-update: [inner_steps], of sum 1."""
        annealed = min(1.0, self.updates.item() / self.multi_step_until) if self.multi_step_until else 1.0
        weights = torch.full((self.inner_steps,), (1 - annealed) / self.inner_steps)
        weights[-1] += annealed
        return weights

    def adapt(self, support_x: Tensor, support_y: Tensor) -> list[tuple[int, Params]]:
        """Fast weights θ⁽ᵏ⁾ with their k: of every step while the multi-step loss needs them, else of the last."""
        params, path = self.start(), []
        steps = self.inner_steps if self.training else self.test_steps
        for step in range(steps):
            norms = self._norms_of(step)

            def support_loss(params: Params, norms: list[BatchNorm] = norms) -> tuple[Tensor, list]:
                outputs = functional_call(self.net, params, (support_x,))
                seen = [norm.batch_statistics for norm in norms if norm.source == "batch"]
                return self.row_loss(outputs, support_y), seen

            params, seen = inner_step(
                support_loss, params, self.rates(step), first_order=self.first_order, has_aux=True
            )
            for norm, statistics in zip(norms, seen, strict=False):  # none but for the batch's own
                norm.batch_statistics = statistics
            path.append((step + 1, params))
        path = path or [(0, params)]
        return path if self.training and self.updates < self.multi_step_until else path[-1:]

    def predict(self, adapted: list[tuple[int, Params]], query_x: Tensor) -> Tensor:
        """Outputs [n_query, steps, *output] after each of the steps that ``adapt`` returned."""
        outputs = []
        for step, params in adapted:
            self._norms_of(step)
            outputs.append(functional_call(self.net, params, (query_x,)))
        return torch.stack(outputs, dim=1)

    def forward(self, batch: Task, *, batch_norm: BatchNormPolicy | None = None) -> Tensor:
        """Outputs after the last step: [tasks, n_query, *output]."""
        return super().forward(batch, batch_norm=batch_norm)[:, :, -1]

    def meta_backward(self, batch: Task) -> tuple[Tensor, Tensor]:
        """Accumulate the meta-gradient in ``.grad`` and count the meta-update. Outputs are those of the last step."""
        self.first_order = self.updates.item() < self.first_order_until
        result = super().meta_backward(batch)
        self.updates += 1
        return result

    def loss_and_outputs(self, batch: Task) -> tuple[Tensor, Tensor]:
        """The query loss after the last step, or while ``multi_step_until`` lasts, the weighted sum over steps."""
        outputs, *_ = self.run(batch, self.batch_norm)
        weights = self.step_weights()[-outputs.shape[2] :]
        losses = [self.query_loss(after_step, batch.query_y) for after_step in outputs.unbind(2)]
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True)), outputs[:, :, -1]

    def _norms_of(self, step: int) -> list[BatchNorm]:
        """Switch to the norms of θ⁽ᵏ⁾, and return them."""
        for norm in self.per_step_norms:
            norm.state = min(step, self.inner_steps)
        return [norm[norm.state] for norm in self.per_step_norms]


class PerStepBatchNorm(nn.ModuleList):
    """A :class:`~mlcore.nets.BatchNorm` for each state of the inner loop; ``state`` says which one computes."""

    state = 0

    def forward(self, x: Tensor) -> Tensor:
        return self[self.state](x)


def _give_each_step_its_norms(module: nn.Module, *, states: int) -> None:
    for name, child in module.named_children():
        if isinstance(child, BatchNorm):
            setattr(module, name, PerStepBatchNorm(copy.deepcopy(child) for _ in range(states)))
        else:
            _give_each_step_its_norms(child, states=states)
