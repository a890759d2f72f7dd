"""Learners as classifiers of scikit-learn (extra ``sklearn``)."""

from typing import Any, Self

import numpy as np
import torch

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.preprocessing import StandardScaler
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise LookupError("scikit-learn is not installed; pip install 'mlcore[sklearn]'.") from error

from mlcore import load
from mlcore.learner import Learner
from mlcore.learners import NearestNeighbour, PriorFitted
from mlcore.nets.norms import BatchNormPolicy


class FewShotClassifier(ClassifierMixin, BaseEstimator):
    """A learner behind ``fit`` and ``predict``: the training set is one support set, as in :meth:`mlcore.Learner.fit`.

    Meta-training comes before, through :func:`mlcore.meta_train`. ``X`` is [n, *input]; ``uint8`` means image bytes,
    anything else becomes floats of the network's precision.

    Args:
        learner: any learner of classes; the nearest neighbour by default.
        batch_norm: whose statistics normalise the queries, as for :meth:`mlcore.Learner.fit`.
    """

    def __init__(self, learner: Learner | None = None, *, batch_norm: BatchNormPolicy | None = None) -> None:
        self.learner = learner
        self.batch_norm: BatchNormPolicy | None = batch_norm

    def fit(self, X: Any, y: Any) -> Self:
        """Adapt to labelled examples X [n, *input] of classes y [n]."""
        X, y = validate_data(self, X, y, allow_nd=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        learner = NearestNeighbour() if self.learner is None else self.learner
        # What has no weights computes in double precision, as scikit-learn does.
        self._dtype = next((p.dtype for p in learner.parameters()), torch.float64)
        self.model_ = learner.fit(self._tensor(X), labels, batch_norm=self.batch_norm)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [n, classes], in the order of ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, allow_nd=True)
        return self.model_.probabilities(self._tensor(X)).double().cpu().numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The class of each example: [n]."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _tensor(self, X: np.ndarray) -> torch.Tensor:
        x = torch.as_tensor(X)
        return x if x.dtype == torch.uint8 else x.to(self._dtype)


class PriorFittedClassifier(ClassifierMixin, BaseEstimator):
    """A small prior-fitted network for tables of numbers: ``fit`` reads the rows once, without training.

    The network has seen tables of two classes, of 2 to 8 columns and 10 to 80 labelled rows; it answers for tables of
    other sizes too, and for more than two classes asks for each against the rest. Time and memory grow with the squares
    of rows and of columns.

    Args:
        learner: a trained :class:`~mlcore.PriorFitted`; the one that ships with the book by default.

    Chapter: Prior-fitted networks.
    """

    def __init__(self, learner: PriorFitted | None = None) -> None:
        self.learner = learner

    def fit(self, X: Any, y: Any) -> Self:
        """Read labelled rows X [n, columns] of classes y [n]."""
        X, y = validate_data(self, X, y)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y has one class, {self.classes_[0]}; a classifier needs rows of two or more.")
        learner = load("prior-fitted-tables") if self.learner is None else self.learner
        self._dtype = next(learner.parameters()).dtype
        # Standardised here in double precision, where a large mean costs no digits; the learner does it once more.
        self._scaler = StandardScaler().fit(X)
        asked = range(1 if len(self.classes_) == 2 else 0, len(self.classes_))
        self.models_ = [learner.fit(self._tensor(X), (labels == k).astype(int)) for k in asked]
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities [n, classes], in the order of ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        x = self._tensor(X)
        positive = np.stack([model.probabilities(x)[:, 1].double().numpy() for model in self.models_], 1)
        if len(self.models_) == 1:
            return np.concatenate([1 - positive, positive], 1)
        return positive / positive.sum(1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row: [n]."""
        best = self.predict_proba(X).argmax(1)
        return self.classes_[best]

    def _tensor(self, X: Any) -> torch.Tensor:
        return torch.as_tensor(self._scaler.transform(X)).to(self._dtype)
