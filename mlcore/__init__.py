"""mlcore: meta-learning you can read. Tasks and episodes, MAML and its family, measured against the papers."""

from mlcore.evaluation import Score, evaluate
from mlcore.learners import MAML, Learner
from mlcore.nets import conv4, mlp
from mlcore.tasks import ClassificationTasks, RegressionTasks, Task, seeded
from mlcore.training import History, meta_train

__all__ = [
    "MAML",
    "ClassificationTasks",
    "History",
    "Learner",
    "RegressionTasks",
    "Score",
    "Task",
    "conv4",
    "evaluate",
    "meta_train",
    "mlp",
    "seeded",
]
