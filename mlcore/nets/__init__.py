"""Networks of the few-shot literature, and the layers that meta-gradients need."""

from mlcore.nets.derivatives import right_derivatives
from mlcore.nets.lstm import LSTMCell
from mlcore.nets.networks import UnitLength, conv4, mlp, resnet12
from mlcore.nets.norms import BatchNorm, BatchNormPolicy, as_torch, batch_norms, statistics_from, written_out
from mlcore.nets.scale_shift import changeable, merged
from mlcore.nets.transformer import TransformerEncoder

__all__ = [
    "BatchNorm",
    "BatchNormPolicy",
    "LSTMCell",
    "TransformerEncoder",
    "UnitLength",
    "as_torch",
    "batch_norms",
    "changeable",
    "conv4",
    "merged",
    "mlp",
    "resnet12",
    "right_derivatives",
    "statistics_from",
    "written_out",
]
