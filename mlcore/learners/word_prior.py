"""Words as a prior of class means, in closed form: the rival of AM3 that trains nothing."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcore.learner import in_evaluation_mode
from mlcore.learners.am3 import WithWords
from mlcore.learners.metric import class_means
from mlcore.task import rows
from mlcore.tasks.class_names import group_of
from mlcore.tasks.named import NamedTasks


class Prior(NamedTuple):
    """What training classes tell of how words and class means go together."""

    weight: Tensor  # of a linear map of words to class means [size, features]
    offset: Tensor  # [features]
    worth: Tensor  # σ² / τ²: as many examples say as much of a class mean as the map does


class WordPrior(WithWords):
    """Class means as a Bayesian would estimate them: μ_c ~ N(Aᵀe_c + b, τ²I), examples ~ N(μ_c, σ²I).

    The posterior mean of n examples is the mixture with λ = n / (n + σ²/τ²). Nothing is trained: A, b and σ²/τ² are
    those of :func:`word_prior`.

    Args:
        net: the embedding.
        prior: see :func:`word_prior`; it does not ship.
        settings: as for :class:`~mlcore.learners.am3.WithWords`.

    Derived in: With words, :eq:`eq-words-lambda` and :eq:`eq-words-worth`.
    """

    def __init__(self, net: nn.Module, *, prior: Prior, **settings: Any) -> None:
        super().__init__(net, **settings)
        for name, value in prior._asdict().items():
            self.register_buffer(name, value.float(), persistent=False)
        self.weight: Tensor
        self.offset: Tensor
        self.worth: Tensor

    def said(self, words: Tensor) -> Tensor:
        """Aᵀe_c + b: [ways, features]."""
        if words.shape[-1] != len(self.weight):
            raise ValueError(
                f"the prior is of words of {len(self.weight)} numbers, but a class comes with {words.shape[-1]} "
                "numbers; make one of tasks like these: word_prior(net, tasks)."
            )
        return words @ self.weight + self.offset

    def trust(self, said: Tensor, count: Tensor) -> Tensor:
        """λ = n / (n + σ²/τ²): [ways, 1]."""
        return count / (count + self.worth)


@torch.no_grad()
def word_prior(
    net: nn.Module,
    tasks: NamedTasks,
    *,
    strengths: tuple[float, ...] = (0.01, 0.1, 1, 10, 100, 1_000),
    whole_groups: bool = False,
) -> Prior:
    """Ridge regression of class means on words, and how far it is off for a class that it has not seen.

    σ² is the variance of examples around the mean of their class, on average over features. τ² is the squared error
    of the map for a class left out (none is fitted again), less what the scatter of its examples explains. The strength
    of the ridge, a share of the mean squared length of words, is the one with the least of these errors; an endless one
    leaves the mean of all classes.

    Args:
        net: the embedding.
        tasks: whose classes to learn from.
        strengths: among which to choose.
        whole_groups: leave out a class with all others of its group, where those asked about are of new groups.

    Derived in: With words, :eq:`eq-words-out` and :eq:`eq-words-apart`.
    """
    z, y = _embedded(net, tasks)
    means, count = class_means(z, y), y.sum(0)
    sigma2 = (z - y @ means).square().sum() / (len(z) - len(count)) / z.shape[1]
    e = tasks.words.double()
    e0, m0 = e.mean(0), means.mean(0)
    gram = (e - e0) @ (e - e0).mT
    size = gram.trace() / len(e)
    if size <= 1e-12:
        raise ValueError("the vectors of all classes are equal, so that words say nothing; give each class its own.")
    names = [group_of(name) if whole_groups else name for name in tasks.tasks.classes]
    groups = [[i for i, other in enumerate(names) if other == name] for name in dict.fromkeys(names)]
    if len(groups) < 2:
        raise ValueError(
            f"all classes are of the group {names[0]!r}, and none can be left out; say whole_groups=False."
        )
    fits = []
    for strength in strengths:
        solved = torch.linalg.solve(gram + strength * size * torch.eye(len(e)).to(gram), torch.eye(len(e)).to(gram))
        hat = gram @ solved + 1 / len(e)  # fitted class means are hat @ means
        rest = means - hat @ means
        out = [torch.linalg.solve(torch.eye(len(g)).to(hat) - hat[g][:, g], rest[g]) for g in groups]
        fits.append((torch.cat(out).square().mean(), solved))
    error, solved = min(fits, key=lambda fit: float(fit[0]))
    weight = (e - e0).mT @ solved @ (means - m0)
    tau2 = (error - (sigma2 / count).mean()).clamp(min=1e-6 * sigma2)
    return Prior(weight, m0 - e0 @ weight, sigma2 / tau2)


def _embedded(net: nn.Module, tasks: NamedTasks) -> tuple[Tensor, Tensor]:
    """Embeddings [n, features] of all examples, and one-hot rows [n, classes] in the order of the vectors."""
    with in_evaluation_mode(net):
        z = torch.cat([net(tasks.tasks.examples(part)) for part in tasks.tasks.codes().split(256)])
    sizes = torch.tensor(list(tasks.tasks.class_sizes.values()))
    return z.double(), rows(torch.arange(len(sizes)).repeat_interleave(sizes)).double()
