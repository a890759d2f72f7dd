"""iMAML: meta-learning with implicit gradients (Rajeswaran, Finn, Kakade and Levine, 2019)."""

from itertools import repeat

from torch import Tensor, nn

from mlcore.inner import SGD, LossFn, Params, implicit, unroll
from mlcore.learners.maml import MAML
from mlcore.mapping import Mapping
from mlcore.nets.derivatives import right_derivatives
from mlcore.nets.norms import source_now, statistics_from
from mlcore.objective import cross_entropy
from mlcore.task import Examples


class IMAML(MAML):
    """Adapt by solving a problem, and differentiate the solution instead of the way to it.

    The inner problem keeps the weights near θ: φ* minimises L(φ) + λ/2 ‖φ - θ‖² over the support set (Rajeswaran et
    al., 2019, equation 3). Whatever solved it, dφ*/dθ = (I + H/λ)⁻¹, H being the Hessian of L at φ* (lemma 1), and
    conjugate gradients apply this inverse with Hessian-vector products alone. Memory does not grow with inner steps.

    Args:
        net: the network f_θ; all its trainable parameters are adapted.
        inner_lr, inner_steps, test_steps: of gradient descent on the inner problem.
        strength: λ.
        pull_back: solve as the authors' code does, by plain gradient steps without the proximal term, after which the
            weights go this share of their way back to θ; in evaluation they do not. That code goes back 0.2, its inner
            rate of 0.1 times its λ of 2, and its meta-gradient is (2 I + H/12)⁻¹ g, half of what a ``strength`` of 24
            gives here.
        cg_steps: conjugate-gradient steps, one Hessian-vector product each.
        loss_fn, mapping: as for :class:`~mlcore.learners.maml.MAML`.

    Derived in: Implicit gradients, :eq:`eq-implicit-gradient`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        inner_lr: float,
        inner_steps: int,
        test_steps: int | None = None,
        strength: float = 2.0,
        pull_back: float | None = None,
        cg_steps: int = 5,
        loss_fn: LossFn = cross_entropy,
        mapping: Mapping = "auto",
    ) -> None:
        super().__init__(
            net, inner_lr=inner_lr, inner_steps=inner_steps, test_steps=test_steps, loss_fn=loss_fn, mapping=mapping
        )
        if inner_steps < 1:  # θ itself depends on no task, and vmap would sum the gradients before they are solved for
            raise ValueError(f"inner_steps={inner_steps} must be at least 1.")
        if strength <= 0:
            raise ValueError(f"strength must be positive, not {strength}.")
        if pull_back is not None and not 0 <= pull_back < 1:  # at 1 nothing of the task would be left
            raise ValueError(f"pull_back must be at least 0 and less than 1, not {pull_back}.")
        if cg_steps < 1:
            raise ValueError(f"cg_steps must be at least 1, not {cg_steps}.")
        self.strength, self.pull_back, self.cg_steps = strength, pull_back, cg_steps

    def adapt(self, support: Examples) -> Params:
        """φ*, approximately, with the implicit derivative with respect to θ."""
        source = source_now()

        def support_loss(params: Params, x: Tensor, y: Tensor) -> Tensor:
            with statistics_from(source), right_derivatives(self):  # the way back comes later
                return self.support_loss(params, Examples(x, y))

        return implicit(
            lambda start, x, y: self.solve(Examples(x, y), start),
            support_loss,
            self.start(),
            tuple(support),
            strength=self.strength,
            cg_steps=self.cg_steps,
        )

    def solve(self, support: Examples, start: Params) -> Params:
        """φ* by gradient descent from θ on L(φ) + λ/2 ‖φ - θ‖², or on L(φ) alone and then a share of the way back."""

        def inner_problem(params: Params, data: Examples) -> Tensor:
            distance = sum((value - start[name]).square().sum() for name, value in params.items())
            return self.support_loss(params, data) + self.strength / 2 * distance

        loss = inner_problem if self.pull_back is None else self.support_loss
        solution = unroll(loss, start, SGD(self.rates()), repeat(support, self.steps), first_order=True)[0]
        if self.pull_back is None or not self.training:
            return solution
        return {name: value.lerp(start[name], self.pull_back) for name, value in solution.items()}
