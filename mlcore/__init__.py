"""mlcore: meta-learning you can read. Episodes, MAML and its family, metric learners, measured against the papers."""

from pathlib import Path as _Path

from mlcore.adapted import AdaptedModel as AdaptedModel
from mlcore.checkpoint import History as History
from mlcore.evaluation import Score as Score
from mlcore.evaluation import evaluate as evaluate
from mlcore.evaluation import mean_interval as mean_interval
from mlcore.learner import Learner as Learner
from mlcore.learners import *  # noqa: F403
from mlcore.nets import as_torch as as_torch
from mlcore.nets import changeable as changeable
from mlcore.nets import conv4 as conv4
from mlcore.nets import merged as merged
from mlcore.nets import mlp as mlp
from mlcore.nets import resnet12 as resnet12
from mlcore.objective import Metric as Metric
from mlcore.objective import Objective as Objective
from mlcore.objective import classification as classification
from mlcore.objective import regression as regression
from mlcore.tasks import *  # noqa: F403
from mlcore.training import meta_train as meta_train


def load(name: str | _Path) -> Learner:
    """A trained learner that ships with the book: ``mlcore.load("protonet-omniglot-1s")``.

    See :func:`mlcore.experiments.weights.load`.
    """
    from mlcore.experiments import weights  # recipes need the extra "data"; the line above does not

    return weights.load(name)
