"""Learners: one paper a file, one line here."""

from mlcore.learners.anil import ANIL as ANIL
from mlcore.learners.baseline import Baseline as Baseline
from mlcore.learners.boil import BOIL as BOIL
from mlcore.learners.cavia import CAVIA as CAVIA
from mlcore.learners.fine_tune import FineTune as FineTune
from mlcore.learners.hausdorff import ModifiedHausdorff as ModifiedHausdorff
from mlcore.learners.imaml import IMAML as IMAML
from mlcore.learners.maml import MAML as MAML
from mlcore.learners.mamlpp import MAMLPlusPlus as MAMLPlusPlus
from mlcore.learners.matching import MatchingNet as MatchingNet
from mlcore.learners.meta_sgd import MetaSGD as MetaSGD
from mlcore.learners.meta_transfer import MetaTransfer as MetaTransfer
from mlcore.learners.metric import MetricLearner as MetricLearner
from mlcore.learners.nearest_neighbour import NearestNeighbour as NearestNeighbour
from mlcore.learners.protomaml import ProtoMAML as ProtoMAML
from mlcore.learners.protonet import ProtoNet as ProtoNet
from mlcore.learners.relation import RelationNet as RelationNet
from mlcore.learners.reptile import Reptile as Reptile
from mlcore.learners.ridge import Ridge as Ridge
from mlcore.learners.siamese import Siamese as Siamese
from mlcore.learners.simpleshot import SimpleShot as SimpleShot
from mlcore.learners.soft_kmeans import SoftKMeans as SoftKMeans
