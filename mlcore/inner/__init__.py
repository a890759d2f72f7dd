"""The inner loop: a step, a solver made of steps, and ways back from its end to its beginning."""

from mlcore.inner.evolution import evolution_gradient
from mlcore.inner.implicit import conjugate_gradients, implicit
from mlcore.inner.steps import LossFn, Params, Rates, detached, inner_step, support_gradient
from mlcore.inner.unroll import SGD, Adam, AdamMemory, Optimiser, unroll

__all__ = [
    "SGD",
    "Adam",
    "AdamMemory",
    "LossFn",
    "Optimiser",
    "Params",
    "Rates",
    "conjugate_gradients",
    "detached",
    "evolution_gradient",
    "implicit",
    "inner_step",
    "support_gradient",
    "unroll",
]
