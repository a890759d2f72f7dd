"""MAML whose inner step is a policy gradient (Finn, Abbeel and Levine, 2017, section 4.2)."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from mlcore.agents.navigation import Paths, Walking, Walks
from mlcore.agents.trust_region import trust_region_step
from mlcore.inner import Params, inner_step
from mlcore.learner import Judged, Learner
from mlcore.nets import mlp
from mlcore.objective import Objective
from mlcore.task import Examples, Task


class GaussianPolicy(nn.Module):
    """A perceptron that says the mean of an action; its standard deviation is a parameter, the same everywhere.

    Weights begin as in the code of Finn et al. (2017): Xavier's uniform, no biases, a standard deviation of 1.

    Args:
        seen: length of what it sees.
        actions: length of an action.
        hidden: widths.
    """

    def __init__(self, seen: int, actions: int = 2, hidden: tuple[int, ...] = (100, 100)) -> None:
        super().__init__()
        self.mean = mlp(seen, *hidden, actions)
        self.log_std = nn.Parameter(torch.zeros(actions))
        for layer in self.mean:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Means [..., actions] and the log of the standard deviation [actions]."""
        return self.mean(seen), self.log_std


class Lesson(NamedTuple):
    """Paths, and how much better each action was than expected."""

    paths: Paths
    gain: Tensor  # [paths, horizon], 0 after the end


class Stage(NamedTuple):
    """One gradient step's share of the support set."""

    walks: Walks
    rate: float


