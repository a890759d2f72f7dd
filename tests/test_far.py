"""Far from home: images of one shape, and a forecast that Gaussian classes keep."""

import io
import zipfile
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mlcore import ClassificationTasks, ProtoNet, datasets, evaluate, rows, seeded
from mlcore.datasets import cache, in_colour
from mlcore.experiments.catalogue import RECIPES
from mlcore.experiments.catalogue.far import _SUPERCLASSES
from mlcore.forecast import Forecast, Scatter, expected_accuracy, foretold, scatter, signal_to_noise


def spread(dimensions: int) -> torch.Tensor:
    """A covariance without any symmetry."""
    root = torch.randn(dimensions, dimensions, generator=seeded(1)).double()
    return root @ root.T / dimensions + torch.diag(torch.linspace(0.1, 2, dimensions).double())


def drawn(means: torch.Tensor, within: torch.Tensor, each: int, *seed: int) -> torch.Tensor:
    """Gaussian classes: [classes, each, dimensions]."""
    noise = torch.randn(len(means), each, means.shape[1], generator=seeded(*seed)).double()
    return means[:, None] + noise @ torch.linalg.cholesky(within).T


def test_scatter_is_unbiased():
    within, means = spread(6), torch.randn(4, 6, generator=seeded(2)).double()
    y = rows(torch.arange(4).repeat_interleave(10))
    draws = [scatter(drawn(means, within, 10, 3, i).flatten(0, 1), y) for i in range(1000)]
    found = [torch.stack(parts).mean(0) for parts in zip(*draws, strict=True)]
    apart = means[:, None] - means
    truth = (
        apart.square().sum(-1),
        torch.einsum("abi,ij,abj->ab", apart, within, apart),
        within.trace(),
        (within @ within).trace(),
    )
    for estimate, exact in zip(found, truth, strict=True):
        torch.testing.assert_close(estimate, exact, rtol=0.05, atol=0.05)


def test_fisher_and_dimensions_are_those_of_the_matrices():
    within, means = spread(6), torch.randn(50, 6, generator=seeded(2)).double()
    seen = scatter(drawn(means, within, 100, 3).flatten(0, 1), rows(torch.arange(50).repeat_interleave(100)))
    assert seen.fisher == pytest.approx(float(means.T.cov().trace() / within.trace()), rel=0.04)
    assert seen.dimensions == pytest.approx(float(within.trace() ** 2 / (within @ within).trace()), rel=0.04)


@pytest.mark.parametrize("shots", [1, 5])
def test_the_score_has_the_mean_and_the_variance_that_signal_to_noise_says(shots):
    within, means = spread(4), torch.randn(2, 4, generator=seeded(5)).double()
    n = 400_000
    support = drawn(means, within / shots, n, 6, shots)
    query = drawn(means[:1], within, n, 7, shots)[0]
    score = (query - support[1]).square().sum(-1) - (query - support[0]).square().sum(-1)
    apart = means[0] - means[1]
    known = Scatter(
        apart @ apart * (1 - torch.eye(2)),
        apart @ within @ apart * (1 - torch.eye(2)),
        within.trace(),
        (within @ within).trace(),
    )
    ratio = signal_to_noise(known, shots)[0, 1]
    assert score.mean() == pytest.approx(float(known.apart[0, 1]), abs=4 * float(score.std()) / n**0.5)
    assert score.mean() / score.std() == pytest.approx(float(ratio), rel=0.01)


def test_expected_accuracy_of_two_is_a_normal_distribution_and_of_no_signal_chance():
    ratio = torch.full((3, 3), 0.7).double()
    assert expected_accuracy(ratio, 2) == pytest.approx(0.5 * (1 + torch.erf(torch.tensor(0.7 / 2**0.5)).item()))
    for ways in (2, 5, 20):
        assert expected_accuracy(0 * ratio, ways) == pytest.approx(1 / ways, rel=1e-4)


def test_expected_accuracy_of_five_is_that_of_scores_that_share_half_their_noise():
    noise = torch.randn(200_000, 5, generator=seeded(8)).double()
    scores = 0.7 + (noise[:, :1] - noise[:, 1:]) / 2**0.5
    right = (scores > 0).all(1).double().mean()
    assert expected_accuracy(torch.full((5, 5), 0.7).double(), 5) == pytest.approx(float(right), abs=0.004)


@pytest.mark.parametrize(("dimensions", "fisher", "shots"), [(20, 1.0, 5), (50, 0.1, 5), (200, 0.3, 1)])
def test_a_forecast_of_gaussian_classes_is_kept(dimensions, fisher, shots):
    within = torch.diag(torch.linspace(0.2, 3, dimensions).double())
    root = (fisher * within.diag().flip(0)).sqrt()
    means = root * torch.randn(60, dimensions, generator=seeded(9)).double()
    x = drawn(means, within, 40, 10)
    tasks = ClassificationTasks(
        x.flatten(0, 1).float(), torch.arange(60).repeat_interleave(40), ways=5, shots=shots, queries=15
    )
    measured = evaluate(ProtoNet(nn.Identity()), tasks, episodes=400, progress=False)
    calibration = tasks.replace(ways=20, shots=30, queries=1)
    calibration.objective = foretold
    forecast = evaluate(Forecast(nn.Identity(), shots=shots), calibration, episodes=10, progress=False)
    assert forecast.mean == pytest.approx(measured.mean, abs=0.03)


