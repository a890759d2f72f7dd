"""AM3: prototypes mixed with what words say of a class (Xing, Rostamzadeh, Oreshkin and Pinheiro, 2019)."""

from typing import Any

from torch import Tensor, nn

from mlcore.learners.metric import class_means
from mlcore.learners.protonet import ProtoNet
from mlcore.nets.norms import BatchNormPolicy, Statistics
from mlcore.objective import Metric, Objective
from mlcore.task import Task
from mlcore.tasks.named import Named
from mlcore.wrapper import Wrapper


class WithWords(ProtoNet):
    """A ProtoNet whose prototypes are mixtures, p'_c = λ_c p_c + (1 - λ_c) w_c, of class means and of what words say.

    A subclass writes w_c, :meth:`said`, and λ_c, :meth:`trust`. Where no example of a class was seen, λ_c is 0. Tasks
    are :class:`~mlcore.tasks.NamedTasks`.

    Args:
        net: the embedding f.
        settings: as for :class:`~mlcore.learners.protonet.ProtoNet`; the distance is ``"scaled"``.
    """

    def __init__(self, net: nn.Module, **settings: Any) -> None:
        super().__init__(net, distance="scaled", **settings)

    def said(self, words: Tensor) -> Tensor:
        """What words [ways, size] say of where the classes are: [ways, features]."""
        raise NotImplementedError(f"{type(self).__name__} must define said(words).")

    def trust(self, said: Tensor, count: Tensor) -> Tensor:
        """λ_c, the share of a class mean of ``count`` [ways, 1] examples in a prototype: [ways, 1]."""
        raise NotImplementedError(f"{type(self).__name__} must define trust(said, count).")

    def prepare(self, task: Task, policy: BatchNormPolicy) -> Task:
        """Embeddings in place of inputs, and the words as they are."""
        if not isinstance(task.support, Named):
            raise TypeError(
                f"{type(self).__name__} needs a vector for each class: a support set Named(x, y, words), such as "
                f"NamedTasks gives, not {type(task.support).__name__}."
            )
        support, query = super().prepare(task, policy)
        return Task(Named(support.x, support.y, task.support.words.to(support.x)), query)

    def shares(self, data: Named) -> tuple[Tensor, Tensor]:
        """λ_c [ways, 1] and w_c [ways, features]."""
        said, count = self.said(data.words), data.y.sum(0)[:, None]
        return self.trust(said, count) * (count > 0), said

    def update(self, state: Any, data: Any) -> Tensor:
        """The mixtures p'_c [ways, features]."""
        share, said = self.shares(data)
        means = class_means(data.x, data.y).where(data.y.sum(0)[:, None] > 0, 0)
        return share * means + (1 - share) * said


class AM3(WithWords):
    """Adaptive Modality Mixture Mechanism: w_c = g(e_c) of a word vector e_c, and λ_c = 1 / (1 + exp(-h(w_c))).

    g and h have one hidden layer and dropout, as in the paper, and are trained with the embedding; or alone, where
    that is frozen.

    Args:
        net: the embedding f.
        features: length of an embedding.
        words: length of a word vector.
        hidden, dropout: of g and h.
        settings: as for :class:`WithWords`.

    Derived in: With words, :eq:`eq-words-am3`.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        features: int,
        words: int,
        hidden: int = 300,
        dropout: float = 0.7,
        **settings: Any,
    ) -> None:
        super().__init__(net, **settings)

        def two_layers(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs))

        self.g, self.h = two_layers(words, features), two_layers(features, 1)

    def said(self, words: Tensor) -> Tensor:
        """w_c = g(e_c): [ways, features]."""
        first = self.g[0]
        assert isinstance(first, nn.Linear)
        if words.shape[-1] != first.in_features:
            raise ValueError(
                f"words={first.in_features}, but a class comes with {words.shape[-1]} numbers; let words say that."
            )
        return self.g(words)

    def trust(self, said: Tensor, count: Tensor) -> Tensor:
        """λ_c of the word alone, however many examples there are: [ways, 1]."""
        return self.h(said).sigmoid()


class Trust(Wrapper):
    """Instead of an answer, how much a learner :class:`WithWords` trusts its class means: for :data:`trusted`."""

    def update(self, state: Any, data: Named) -> Tensor:
        """The mean λ over classes: a number."""
        assert isinstance(self.learner, WithWords)
        return self.learner.shares(data)[0].mean()

    def answer(self, policy: BatchNormPolicy, state: Any, support: Any, query_x: Any) -> tuple[Any, Statistics]:
        """That number, whatever the queries."""
        return state, {}


def _as_it_is(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs


trusted = Objective(_as_it_is, {"share of class means": Metric(_as_it_is)})
"""Reports what :class:`Trust` says."""
