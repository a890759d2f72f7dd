"""mlcore: meta-learning you can read. Episodes, MAML and its family, metric learners, measured against the papers."""

from mlcore.evaluation import Score, evaluate
from mlcore.hard_tasks import HardTasks
from mlcore.learners import (
    ANIL,
    BOIL,
    CAVIA,
    IMAML,
    MAML,
    Baseline,
    FineTune,
    Learner,
    MAMLPlusPlus,
    MatchingNet,
    MetaSGD,
    MetaTransfer,
    NearestNeighbour,
    ProtoMAML,
    ProtoNet,
    RelationNet,
    Reptile,
    Ridge,
    Siamese,
    SimpleShot,
)
from mlcore.nets import conv4, mlp, resnet12
from mlcore.tasks import ClassificationTasks, RegressionTasks, SupervisedTasks, Task, seeded
from mlcore.training import History, meta_train
from mlcore.transfer import changeable, merged

__all__ = [
    "ANIL",
    "BOIL",
    "CAVIA",
    "IMAML",
    "MAML",
    "Baseline",
    "ClassificationTasks",
    "FineTune",
    "HardTasks",
    "History",
    "Learner",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaSGD",
    "MetaTransfer",
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
    "changeable",
    "conv4",
    "evaluate",
    "merged",
    "meta_train",
    "mlp",
    "resnet12",
    "seeded",
]
