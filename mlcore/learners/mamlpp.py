"""MAML++ (Antoniou, Edwards and Storkey, 2019)."""

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mlcore.inner import LossFn, Params, Rates, inner_step
from mlcore.learners.maml import MAML
from mlcore.mapping import Mapping
from mlcore.nets.norms import BatchNorm, source_now, statistics_from
from mlcore.objective import Objective, cross_entropy
from mlcore.task import Examples


class Step(NamedTuple):
    """Fast weights θ⁽ᵏ⁾, and what the norms of θ⁽ᵏ⁻¹⁾ saw on the support set."""

    params: Params
    statistics: tuple[Tensor, ...] = ()


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
            are those of support sets, and for the last one of query sets. The policy ``"running"`` uses them, which the
            paper's code, though it keeps some, never does.
        multi_step_until: up to this meta-update the loss is a weighted sum of the query losses after every inner step,
            with equal weights at first, and the last step's alone in the end ("MSL"). 0 leaves it out.
        first_order_until: up to this meta-update derivatives are of first order ("DA"). 0 leaves it out.
        loss_fn, mapping: as for :class:`~mlcore.learners.maml.MAML`.

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
        loss_fn: LossFn = cross_entropy,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(
            net, inner_lr=inner_lr, inner_steps=inner_steps, test_steps=test_steps, loss_fn=loss_fn, mapping=mapping
        )
        if inner_steps < 1:
            raise ValueError(f"inner_steps={inner_steps} must be at least 1.")
        self.multi_step_until, self.first_order_until = multi_step_until, first_order_until
        layers = {name: layer for name, layer in self.net.named_modules() if isinstance(layer, BatchNorm)}
        self.layers = layers if per_step_norms else {}
        # The norms of θ⁽⁰⁾ to θ⁽ᴷ⁻¹⁾; those of θ⁽ᴷ⁾ are the network's own.
        self.norms: Any = nn.ModuleList(
            nn.ModuleList(copy.deepcopy(layer) for layer in self.layers.values())
            for _ in range(inner_steps if self.layers else 0)
        )
        self.alpha = nn.Parameter(torch.full((inner_steps, len(self.start())), inner_lr)) if learned_rates else None
        self.updates: Tensor
        self.register_buffer("updates", torch.tensor(0))  # meta-updates so far; a checkpoint must know

    def start(self) -> Params:
        """θ without what the norms of each step hold."""
        norms = {id(value) for layer in self.layers.values() for value in layer.parameters()}
        return {name: value for name, value in super().start().items() if id(value) not in norms}

    def rates_of(self, step: int) -> Rates:
        """α of one step, by layer."""
        if self.alpha is None:
            return self.rates()
        return dict(zip(self.start(), self.alpha[min(step, self.inner_steps - 1)], strict=True))

    def norms_of(self, step: int) -> Params:
        """Scales, shifts and averages of the norms of θ⁽ᵏ⁾, by the names they have in the network."""
        if step >= len(self.norms):
            return {}
        layers = zip(self.layers, self.norms[step], strict=True)
        return {
            f"{name}.{key}": value for name, norm in layers for key, value in norm.state_dict(keep_vars=True).items()
        }

    def step_weights(self) -> Tensor:
        """Weights of the query losses after each inner step, at this meta-update: [inner_steps], of sum 1."""
        annealed = min(1.0, self.updates.item() / self.multi_step_until) if self.multi_step_until else 1.0
        weights = torch.full((self.inner_steps,), (1 - annealed) / self.inner_steps)
        weights[-1] += annealed
        return weights

    def begin(self) -> tuple[Step, ...]:
        """The path of the inner loop, of which θ is the first step."""
        return (Step(self.start()),)

    def update(self, state: tuple[Step, ...], data: Examples) -> tuple[Step, ...]:
        """One gradient step, with rates and norms of its own, added to the path."""
        step = len(state) - 1
        norms = self.norms_of(step)

        def support_loss(params: Params) -> tuple[Tensor, tuple[Tensor, ...]]:
            with statistics_from(source_now()) as seen:
                outputs = functional_call(self.net, params | norms, (data.x,))
            mine = [seen[layer] for layer in self.layers.values() if layer in seen]  # none but for a batch's own
            return self.loss_fn(outputs, data.y), tuple(part for pair in mine for part in pair)

        first_order = self.first_order or (self.training and self.updates.item() < self.first_order_until)
        params, statistics = inner_step(
            support_loss, state[-1].params, self.rates_of(step), first_order=first_order, has_aux=True
        )
        return *state, Step(params, statistics)

    def predict(self, state: tuple[Step, ...], x: Any) -> Tensor:
        """f(x) after the last step of the path."""
        return functional_call(self.net, state[-1].params | self.norms_of(len(state) - 1), (x,))

    def loss(self, state: tuple[Step, ...], outputs: Tensor, query: Examples, objective: Objective) -> Tensor:
        """The query loss after the last step, or while ``multi_step_until`` lasts, the weighted sum over steps."""
        last = super().loss(state, outputs, query, objective)
        if not self.training or self.updates >= self.multi_step_until:
            return last
        earlier = [objective.loss(self.predict(state[:k], query.x), query.y) for k in range(2, len(state))]
        return (self.step_weights().to(last) * torch.stack([*earlier, last])).sum()

    def leave(self, state: tuple[Step, ...]) -> tuple[Tensor, ...]:
        """What the norms of each step saw."""
        return tuple(part for step in state for part in step.statistics)

    def receive(self, *means: Tensor) -> None:
        """Move the averages of each step's norms, and count the meta-update."""
        layers = [layer for norms in self.norms for layer in norms]
        for layer, mean, var in zip(layers, means[::2], means[1::2], strict=False):
            layer.update_running(mean, var)
        self.updates += 1
