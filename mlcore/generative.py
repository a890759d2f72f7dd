"""Learners that make examples: a third verb beside update and predict, and what is good about it.

The query of such a task has inputs and no targets. ``predict`` answers how likely each of them was: the logarithm of a
density, one number for each.
"""

from typing import Any

from torch import Generator, Tensor

from mlcore.densities import Bernoulli, Gaussian
from mlcore.objective import Metric, Objective


class Sampler:
    """A learner that can also make new examples of what it has seen.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-third-verb`.
    """

    def imagine(self, state: Any, n: int, generator: Generator) -> Bernoulli | Gaussian:
        """Distributions of ``n`` new examples of one kind, before the last noise: for pictures, their grey values."""
        raise NotImplementedError(f"{type(self).__name__} must define imagine(state, n, generator).")

    def sample(self, state: Any, n: int, generator: Generator) -> Tensor:
        """``n`` new examples [n, *input] of what was seen, each pixel drawn.

        Raises:
            ValueError: no example is asked for.
        """
        if n < 1:
            raise ValueError(f"n={n} examples cannot be drawn; ask for at least 1.")
        return self.imagine(state, n, generator).sample(generator)


def mean_log_density(outputs: Tensor, y: Any) -> Tensor:
    """The mean of log-densities [n], in nats an example; there are no targets."""
    return outputs.mean()


def minus_log_density(outputs: Tensor, y: Any) -> Tensor:
    """Minus :func:`mean_log_density`: a loss."""
    return -outputs.mean()


likelihood = Objective(minus_log_density, {"nats": Metric(mean_log_density, percent=False)})
"""How likely new examples of a kind were, in nats an example: of tasks without targets."""
