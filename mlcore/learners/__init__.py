"""Learners: one paper a file."""

from mlcore.learners.base import Learner
from mlcore.learners.baseline import Baseline
from mlcore.learners.hausdorff import ModifiedHausdorff
from mlcore.learners.maml import MAML, inner_step
from mlcore.learners.matching import MatchingNet
from mlcore.learners.metric import MetricLearner
from mlcore.learners.nearest_neighbour import NearestNeighbour
from mlcore.learners.protonet import ProtoNet, linear_head
from mlcore.learners.relation import RelationNet, relation_encoder
from mlcore.learners.ridge import Ridge
from mlcore.learners.siamese import Siamese
from mlcore.learners.simpleshot import SimpleShot

__all__ = [
    "MAML",
    "Baseline",
    "Learner",
    "MatchingNet",
    "MetricLearner",
    "ModifiedHausdorff",
    "NearestNeighbour",
    "ProtoNet",
    "RelationNet",
    "Ridge",
    "Siamese",
    "SimpleShot",
    "inner_step",
    "linear_head",
    "relation_encoder",
]
