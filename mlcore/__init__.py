"""mlcore: meta-learning you can read. Episodes, MAML, metric learners and baselines, measured against the papers."""

from mlcore.evaluation import Score, evaluate
from mlcore.learners import (
    MAML,
    Baseline,
    Learner,
    MatchingNet,
    NearestNeighbour,
    ProtoNet,
    RelationNet,
    Ridge,
    Siamese,
    SimpleShot,
)
from mlcore.nets import conv4, mlp
from mlcore.tasks import ClassificationTasks, RegressionTasks, SupervisedTasks, Task, seeded
from mlcore.training import History, meta_train

__all__ = [
    "MAML",
    "Baseline",
    "ClassificationTasks",
    "History",
    "Learner",
    "MatchingNet",
    "NearestNeighbour",
    "ProtoNet",
    "RegressionTasks",
    "RelationNet",
    "Ridge",
    "Score",
    "Siamese",
    "SimpleShot",
    "SupervisedTasks",
    "Task",
    "conv4",
    "evaluate",
    "meta_train",
    "mlp",
    "seeded",
]
