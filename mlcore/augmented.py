"""More examples than there are: support sets with made examples beside the real ones, and who makes them.

What makes examples is any function of the shots of one class [shots, *input], a number n and a generator, which gives
[n, *input]: moved copies, what a generative model imagines, noise.
"""

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

from mlcore.generative import Sampler
from mlcore.learner import Learner
from mlcore.nets.norms import BatchNormPolicy
from mlcore.objective import Objective
from mlcore.task import Examples, Task, seed_global_stream, seeded
from mlcore.tasks.sets import in_ink
from mlcore.wrapper import Wrapper

Makes = Callable[[Tensor, int, Generator], Tensor]


class OtherSupport(Wrapper):
    """Shows its learner another support set than it was given."""

    def changed(self, support: Examples) -> Examples:
        """The support sets x [tasks, n, *input] and y [tasks, n, ways] that the learner is shown."""
        raise NotImplementedError(f"{type(self).__name__} must define changed(support).")

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """What the learner makes of the changed tasks."""
        return self.learner.prepare(self._shown(task), policy)

    def _mapped(
        self, task: Task, objective: Objective | None, policy: BatchNormPolicy, *, prepared: bool = False
    ) -> tuple:
        return self.learner._mapped(self._shown(task), objective, policy, prepared=prepared)

    def _shown(self, task: Task) -> Task:
        return task._replace(support=self.changed(task.support))

    @property
    def embeds_each_input_alone(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the learner."""
        return self.learner.embeds_each_input_alone

    def embed(self, x: Any) -> Tensor:
        """As the learner, where it embeds."""
        return self.learner.embed(x)  # pyright: ignore[reportCallIssue]

    def embedded(self, z: Tensor, y: Tensor) -> Examples:
        """As the learner, where it embeds."""
        return self.learner.embedded(z, y)  # pyright: ignore[reportCallIssue]


class FirstShots(OtherSupport):
    """Shows its learner the first examples of each class alone, so that learners with fewer and with more of them are
    asked the same.

    Args:
        learner: whom to show them to.
        shots: examples of each class.

    Raises:
        ValueError: no shots.

    Derived in: Do generated examples help?, :eq:`eq-help-processing`.
    """

    def __init__(self, learner: Learner, shots: int) -> None:
        super().__init__(learner)
        if shots < 1:
            raise ValueError(f"shots={shots} must be at least 1.")
        self.shots = shots

    def changed(self, support: Examples) -> Examples:
        """The first rows of each class."""
        first = (support.y.cumsum(1) * support.y).sum(-1)  # the how-manieth of its class a row is
        kept = (first <= self.shots).nonzero()[:, 1].view(len(first), -1)
        return Examples(*(torch.stack([part[i] for part, i in zip(whole, kept, strict=True)]) for whole in support))


class Augmented(OtherSupport):
    """Shows its learner made examples beside the real ones, so many of each class.

    With no copies it is the bare learner. What is made of a class depends on its examples and on ``seed`` alone: it
    is the same in any batch, in any order, and each time.

    Args:
        learner: whom to show them to.
        makes: makes examples of one class.
        copies: m, made examples of a class.
        embedded: make embeddings, from embeddings, where the learner embeds; otherwise inputs.
        seed: of all that is drawn.

    Raises:
        ValueError: fewer copies than none, or made examples of another shape.

    Derived in: Do generated examples help?, :eq:`eq-help-processing`.
    """

    def __init__(self, learner: Learner, makes: Makes, copies: int, *, embedded: bool = False, seed: int = 0) -> None:
        super().__init__(learner)
        if copies < 0:
            raise ValueError(f"copies={copies} must not be negative; 0 is the bare learner.")
        self.makes, self.copies, self.in_features, self.seed = makes, copies, embedded, seed

    def changed(self, support: Examples) -> Examples:
        """The real examples, and behind them the made ones, class by class."""
        if not self.copies:
            return support
        made = [self._made(x, y) for x, y in zip(*support, strict=True)]
        x, y = (torch.stack(parts) for parts in zip(*made, strict=True))
        return Examples(torch.cat([support.x, x], 1), torch.cat([support.y, y], 1))

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """What the learner makes of the changed tasks, or the change of what it makes of them."""
        return self._shown(self.learner.prepare(task, policy)) if self.in_features else super().prepare(task, policy)

    def _mapped(
        self, task: Task, objective: Objective | None, policy: BatchNormPolicy, *, prepared: bool = False
    ) -> tuple:
        if self.in_features and not prepared:
            task, prepared = self.learner.prepare(task, policy), True
        return super()._mapped(task, objective, policy, prepared=prepared)

    def _made(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Made examples of one task, and their targets."""
        labels, xs, ys = y.argmax(-1), [], []
        for label in labels.unique():
            own, target = x[labels == label].detach(), y[labels == label][:1]
            # In an order of their own, so that the order of the rows changes nothing.
            digests = [zlib.crc32(each.cpu().contiguous().numpy().tobytes()) for each in own]
            own = own[torch.tensor(digests, device=own.device).argsort()]
            made = self.makes(own, self.copies, seeded(self.seed, *sorted(digests)))
            if made.shape != (self.copies, *x.shape[1:]):
                raise ValueError(f"makes must give [{self.copies}, *{list(x.shape[1:])}], not {list(made.shape)}.")
            xs.append(made.to(x))
            ys.append(target.expand(self.copies, -1))
        return torch.cat(xs), torch.cat(ys)

    @property
    def embeds_each_input_alone(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As the learner; made inputs are no inputs of the data, and are embedded with their task."""
        return self.in_features and self.learner.embeds_each_input_alone


def transformed(transform: Callable[[Tensor], Tensor]) -> Makes:
    """Random variants of random shots, by a transform such as those of ``torchvision.transforms.v2``."""

    def makes(x: Tensor, n: int, generator: Generator) -> Tensor:
        chosen = _any_of(x, n, generator)
        # torchvision draws from the global stream: seeded here and given back untouched.
        with torch.random.fork_rng(devices=[]):
            seed_global_stream(int(torch.randint(2**62, (), generator=generator)))
            return torch.stack([transform(image) for image in chosen])

    return makes


def imagined(model: Sampler) -> Makes:
    """What a generative model of drawings expects of more of a kind, in grey values; it sees ink and paper."""

    @torch.no_grad()
    def makes(x: Tensor, n: int, generator: Generator) -> Tensor:
        return model.imagine(model.adapt(Examples(in_ink(x))), n, generator).mean  # pyright: ignore[reportAttributeAccessIssue]

    return makes


def noise(covariance: Tensor) -> Makes:
    """Random shots [shots, d], each with a normal draw of mean 0 and this covariance [d, d] added to it.

    Derived in: Do generated examples help?, :eq:`eq-help-penalty`.
    """
    root = torch.linalg.cholesky(covariance)

    def makes(x: Tensor, n: int, generator: Generator) -> Tensor:
        draws = torch.randn(n, x.shape[1], generator=generator, dtype=root.dtype)
        return _any_of(x, n, generator) + draws @ root.mT

    return makes


def differences(pairs: Tensor) -> Makes:
    """Random shots [shots, d], each with the difference within a random one of pairs [pairs, 2, d] added to it.

    The pairs are two examples of one class; a fresh draw for each made example.
    """

    def makes(x: Tensor, n: int, generator: Generator) -> Tensor:
        chosen = _any_of(x, n, generator)
        a, b = _any_of(pairs, n, generator).unbind(1)
        return chosen + b - a

    return makes


def sigma_points(covariance: Tensor) -> Tensor:
    """2d steps [2d, d] whose mean is exactly 0 and whose covariance [d, d] is exactly the one given.

    They are ±√d times the columns of a root of it: what a finite number of copies needs for infinitely many.

    Derived in: Do generated examples help?, :eq:`eq-help-penalty`.
    """
    steps = len(covariance) ** 0.5 * torch.linalg.cholesky(covariance).mT
    return torch.cat([steps, -steps])


def within_class_covariance(pairs: Tensor) -> Tensor:
    """The mean within-class covariance [d, d], from pairs [pairs, 2, d] of examples of one class: E ½ δδᵀ, δ = b - a.

    Derived in: Do generated examples help?, :eq:`eq-help-delta`.
    """
    steps = pairs[:, 1] - pairs[:, 0]
    return steps.mT @ steps / (2 * len(steps))


def _any_of(x: Tensor, n: int, generator: Generator) -> Tensor:
    return x[torch.randint(len(x), (n,), generator=generator)]