class PolicyGradientMAML(Learner):
    """Learn a policy from which a few steps of REINFORCE, on paths that it walks itself, reach the goal of any world.

    It begins at θ; an update walks some paths and takes one step on -log π weighted by advantages over a linear
    baseline; what it is judged by is the return of paths walked after the last step. Meta-training moves θ by a
    trust-region step: the divergence of the *adapted* policies is bounded (Finn et al., 2017, algorithm 3).

    :meth:`meta_backward` leaves minus that step in ``.grad``, so it is to be trained by plain SGD of rate 1:
    ``meta_train(learner, tasks, optimizer=torch.optim.SGD, outer_lr=1.0, meta_batch=20, …)``. With ``inner_steps=0`` it
    is plain TRPO on all worlds at once: pre-training.

    Args:
        net: the policy, what is seen to mean and log standard deviation, such as :class:`GaussianPolicy`.
        tasks: where it walks.
        inner_lr: α of the first step. As in the released code it is halved after that, in evaluation.
        inner_steps, test_steps: gradient steps in meta-training and in evaluation.
        discount: γ of the advantages; the return is not discounted.
        radius: δ of the trust region.
        thinning: the Fisher matrix is computed from every so many-th moment of all paths.

    Derived in: Gradient steps in the world, :eq:`eq-world-inner` and :eq:`eq-world-trust`.
    """

    def __init__(
        self,
        net: nn.Module,
        tasks: Walking,
        *,
        inner_lr: float = 0.5,
        inner_steps: int = 1,
        test_steps: int | None = None,
        discount: float = 0.99,
        radius: float = 0.01,
        thinning: int = 8,
    ) -> None:
        super().__init__(mapping="vmap")
        if inner_lr <= 0:
            raise ValueError(f"inner_lr must be positive, not {inner_lr}.")
        if not 0 <= discount <= 1:
            raise ValueError(f"discount={discount} must lie between 0 and 1.")
        self.net, self.tasks, self.inner_lr, self.radius, self.thinning = net, tasks, inner_lr, radius, thinning
        self.inner_steps, self.test_steps = inner_steps, inner_steps if test_steps is None else test_steps
        self.discount = discount

    # One task.

    def begin(self) -> Params:
        """θ."""
        return dict(self.net.named_parameters())

    def stream(self, support: Walks) -> Iterable[Stage]:
        """The chance in the paths of each step, and its rate."""
        steps = self.inner_steps if self.training else self.test_steps
        if steps > len(support.noise):
            raise ValueError(f"{steps} steps need as many stages; the tasks have {len(support.noise)}.")
        for i, noise in enumerate(support.noise.unbind()[:steps]):
            yield Stage(Walks(support.goal, noise), self.inner_lr * (1.0 if i == 0 or self.training else 0.5))

    def act(self, state: Params, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of an action of an adapted policy."""
        return functional_call(self.net, state, (seen,))

    def walk(self, state: Params, walks: Walks) -> Paths:
        """The paths of an adapted policy; not differentiated."""
        with torch.no_grad():
            return self.tasks.walk(walks.goal, walks.noise, lambda seen: self.act(state, seen))

    def update(self, state: Params, data: Stage) -> Params:
        """Walk, and take one step of policy gradient."""
        return self.learn(state, lesson(self.walk(state, data.walks), self.discount), data.rate)

    def learn(self, state: Params, data: Lesson, rate: float) -> Params:
        """One step on paths that have been walked."""
        return inner_step(lambda p: self.reinforce(p, data), state, rate)

    def reinforce(self, state: Params, data: Lesson) -> Tensor:
        """-log π of all actions, weighted by their advantages: its gradient is the policy gradient."""
        log_p = log_density(data.paths.action, *self.act(state, data.paths.seen))
        return -(log_p * data.gain).sum() / data.paths.alive.sum()

    def predict(self, state: Params, x: Walks) -> Tensor:
        """The returns [paths] of new paths."""
        return self.walk(state, x).returns

    # A meta-batch.

    def meta_backward(self, task: Task, objective: Objective) -> Judged:
        """Walk, adapt, walk again; leave minus the trust-region step in ``.grad``."""
        parameters = list(self.parameters())

        def walked(support: Walks, query: Examples) -> tuple[list[Lesson], Lesson, tuple[Tensor, Tensor]]:
            state, lessons = self.begin(), []
            for stage in self.stream(support):
                lessons.append(lesson(self.walk(state, stage.walks), self.discount))
                state = self.learn(state, lessons[-1], stage.rate)
            paths = self.walk(state, query.x)
            return lessons, lesson(paths, self.discount), self.act(state, paths.seen)

        with torch.no_grad():
            lessons, exam, before = torch.vmap(walked)(*task)
            before = tree_map(Tensor.clone, before)  # what is not adapted is the parameter itself, which will move

        def adapted(lessons: list[Lesson]) -> Params:
            state = self.begin()
            for each in lessons:
                state = self.learn(state, each, self.inner_lr)
            return state

        def surrogate() -> tuple[Tensor, Tensor]:
            def one(lessons: list[Lesson], exam: Lesson, before: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
                paths, now = exam.paths, self.act(adapted(lessons), exam.paths.seen)
                ratio = (log_density(paths.action, *now) - log_density(paths.action, *before)).exp()
                far = divergence(*before, *now)
                return -(ratio * exam.gain).sum() / paths.alive.sum(), (far * paths.alive).sum() / paths.alive.sum()

            loss, moved = torch.vmap(one)(lessons, exam, before)
            return loss.mean(), moved.mean()

        def curvature() -> Tensor:
            def one(lessons: list[Lesson], exam: Lesson) -> Tensor:
                now, alive = self.act(adapted(lessons), exam.paths.seen), exam.paths.alive
                far = divergence(now[0].detach(), now[1].detach(), *now)
                return (far * alive).sum() / alive.sum()

            thin = tree_map(lambda part: part[:, :, :: self.thinning], (lessons, exam))
            return torch.vmap(one)(*thin).mean()

        step = trust_region_step(parameters, surrogate, curvature=curvature, radius=self.radius)
        for p, part in zip(parameters, step.split([p.numel() for p in parameters]), strict=True):
            p.grad = -part.view_as(p) if p.grad is None else p.grad - part.view_as(p)
        returns = exam.paths.reward.sum(-1)
        scores = {name: torch.stack([m.of(r, ()) for r in returns]) for name, m in objective.metrics.items()}
        return Judged(returns, torch.stack([objective.loss(r, ()) for r in returns]), scores)


class PolicyGradientCAVIA(PolicyGradientMAML):
    """The same with a few context parameters, inputs of the policy, that alone take the inner steps; they begin at 0.

    After Zintgraf et al. (2019), section 5.3.

    Args:
        net: a policy that sees ``context`` more numbers than the tasks show.
        tasks, settings: as for :class:`PolicyGradientMAML`.
        context: the number of context parameters.
    """

    def __init__(self, net: nn.Module, tasks: Walking, *, context: int = 2, **settings: Any) -> None:
        if context < 1:
            raise ValueError(f"context={context} must be at least 1.")
        super().__init__(net, tasks, **settings)
        self.context = context

    def begin(self) -> Params:
        """φ = 0."""
        return {"context": next(self.net.parameters()).new_zeros(self.context)}

    def act(self, state: Params, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What the policy says with these context parameters."""
        return self.net(torch.cat([seen, state["context"].expand(*seen.shape[:-1], -1)], -1))


def lesson(paths: Paths, discount: float) -> Lesson:
    """Advantages over a linear baseline fitted to these paths, centred and scaled to one (Duan et al., 2016b).

    The baseline is a ridge regression of the rewards to go, discounted by γ, on what was seen, its square, and three
    powers of time.
    """
    horizon = paths.reward.shape[1]
    t = torch.arange(horizon, dtype=paths.reward.dtype, device=paths.reward.device)
    ages = t[:, None] - t  # [later, earlier]
    to_go = paths.reward @ torch.where(ages >= 0, discount ** ages.clamp_min(0), 0.0)
    clock = (t[:, None] / 100) ** torch.arange(4, device=t.device)
    clock = clock.expand(len(paths.reward), *clock.shape)
    known = torch.cat([paths.seen, paths.seen.square(), clock], -1)
    x, y = (known * paths.alive[..., None]).flatten(0, 1), (to_go * paths.alive).flatten()
    gram = x.mT @ x + 1e-5 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    better = (to_go - known @ torch.linalg.solve(gram, x.mT @ y)) * paths.alive
    count = paths.alive.sum()
    centred = (better - better.sum() / count) * paths.alive
    return Lesson(paths, centred / ((centred.square().sum() / count).sqrt() + 1e-8))


def log_density(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log π(a) [...] of actions [..., actions] under a normal distribution."""
    each = -0.5 * ((action - mean) * (-log_std).exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
    return each.sum(-1)


def divergence(mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor) -> Tensor:
    """KL(π ‖ π') [...] of normal distributions of actions."""
    ratio = (2 * (log_std - other_log_std)).exp()
    far = ((mean - other_mean) * (-other_log_std).exp()).square()
    return (other_log_std - log_std + 0.5 * (ratio + far - 1)).sum(-1)
