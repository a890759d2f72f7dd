"""Who changes a task's pixels a little so that its answers fail, and meta-training against that.

The smallest change that flips a decision, in the one case where it is known (:func:`linear_radius`); gradient steps
towards it in all others (:func:`attack`); and a learner that is trained and judged under attack
(:class:`Adversarial`).
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from mlcore.learner import Judged, Learner, in_evaluation_mode
from mlcore.learners.metric import squared_distances
from mlcore.nets.norms import BatchNormPolicy
from mlcore.objective import Objective
from mlcore.task import Task
from mlcore.wrapper import Wrapper

Half = Literal["query", "support"]


def linear_radius(weight: Tensor, prototypes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The smallest L∞ change of each input that makes a nearest-class-mean rule on linear embeddings wrong: [n].

    Between the right class y and another one k, the rule follows the sign of s_k(x) = ‖Ax - c_k‖² - ‖Ax - c_y‖², which
    is linear in x with the slope w_k = 2 Aᵀ(c_y - c_k). No change within ε moves it by more than ε ‖w_k‖₁, and -ε sign
    w_k moves it by as much. So the radius is min_k s_k(x) / ‖w_k‖₁, negative where x is answered wrongly already. It
    holds as long as no pixel leaves its range.

    Args:
        weight: A, [features, *input flattened].
        prototypes: c, [ways, features].
        x: inputs [n, *input].
        y: one-hot rows [n, ways].

    Derived in: Adversaries, :eq:`eq-adversary-radius`.
    """
    distances = squared_distances(x.flatten(1) @ weight.mT, prototypes)
    right = y.argmax(-1)
    margin = distances - distances.gather(1, right[:, None])
    steepness = 2 * (prototypes[right][:, None] - prototypes) @ weight
    radius = margin / steepness.abs().sum(-1)
    return radius.where(y == 0, torch.inf).amin(-1)


def attack(
    learner: Learner,
    task: Task,
    objective: Objective,
    *,
    eps: float,
    steps: int,
    half: Half = "query",
    rows: slice = slice(None),
    batch_norm: BatchNormPolicy | None = None,
    generator: torch.Generator | None = None,
) -> Task:
    """The same tasks, with pixels changed by at most ``eps`` so that the queries are answered worse.

    Projected gradient descent in the L∞ ball (Madry et al., 2018, section 2.1): a step of 2.5 ``eps`` / ``steps`` along
    the sign of the gradient of the queries' loss, then back into the ball and into [0, 1]. One step from the inputs
    as they are is the fast gradient sign method (Goodfellow et al., 2015, section 4). Attacks on a support set
    differentiate through the adaptation to it. Of all iterates, the inputs as they are among them, each task keeps that
    with the worst score, and of equal ones that with the largest loss: an attack never helps. The learner is in
    evaluation mode meanwhile and keeps its averages.

    Args:
        learner: whom to deceive.
        task: a batch of tasks over images in [0, 1].
        objective: its loss is raised, its first metric says which iterate was worst; usually ``tasks.objective``.
        eps: ε, the most that a pixel is changed.
        steps: gradient steps.
        half: what is changed, ``"query"``, or ``"support"`` for poisoning.
        rows: which examples of every task may be changed.
        batch_norm: as for :meth:`~mlcore.learner.Learner.forward`.
        generator: where to start is drawn uniformly in the ball; by default at the inputs themselves.

    Raises:
        ValueError: a negative ``eps``, fewer than one step, another half, inputs outside of [0, 1], or a layer that
            lets no gradient through.

    Derived in: Adversaries, :eq:`eq-adversary-pgd` and :eq:`eq-adversary-poison`.
    """
    _check(eps, steps, (half,))
    clean: Tensor = getattr(task, half).x
    low, high = clean.amin().item(), clean.amax().item()
    if low < 0 or high > 1:
        raise ValueError(f"inputs lie between {low:.3g} and {high:.3g}, but must be pixels in [0, 1]; rescale them.")
    if eps == 0:
        return task
    free = torch.zeros_like(clean)
    free[:, rows] = eps
    floor, ceiling = (clean - free).clamp_min(0), (clean + free).clamp_max(1)
    x = clean
    if generator is not None:
        noise = torch.rand(clean.shape, generator=generator, dtype=clean.dtype).to(clean.device)
        x = (clean + (2 * noise - 1) * free).clamp(floor, ceiling)
    policy = batch_norm or learner.batch_norm

    def judged(x: Tensor) -> Judged:
        return learner.judged(_with(task, half, x), objective, batch_norm=policy)

    with in_evaluation_mode(learner):
        with torch.no_grad():
            worst = _Worst(clean, judged(clean), objective)
        for _ in range(steps):
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                now = judged(x)
                (slope,) = torch.autograd.grad(now.losses.sum(), x, allow_unused=True)
            if slope is None:
                raise ValueError(
                    "no gradient reaches the pixels, as behind a threshold, which hides from this attack but not from "
                    "others; let it through, as in hard + (x - x.detach())."
                )
            worst.take(x.detach(), now)
            x = (x.detach() + 2.5 / steps * free * slope.sign()).clamp(floor, ceiling)
        with torch.no_grad():
            worst.take(x, judged(x))
    return _with(task, half, worst.x)


