"""mlcore: meta-learning you can read. Episodes, MAML and its family, metric learners, measured against the papers."""

from mlcore.evaluation import Score, evaluate
from mlcore.learners import (
    ANIL,
    BOIL,
    CAVIA,
    IMAML,
    MAML,
    Baseline,
    Learner,
    MAMLPlusPlus,
    MatchingNet,
    MetaSGD,
    NearestNeighbour,
    ProtoMAML,
    ProtoNet,
    RelationNet,
    Reptile,
    Ridge,
    Siamese,
    SimpleShot,
)
from mlcore.nets import conv4, mlp
from mlcore.tasks import ClassificationTasks, RegressionTasks, SupervisedTasks, Task, seeded
from mlcore.training import History, meta_train

__all__ = [
    "ANIL",
    "BOIL",
    "CAVIA",
    "IMAML",
    "MAML",
    "Baseline",
    "ClassificationTasks",
    "History",
    "Learner",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaSGD",
    "NearestNeighbour",
    "ProtoMAML",
    "ProtoNet",
    "RegressionTasks",
    "RelationNet",
    "Reptile",
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
