"""Classification by models of the classes: whose statistic is near, or under whom is it likely."""

from typing import Any

import torch
from torch import Tensor

from mlcore.densities import Gaussian, divergences
from mlcore.learner import Learner
from mlcore.learners.neural_statistician import NeuralStatistician
from mlcore.task import Examples
from mlcore.tasks.sets import in_ink


class ByStatistic(Learner):
    """The class whose statistic is the nearest by KL divergence (Edwards and Storkey, 2017, section 5.2).

    Nothing in it was trained with labels. Images become ink and paper.

    Args:
        statistician: trained on sets.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-naming`.
    """

    def __init__(self, statistician: NeuralStatistician) -> None:
        super().__init__(mapping="vmap")
        self.statistician = statistician

    def update(self, state: Any, data: Examples) -> Gaussian:
        """q(c | the members of a class): [ways, statistic]."""
        h = self.statistician.encoder(in_ink(data.x))
        y = data.y.to(h.dtype)
        return self.statistician.statistic((y.mT @ h, y.sum(0)))

    def predict(self, state: Gaussian, x: Any) -> Tensor:
        """Minus KL(q(c | x) || q(c | class)): [n, ways]."""
        h = self.statistician.encoder(in_ink(x))
        own = self.statistician.statistic((h, h.new_ones(len(h))))
        p, q = (Gaussian(*(part.unsqueeze(at) for part in of)) for at, of in ((1, own), (0, state)))
        return -divergences(p, q)


class ByLikelihood(Learner):
    """Bayes' rule: the class under whose model of its support drawings the query is the most likely.

    Args:
        model: a learner whose ``predict`` gives log-densities, adapted to each class by itself.

    Derived in: A few of a kind, then more of it, :eq:`eq-generate-naming`.
    """

    def __init__(self, model: Learner) -> None:
        super().__init__(mapping="loop")  # which rows are of a class is not known before they are seen
        self.model = model

    def update(self, state: Any, data: Examples) -> list[Any]:
        """A state of the model for each class."""
        x = in_ink(data.x)
        return [self.model.adapt(Examples(x[of > 0])) for of in data.y.unbind(1)]

    def predict(self, state: list[Any], x: Any) -> Tensor:
        """log p(x | the class's support): [n, ways], by the same draws for all classes, so that less of chance is in
        their differences."""
        told, devices = [], [x.device] if x.is_cuda else []
        for i, of in enumerate(state):
            with torch.random.fork_rng(devices, enabled=i + 1 < len(state)):  # the last one uses the draws up
                told.append(self.model.predict(of, in_ink(x)))
        return torch.stack(told, 1)
