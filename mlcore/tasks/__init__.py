"""Distributions of tasks. A few-shot task is a *support set* to learn from and a *query set* to be judged on."""

from mlcore.task import Examples, Task, Tasks, rows, seeded
from mlcore.tasks.canvases import Canvases
from mlcore.tasks.class_names import group_of
from mlcore.tasks.episodes import ClassificationTasks
from mlcore.tasks.fixed import FixedTasks
from mlcore.tasks.functions import RegressionTasks
from mlcore.tasks.grouped import GroupedTasks
from mlcore.tasks.hard import HardTasks, failures
from mlcore.tasks.named import Named, NamedTasks
from mlcore.tasks.pairs import Pairs
from mlcore.tasks.recorded import RecordedTasks
from mlcore.tasks.sets import DrawingSets, Sets
from mlcore.tasks.streams import ClassByClass, StreamTasks
from mlcore.tasks.supervised import SupervisedTasks

__all__ = [
    "Canvases",
    "ClassByClass",
    "ClassificationTasks",
    "DrawingSets",
    "Examples",
    "FixedTasks",
    "GroupedTasks",
    "HardTasks",
    "Named",
    "NamedTasks",
    "Pairs",
    "RecordedTasks",
    "RegressionTasks",
    "Sets",
    "StreamTasks",
    "SupervisedTasks",
    "Task",
    "Tasks",
    "failures",
    "group_of",
    "rows",
    "seeded",
]