def test_a_forecast_does_not_depend_on_units_and_turns_but_on_scatter():
    x = torch.randn(60, 8, generator=seeded(11)).double()
    y = rows(torch.arange(6).repeat(10))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=seeded(12)).double())[0]

    def says(z: torch.Tensor) -> float:
        return float(expected_accuracy(signal_to_noise(scatter(z, y), 5), 5))

    assert says(3 * x @ turn + 2) == pytest.approx(says(x), abs=1e-9)
    accuracies = [says(x + far * y.double() @ torch.ones(6, 8).cumsum(0).double()) for far in (0.0, 0.2, 0.5, 2.0)]
    assert all(worse < better for worse, better in pairwise(accuracies))


# --- images of one shape ---------------------------------------------------------------------------------------------


def test_in_colour_puts_a_rim_around_a_grey_image_and_shows_it_three_times():
    x = torch.randint(1, 256, (8, 1, 28, 28), generator=seeded(0)).to(torch.uint8)
    tasks = in_colour(ClassificationTasks(x, [0, 1] * 4, ways=2, shots=1, queries=1))
    assert tasks.x.shape == (8, 3, 32, 32)
    assert torch.equal(tasks.x[:, :, 2:-2, 2:-2], x.expand(-1, 3, -1, -1))
    assert tasks.x.double().sum() == 3 * x.double().sum()
    assert tasks.sample(1, seeded(0)).support.x.shape == (1, 2, 3, 32, 32)


@pytest.mark.parametrize("shape", [(4, 1, 40, 40), (4, 2, 28, 28)])
def test_what_has_another_shape_is_refused(shape):
    tasks = ClassificationTasks(torch.zeros(shape), [0, 1] * 2, ways=2, shots=1, queries=1)
    with pytest.raises(ValueError, match=r"do not become \[3, 32, 32\]; give grey or colour images of at most 32"):
        in_colour(tasks)


@pytest.mark.usefixtures("needs_cifar")
def test_photographs_trained_on_are_in_nobodys_test():
    recipe = RECIPES["far-classifier-cifar-fs"]
    train = recipe.splits()[0]
    tests = [datasets.cifar(split)[2].classes for split in ("cifar_fs", "fc100")]
    assert len(train.classes) == 40 and {name.split("/")[0] for name in train.classes} <= set(_SUPERCLASSES)
    assert not set(train.classes) & {name for test in tests for name in test}
    assert len(set(datasets.cifar("cifar_fs")[0].classes) & set(tests[1])) == 11  # the chapter says eleven


# --- EuroSAT --------------------------------------------------------------------------------------------------------


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache folder of the test's own."""
    monkeypatch.setattr(cache, "cache_root", lambda: tmp_path / "cache")


def _archive(folder, names, colours=(200, 100, 50)):
    folder.mkdir()
    stream = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), colours, np.uint8)).save(stream, "JPEG")
    with zipfile.ZipFile(folder / "eurosat_rgb_300.zip", "w") as archive:
        for name in names:
            archive.writestr(name, stream.getvalue())


@pytest.mark.usefixtures("own_cache")
def test_eurosat_is_ten_classes_to_test_on(tmp_path):
    names = [f"Kind{c}/Kind{c}_{i}.jpg" for c in range(10) for i in range(300)]
    _archive(tmp_path / "eurosat", names)
    train, val, test = datasets.eurosat(root=tmp_path)
    assert train is None and val is None
    assert test.class_sizes == {f"Kind{c}": 300 for c in range(10)} and test.x.shape == (3000, 3, 32, 32)
    assert (test.x[0].float().mean((1, 2)) - torch.tensor([200.0, 100.0, 50.0])).abs().max() < 4


@pytest.mark.usefixtures("own_cache")
def test_eurosat_says_what_it_lacks(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no EuroSAT in .*: set \$MLCORE_DATA"):
        datasets.eurosat(root=tmp_path)
    _archive(tmp_path / "eurosat", ["Forest/Forest_1.jpg"])
    with pytest.raises(ValueError, match=r"holds \{'Forest': 1\} images, not 300 of each of 10 classes"):
        datasets.eurosat(root=tmp_path)
    (tmp_path / "eurosat" / "eurosat_rgb_300.zip").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"eurosat_rgb_300\.zip is truncated or damaged .* get it again"):
        datasets.eurosat(root=tmp_path)


@pytest.mark.usefixtures("needs_eurosat")
def test_the_real_eurosat_is_the_draw_of_three_thousand():
    test = datasets.load("eurosat")[2]
    assert set(test.class_sizes.values()) == {300} and "SeaLake" in test.classes and len(test.classes) == 10