class Adversarial(Wrapper):
    """A learner that is trained and judged under attack; what it learns and how it answers stay its own.

    Meta-trained, it is adversarial querying (Goldblum, Fowl and Goldstein, 2020, algorithm 1): adapt to clean support
    sets, attack the queries, lower the loss on the attacked ones. Evaluated, it gives the robust score. With both
    halves attacked it is a plain form of ADML (Yin, Tang, Xu and Wang, 2018), which crosses clean and attacked halves.
    Attacks start at random in the ball, by torch's own generator, which training and evaluation seed.

    It holds ``learner`` and shares its weights. Given an adversarial learner, it attacks what that one holds.

    Args:
        learner: whom to attack.
        eps, steps: as for :func:`attack`.
        halves: which halves of a task are attacked, in turn.

    Raises:
        ValueError: as for :func:`attack`.

    Derived in: Adversaries, :eq:`eq-adversary-querying`.
    """

    def __init__(self, learner: Learner, *, eps: float, steps: int, halves: tuple[Half, ...] = ("query",)) -> None:
        learner = learner.learner if isinstance(learner, Adversarial) else learner
        super().__init__(learner)
        _check(eps, steps, halves)
        self.eps, self.steps, self.halves = eps, steps, halves

    def _mapped(self, task: Task, objective: Objective | None, policy: BatchNormPolicy, **kwargs: Any) -> tuple:
        """The learner's answers under attack, where an objective says what to attack."""
        if objective is not None:
            for half in self.halves:
                task = attack(
                    self.learner,
                    task,
                    objective,
                    eps=self.eps,
                    steps=self.steps,
                    half=half,
                    batch_norm=policy,
                    generator=torch.default_generator,
                )
        return self.learner._mapped(task, objective, policy, **kwargs)


class Noise(nn.Module):
    """Add to each pixel in training what a random start of an attack adds: uniform within ε, kept in [0, 1].

    Args:
        eps: ε.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        _check(eps, 1, ())
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1) if self.training else x


class _Worst:
    """Of the inputs x [tasks, ...] that an attack tried, for each task those that were answered worst."""

    def __init__(self, x: Tensor, judged: Judged, objective: Objective) -> None:
        self.main, self.metric = objective.main, objective.metrics[objective.main]
        self.x, self.badness, self.losses = x, self._badness(judged), judged.losses

    def take(self, x: Tensor, judged: Judged) -> None:
        badness, losses = self._badness(judged), judged.losses.detach()
        worse = (badness > self.badness) | ((badness == self.badness) & (losses > self.losses))
        self.x = x.where(worse.view(-1, *[1] * (x.dim() - 1)), self.x)
        self.badness, self.losses = badness.where(worse, self.badness), losses.where(worse, self.losses)

    def _badness(self, judged: Judged) -> Tensor:
        score = judged.scores[self.main]
        score = score.reshape(len(score), -1).mean(1)  # a metric may give several numbers
        return -score if self.metric.higher_is_better else score


def _with(task: Task, half: Half, x: Tensor) -> Task:
    """The same tasks with other inputs in one half."""
    return task._replace(**{half: getattr(task, half)._replace(x=x)})


def _check(eps: float, steps: int, halves: tuple[str, ...]) -> None:
    if not eps >= 0:
        raise ValueError(f"eps={eps} must not be negative; it is the most that a pixel is changed.")
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1; for no attack set eps=0.")
    unknown = [half for half in halves if half not in get_args(Half)]
    if unknown:
        raise ValueError(f"there is no half {unknown[0]!r} of a task to attack; choose 'query' or 'support'.")
