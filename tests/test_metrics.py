"""Metrics against numbers by hand, against scikit-learn, and in an evaluation."""

import math

import numpy as np
import pytest
import sklearn.metrics
import torch

from mlcore import ClassificationTasks, Metric, ProtoNet, classification, evaluate, seeded
from mlcore.metrics import calibration_error, confusion_matrix, per_class_report, top_k
from mlcore.objective import accuracy
from mlcore.tasks import rows


def test_top_k_counts_the_k_largest():
    outputs = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [math.nan, 2.0, 1.0]])
    y = rows(torch.tensor([0, 1, 2, 0]), 3)
    assert [top_k(k).of(outputs, y).item() for k in (1, 2, 3)] == [0.25, 0.5, 0.75]
    with pytest.raises(ValueError, match="k=4, but a task has only 3 ways"):
        top_k(4).of(outputs, y)
    with pytest.raises(ValueError, match="k must be at least 1, not 0"):
        top_k(0)


def test_the_calibration_error_is_the_papers():
    probabilities = torch.rand(500, 4, generator=seeded(0), dtype=torch.float64).square()
    probabilities /= probabilities.sum(1, keepdim=True)
    labels = torch.randint(4, (500,), generator=seeded(1))
    confidence, guess = probabilities.max(1)
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (confidence > low) & (confidence <= low + 0.1)
        if inside.any():
            gap = (guess == labels)[inside].double().mean() - confidence[inside].mean()
            expected += inside.double().mean() * gap.abs()
    metric = calibration_error(bins=10)
    error = metric.of(probabilities.log(), rows(labels, 4).double())
    assert error.item() == pytest.approx(expected.item(), rel=1e-9) and not metric.higher_is_better
    sure = 100 * rows(labels, 4)
    assert metric.of(sure, rows(labels, 4)) < 1e-6 and metric.of(sure.roll(1, 1), rows(labels, 4)) > 1 - 1e-6
    with pytest.raises(ValueError, match="bins must be at least 1, not 0"):
        calibration_error(0)


def test_several_metrics_are_reported_at_once():
    tasks = ClassificationTasks(torch.randn(60, 4, generator=seeded(0)), torch.arange(6).repeat(10), ways=3, queries=4)
    metrics = {"accuracy": Metric(accuracy), "top 2": top_k(2), "calibration error": calibration_error()}
    tasks.objective = classification._replace(metrics=metrics)
    score = evaluate(ProtoNet(torch.nn.Flatten()), tasks, episodes=30)
    assert score["top 2"].mean > score.mean and 0 < score["calibration error"].mean < 1
    assert list(score.metrics) == list(metrics)


@pytest.mark.filterwarnings("ignore:Precision is ill-defined")
def test_confusions_and_reports_are_those_of_scikit_learn():
    generator = np.random.default_rng(0)
    classes = ["cat", "dog", "fish"]
    right, given = (np.array(classes)[generator.integers(3, size=200)] for _ in range(2))
    matrix = confusion_matrix(given.tolist(), right, classes)
    np.testing.assert_array_equal(matrix, sklearn.metrics.confusion_matrix(right, given, labels=classes))
    report = per_class_report(given.tolist(), right, classes)
    expected = sklearn.metrics.precision_recall_fscore_support(right, given, labels=classes)
    np.testing.assert_allclose(np.array([report[name] for name in classes]).T, np.array(expected))


def test_outputs_may_stand_for_names():
    model = ProtoNet(torch.nn.Flatten()).fit(torch.eye(3), torch.tensor([9, 5, 7]))
    x, names = torch.eye(3)[[0, 0, 1, 2]], torch.tensor([9, 9, 7, 7])
    by_outputs = confusion_matrix(model.outputs(x), names, model.classes)
    assert torch.equal(by_outputs, confusion_matrix(model.predict(x), names, model.classes))
    assert by_outputs.tolist() == [[0, 0, 0], [1, 1, 0], [0, 0, 2]]
    report = per_class_report(model.predict(x), names, model.classes)
    assert report[9] == (1, 1, 1, 2) and report[7].recall == 0.5
    assert report[5].precision == 0 and math.isnan(report[5].recall) and report[5].examples == 0


@pytest.mark.parametrize(
    ("predicted", "names", "message"),
    [
        (["cat"], ["cow"], "'cow' is none of the 2 classes, such as 'cat'"),
        (["cat"], ["cat", "dog"], "1 predictions but 2 names"),
        (torch.zeros(1, 3), ["cat"], r"outputs must be \[n, 2 classes\], not \[1, 3\]"),
    ],
)
def test_bad_input_is_named(predicted, names, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(predicted, names, ["cat", "dog"])
