"""Learners: one paper a file."""

from mlcore.learners.base import Learner
from mlcore.learners.maml import MAML, inner_step

__all__ = ["MAML", "Learner", "inner_step"]
