"""A learner as a classifier of scikit-learn keeps scikit-learn's contract."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from mlcore import NearestNeighbour, PriorFitted, ProtoNet, conv4, mlp
from mlcore.sklearn import FewShotClassifier, PriorFittedClassifier


def pixels() -> ProtoNet:
    """Prototypes in the space of the inputs, whatever their number."""
    return ProtoNet(torch.nn.Flatten())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # scikit-learn's checks warn of what they leave out
@pytest.mark.parametrize("learner", [None, NearestNeighbour(), pixels()])
def test_it_keeps_the_contract(learner):
    check_estimator(FewShotClassifier(learner))


def test_it_works_where_classifiers_do():
    generator = np.random.default_rng(0)
    y = np.array(["cat", "dog", "fish"])[np.arange(60) % 3]
    x = generator.normal(size=(60, 4)) + 4 * np.eye(3, 4)[np.arange(60) % 3]
    classifier = FewShotClassifier(pixels())
    assert cross_val_score(make_pipeline(StandardScaler(), classifier), x, y, cv=3).mean() > 0.9
    copy = clone(classifier).set_params(batch_norm="running")
    assert classifier.get_params() == {"learner": classifier.learner, "batch_norm": None}
    assert copy.get_params()["batch_norm"] == "running"


def test_images_stay_images():
    torch.manual_seed(0)
    images = np.random.default_rng(0).integers(256, size=(6, 1, 16, 16), dtype=np.uint8)
    learner = ProtoNet(conv4(filters=4, image_size=16))
    classifier = FewShotClassifier(learner).fit(images, [3, 1, 2, 1, 2, 3])
    expected = learner.fit(torch.tensor(images), [3, 1, 2, 1, 2, 3])
    assert classifier.classes_.tolist() == [1, 2, 3]
    assert classifier.predict(images).tolist() == expected.predict(images)
    np.testing.assert_allclose(classifier.predict_proba(images), expected.probabilities(images), rtol=1e-6)
    as_floats = FewShotClassifier(learner).fit(images / 255, [3, 1, 2, 1, 2, 3])  # numpy's doubles
    np.testing.assert_allclose(as_floats.predict_proba(images / 255), classifier.predict_proba(images), rtol=1e-4)


def test_a_network_of_rows_answers_in_its_own_precision():
    torch.manual_seed(0)
    classifier = FewShotClassifier(ProtoNet(mlp(4, 8))).fit(np.eye(4), [0, 0, 1, 1])
    assert classifier.predict(np.eye(4)).tolist() == [0, 0, 1, 1]
    assert classifier.score(np.eye(4), [0, 0, 1, 1]) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_network_for_tables_keeps_the_contract():
    check_estimator(PriorFittedClassifier())


def test_the_network_for_tables_names_the_classes_of_real_ones():
    x, y = load_iris(return_X_y=True)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    classifier = PriorFittedClassifier().fit(x[::2], names[::2])
    assert classifier.score(x[1::2], names[1::2]) > 0.9
    np.testing.assert_allclose(classifier.predict_proba(x).sum(1), 1, rtol=1e-6)
    moved = PriorFittedClassifier().fit(1e6 + 1e-3 * x[::2], names[::2]).predict_proba(1e6 + 1e-3 * x)
    np.testing.assert_allclose(moved, classifier.predict_proba(x), atol=1e-3)
    two = PriorFittedClassifier().fit(x[50::2], names[50::2])
    assert two.classes_.tolist() == ["versicolor", "virginica"] and len(two.models_) == 1
    assert two.score(x[51::2], names[51::2]) > 0.85


def test_a_network_of_ones_own_answers_in_its_precision():
    torch.manual_seed(0)
    learner = PriorFitted(width=8, hidden=8, layers=1).double()
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    found = PriorFittedClassifier(learner).fit(x, y).predict_proba(x)[:, 1]
    expected = learner.fit(torch.tensor(x), y).probabilities(torch.tensor(x))[:, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_single_class_is_refused():
    with pytest.raises(ValueError, match="y has one class, 1; a classifier needs rows of two or more"):
        PriorFittedClassifier().fit(np.eye(3), [1, 1, 1])
