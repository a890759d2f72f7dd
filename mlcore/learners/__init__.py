"""Learners: one paper a file."""

from mlcore.learners.anil import ANIL
from mlcore.learners.base import Learner
from mlcore.learners.baseline import Baseline
from mlcore.learners.boil import BOIL
from mlcore.learners.cavia import CAVIA
from mlcore.learners.fine_tune import FineTune
from mlcore.learners.hausdorff import ModifiedHausdorff
from mlcore.learners.imaml import IMAML
from mlcore.learners.maml import MAML, inner_step
from mlcore.learners.mamlpp import MAMLPlusPlus
from mlcore.learners.matching import MatchingNet
from mlcore.learners.meta_sgd import MetaSGD
from mlcore.learners.meta_transfer import MetaTransfer
from mlcore.learners.metric import MetricLearner
from mlcore.learners.nearest_neighbour import NearestNeighbour
from mlcore.learners.protomaml import ProtoMAML
from mlcore.learners.protonet import ProtoNet, linear_head
from mlcore.learners.relation import RelationNet, relation_encoder
from mlcore.learners.reptile import Reptile
from mlcore.learners.ridge import Ridge
from mlcore.learners.siamese import Siamese
from mlcore.learners.simpleshot import SimpleShot

__all__ = [
    "ANIL",
    "BOIL",
    "CAVIA",
    "IMAML",
    "MAML",
    "Baseline",
    "FineTune",
    "Learner",
    "MAMLPlusPlus",
    "MatchingNet",
    "MetaSGD",
    "MetaTransfer",
    "MetricLearner",
    "ModifiedHausdorff",
    "NearestNeighbour",
    "ProtoMAML",
    "ProtoNet",
    "RelationNet",
    "Reptile",
    "Ridge",
    "Siamese",
    "SimpleShot",
    "inner_step",
    "linear_head",
    "relation_encoder",
]
