"""Masks and boxes: exact decisions by enumeration, canvases, learners of masks, cells from a few marked ones."""

import io
import math
import zipfile
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from torch import nn

from mlcore import (
    Canvases,
    ColourBlobs,
    CutByColour,
    Examples,
    MatchedFilter,
    PixelPrototypes,
    SiameseUNet,
    Task,
    evaluate,
    meta_train,
    seeded,
)
from mlcore.datasets import KINDS_OF_CELLS, MarkedCells, blood_cells, canvases, load, made_up_cells
from mlcore.detection import (
    NO_BOX,
    Found,
    average_precision,
    check_boxes,
    detection,
    overlaps,
    right_ones,
    without_doubles,
)
from mlcore.learners.cut_by_colour import cropped, pieces
from mlcore.learners.matched_filter import normalised_correlation
from mlcore.nets.unet import UNet
from mlcore.segmentation import (
    best_mask,
    cut_for_pooled_iou,
    expected_iou,
    iou,
    iou_at,
    pooled_iou,
    segmentation,
)
from mlcore.tasks.canvases import placed


def outcomes(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every mask of so many independent pixels [2^n, n], and its probability."""
    masks = torch.tensor(list(product([0.0, 1.0], repeat=len(p))), dtype=torch.float64)
    return masks, torch.where(masks.bool(), p, 1 - p).prod(1)


def probabilities(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, generator=seeded(seed), dtype=torch.float64)


# Which mask to answer with.


@pytest.mark.parametrize("seed", range(5))
def test_the_best_mask_by_enumeration(seed):
    """eq-find-expected: of all answers the best is some k most probable pixels, and its value is the formula's."""
    p = probabilities(7, seed) ** (1 + seed)
    truths, weights = outcomes(p)
    values = torch.stack(
        [weights @ iou(answer.expand_as(truths)[:, None], truths[:, None]).double() for answer in truths]
    )
    found = expected_iou(p)
    assert found.max().item() == pytest.approx(values.max().item(), abs=1e-6)
    order = p.argsort(descending=True)
    for k in range(8):
        answer = torch.zeros(7, dtype=torch.float64).index_fill(0, order[:k], 1.0)
        mine = (truths == answer).all(1).nonzero().item()
        assert found[k].item() == pytest.approx(values[mine].item(), abs=1e-6)
    chosen = (truths == best_mask(p).double()).all(1).nonzero().item()
    assert values[chosen].item() == pytest.approx(values.max().item(), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_of_the_pooled_iou_by_enumeration(seed):
    """eq-find-threshold: the answer with the largest ratio of expected sums is what lies above J / (1 + J)."""
    p = probabilities(9, seed) ** 2
    answers, _ = outcomes(p)
    ratio = (answers @ p) / (answers.sum(1) + (1 - answers) @ p)
    cut, best = cut_for_pooled_iou(p)
    assert best == pytest.approx(ratio[1:].max().item())
    assert torch.equal(answers[1 + int(ratio[1:].argmax())], (p > cut).double())
    assert cut == pytest.approx(best / (1 + best)) and cut <= 0.5


def test_two_candidates_divide_the_two_averages():
    """eq-find-averages: alike in every pixel's probability, one is best answered whole, the other in part."""
    p = torch.tensor([0.6] * 4 + [0.4] * 4)  # one of two things, never both
    cut, pooled = cut_for_pooled_iou(p)
    assert cut < 0.4 and pooled == pytest.approx(0.5)
    truths = torch.tensor([[1.0] * 4 + [0.0] * 4, [0.0] * 4 + [1.0] * 4])
    weights = torch.tensor([0.6, 0.4])
    one, both = (weights @ iou(answer.expand(2, -1)[:, None], truths[:, None]) for answer in (truths[0], torch.ones(8)))
    assert one == pytest.approx(0.6) and both == pytest.approx(0.5)


def test_iou_by_hand_and_by_sets():
    a, b = torch.tensor([[1.0, 1, 0], [0, 0, 0]]), torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    assert iou(a, b) == pytest.approx(1 / 3) and iou(a, a) == 1 and iou(torch.zeros(2, 3), torch.zeros(2, 3)) == 1
    masks = torch.rand(2, 6, 5, 4, generator=seeded(0)) > 0.6
    for x, y, value in zip(*masks, iou(*masks), strict=True):
        first, second = (set(map(tuple, m.nonzero().tolist())) for m in (x, y))
        assert value == pytest.approx(len(first & second) / len(first | second))
    both, either = (masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum()
    assert pooled_iou(*masks) == pytest.approx((both / either).item())


def test_masks_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"masks said are \[1, 8, 8\] but those asked for \[1, 4, 4\]; resize one"):
        segmentation.loss(torch.zeros(1, 8, 8), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="threshold=1 is a probability"):
        iou_at(1)


# Finding a template.


def test_correlation_is_numpys():
    """eq-find-ncc, window by window."""
    x = torch.rand(1, 9, 11, generator=seeded(0), dtype=torch.float64)
    t = torch.rand(3, 5, generator=seeded(1), dtype=torch.float64)
    found, padded = normalised_correlation(x, t)[0], np.pad(x[0].numpy(), ((1, 1), (2, 2)))
    for i, j in product(range(9), range(11)):
        window = padded[i : i + 3, j : j + 5].ravel()
        assert found[i, j].item() == pytest.approx(np.corrcoef(window, t.numpy().ravel())[0, 1], abs=1e-6)


def test_the_matched_filter_beats_other_filters_in_white_noise():
    """eq-find-matched: its power is Φ(√d² - z), and no other direction has more."""
    template = torch.rand(25, generator=seeded(0), dtype=torch.float64)
    noise = torch.randn(20_000, 25, generator=seeded(1), dtype=torch.float64)

    def caught(filter_: torch.Tensor) -> float:
        absent, present = noise @ filter_, (noise + template) @ filter_
        return (present > absent.quantile(0.95)).double().mean().item()

    expected = torch.distributions.Normal(0.0, 1.0).cdf(template.norm() - 1.6449).item()
    assert caught(template) == pytest.approx(expected, abs=0.01)
    for seed in range(5):
        other = template + 0.5 * torch.randn(25, generator=seeded(2, seed), dtype=torch.float64)
        assert caught(other) < caught(template)


def test_a_matched_filter_finds_its_template():
    learner = MatchedFilter(sizes=(1.0,))
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:6, 3] = mask[0, 5, 3:6] = 1
    canvas = torch.zeros(1, 3, 24, 24)
    canvas[0, :, 9:17, 12:20] = mask * torch.tensor([0.2, 0.9, 0.4])[:, None, None]
    with torch.no_grad():
        learner.kappa.fill_(8.0)
        said = learner.predict(learner.adapt(Examples(canvas[..., :8, :8], mask)), canvas)
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[9:17, 12:20] = mask[0].bool()
    assert torch.equal(said[0] > 0, expected)


# Canvases.


@pytest.fixture(scope="module")
def glyph_canvases() -> Canvases:
    return canvases(of="glyphs", characters=4, queries=2, side=32)[2]


def test_canvases_are_a_pure_function_of_the_generator(glyph_canvases):
    one, same, other = (glyph_canvases.sample(3, seeded(seed)) for seed in (0, 0, 1))
    for a, b in zip((*one.support, *one.query), (*same.support, *same.query), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.query.x, other.query.x)
    assert one.support.x.shape == (3, 1, 3, 16, 16) and one.support.y.shape == (3, 1, 16, 16)
    assert one.query.x.shape == (3, 2, 3, 32, 32) and one.query.y.shape == (3, 2, 32, 32)


def test_what_is_masked_lies_on_top_in_one_colour(glyph_canvases):
    task = glyph_canvases.replace(characters=12).sample(8, seeded(0))
    for half in task:
        for x, y in zip(half.x.flatten(0, 1), half.y.flatten(0, 1), strict=True):
            assert y.any() and len(x[:, y.bool()].unique(dim=1).T) == 1
            assert not (x[:, ~y.bool()] == x[:, y.bool()][:, :1]).all(0).any()  # and nothing else has it
    alone = glyph_canvases.replace(characters=1).sample(2, seeded(0)).query
    assert torch.equal(alone.x.amax(2) > 0, alone.y.bool())


def test_nothing_leaves_the_canvas():
    """The area of a square that is stretched and moved but not cut is what the stretches say, on average."""
    square = torch.zeros(1, 28, 28)
    square[:, 7:21, 7:21] = 1
    area = placed(square.expand(2_000, -1, -1), 64, 20.0, 2.0, seeded(0)).float().mean((1, 2)).mean() * 64**2
    stretch = (2 - 1 / 2) / (2 * math.log(2))  # the mean of 2^u, u uniform on [-1, 1]
    assert area.item() == pytest.approx(100 * stretch**2 * math.cos(0), rel=0.12)


def test_a_range_of_characters_is_drawn(glyph_canvases):
    many = glyph_canvases.replace(characters=(1, 8))
    ink = [many.sample(1, seeded(i)).query.x.amax(2).gt(0).float().mean().item() for i in range(20)]
    assert max(ink) > 3 * min(ink)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"characters": 0}, ValueError, "characters must be at least 1"),
        ({"noise": -1.0}, ValueError, "noise=-1.0 must not be negative"),
        ({"queries": 30}, ValueError, "lower shots or queries"),
        ({"ways": 5}, TypeError, "Canvases has no ways to replace"),
    ],
)
def test_bad_sizes_of_canvases_are_refused(glyph_canvases, settings, error, message):
    with pytest.raises(error, match=message):
        glyph_canvases.replace(**settings)


def test_a_canvas_has_room():
    with pytest.raises(ValueError, match="side=20 must be a multiple of 16"):
        canvases(side=20)


# Learners of masks keep what every learner promises.

WIDTHS = (3, 4, 5, 6)


def _shapes() -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Linear(16, 4))


MASKS: dict[str, Any] = {
    "Siamese U-Net": lambda **s: SiameseUNet(UNet(3, WIDTHS), **s),
    "pixel prototypes": lambda **s: PixelPrototypes(UNet(3, WIDTHS), **s),
    "matched filter": lambda **s: MatchedFilter(**s),
    "cut by colour": lambda **s: CutByColour(_shapes()),
    "cut by colour, pixels": lambda **s: CutByColour(),
}
every_mask = pytest.mark.parametrize("kind", MASKS)


def made(kind: str, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return MASKS[kind](**settings).double()


@pytest.fixture(scope="module")
def drawn(glyph_canvases) -> Task:
    task = glyph_canvases.replace(shots=3, queries=2).sample(3, seeded(0))
    return task.each(lambda tensor: tensor.double())


@every_mask
def test_support_drawings_have_no_order(kind, drawn):
    learner, order = made(kind).eval(), [2, 0, 1]
    other = drawn._replace(support=Examples(*(part[:, order] for part in drawn.support)))
    torch.testing.assert_close(learner(other), learner(drawn), rtol=1e-6, atol=1e-6)


@every_mask
def test_drawings_may_come_one_after_another(kind, drawn):
    learner = made(kind).eval()
    task = drawn.each(lambda tensor: tensor[0])
    state = learner.begin()
    for i in range(3):
        state = learner.update(state, Examples(task.support.x[i : i + 1], task.support.y[i : i + 1]))
    whole = learner.predict(learner.adapt(task.support), task.query.x)
    torch.testing.assert_close(learner.predict(state, task.query.x), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["Siamese U-Net", "pixel prototypes", "matched filter"])
def test_a_loop_and_all_at_once_are_one_computation(kind, drawn):
    results = []
    for mapping in ("loop", 2, "vmap"):
        learner = made(kind, mapping=mapping)
        judged = learner.meta_backward(drawn, segmentation)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters()]
        assert any(gradient.any() for gradient in gradients)
        results.append((judged, gradients))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-6, atol=1e-8)


@every_mask
def test_masks_are_saved_whole_and_keep_their_precision(kind, drawn):
    learner, other = made(kind), made(kind, seed=1)
    learner.meta_backward(drawn, segmentation)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    first, second = (each.eval()(drawn) for each in (learner, other))
    assert torch.equal(first, second) and first.shape == drawn.query.y.shape
    assert first.dtype == torch.float64 and first.isfinite().all()


@every_mask
def test_a_query_sees_no_other_query(kind, drawn):
    learner = made(kind).eval()
    alone = drawn._replace(query=Examples(*(part[:, :1] for part in drawn.query)))
    torch.testing.assert_close(learner(alone), learner(drawn)[:, :1], rtol=1e-9, atol=1e-9)


def test_prototypes_of_pixels_by_hand(drawn):
    """eq-find-prototypes, one pixel at a time."""
    learner = made("pixel prototypes").eval()
    x, y = drawn.support.x[0], drawn.support.y[0].bool()
    z = learner.turn(learner.net(x)).movedim(1, -1)
    inside, outside = z[y].mean(0), z[~y].mean(0)
    pixel = learner.turn(learner.net(drawn.query.x[0]))[1, :, 5, 7]
    cosine = torch.nn.functional.cosine_similarity
    expected = learner.scale * (cosine(pixel, inside, dim=0) - cosine(pixel, outside, dim=0))
    torch.testing.assert_close(learner(drawn)[0, 1, 5, 7], expected)


def test_a_code_is_compared_with_every_place(drawn):
    """eq-find-siamese: without the outline, a logit is the scaled cosine of code and place, between their centres."""
    learner: Any = made("Siamese U-Net").eval()
    nn.init.zeros_(learner.head.weight)
    nn.init.zeros_(learner.bias)
    task = drawn.each(lambda tensor: tensor[:, :1])
    z = learner.compare(learner.net.encode(task.query.x[0])[0])[0]
    code = learner.adapt(task.each(lambda tensor: tensor[0]).support)[0]
    assert code.norm().item() == pytest.approx(1.0)
    cosines = torch.einsum("chw,c->hw", z, code) / z.norm(dim=0)
    whole = torch.nn.functional.interpolate(cosines[None, None], size=(32, 32), mode="bilinear")[0, 0]
    torch.testing.assert_close(learner(task)[0, 0], learner.scale * whole)


def test_pieces_are_the_characters(glyph_canvases):
    """eq-find-pieces: of a canvas without noise; the one on top is whole."""
    query = glyph_canvases.replace(characters=3).sample(4, seeded(2)).query
    for x, y in zip(query.x.flatten(0, 1), query.y.flatten(0, 1), strict=True):
        found = pieces(x)
        assert len(found) <= 3 and (found == y.bool()).flatten(1).all(1).any()
    hidden = glyph_canvases.replace(noise=0.05).sample(1, seeded(0)).query
    crumbs = pieces(hidden.x[0, 0])
    assert iou(crumbs, hidden.y[0].bool()[:1].expand_as(crumbs)).max() < 0.3


def test_a_shape_is_cropped_to_its_box():
    mask = torch.zeros(2, 40, 40, dtype=torch.bool)
    mask[0, 10:24, 5:19] = True
    mask[0, 12:20, 7:15] = False
    ring = cropped(mask)
    assert ring.shape == (2, 1, 28, 28) and not ring[1].any()
    assert ring[0, 0, 0].min() > 0.9 and ring[0, 0, 10:12, 10:12].max() < 0.1


def test_cutting_finds_what_noise_hides(glyph_canvases):
    tasks = glyph_canvases.replace(characters=2, queries=1)
    with_noise = tasks.replace(noise=0.05)
    clear, hidden = (evaluate(CutByColour(), t, episodes=30, progress=False).mean for t in (tasks, with_noise))
    assert clear > 0.5 and hidden < 0.1


@pytest.mark.slow
def test_a_siamese_unet_learns_to_outline(glyph_canvases):
    """Where only one character is on a page, so that nothing needs to be found."""
    torch.manual_seed(0)
    learner, alone = SiameseUNet(UNet(3, (8, 12, 16, 24))), glyph_canvases.replace(characters=1, queries=1)
    before = evaluate(learner, alone, episodes=30, progress=False).mean
    meta_train(learner, alone, iterations=160, meta_batch=16, outer_lr=5e-3, seed=0, progress=False)
    assert before < 0.2 < 0.7 < evaluate(learner, alone, episodes=30, progress=False).mean


def test_pictures_of_odd_sides_are_refused():
    with pytest.raises(ValueError, match="30 × 32 pixels needs sides that are multiples of 8"):
        UNet()(torch.zeros(1, 3, 30, 32))


# Boxes.


def test_average_precision_by_hand():
    """Ranked right, wrong, right, and one that nobody found: (1/1 + 2/3) / 3."""
    scores, hits = torch.tensor([0.9, 0.8, 0.3]), torch.tensor([True, False, True])
    assert average_precision(scores, hits, 3) == pytest.approx((1 + 2 / 3) / 3)
    assert average_precision(scores[:0], hits[:0], 2) == 0


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_scikit_learns(seed):
    """eq-find-ap: where everything is on the list, with and without equal scores."""
    hits = torch.rand(40, generator=seeded(seed)) < 0.4
    scores = torch.rand(40, generator=seeded(seed, 1)) + hits
    for ranked in (scores, (4 * scores).round()):
        ours = average_precision(ranked, hits, int(hits.sum()))
        assert ours == pytest.approx(average_precision_score(hits.numpy(), ranked.numpy()))
    missed = average_precision(scores, hits, 2 * int(hits.sum()))
    assert missed == pytest.approx(average_precision(scores, hits, int(hits.sum())) / 2)


def test_more_hits_than_objects_are_refused():
    with pytest.raises(ValueError, match="positives=1 objects cannot have 2 hits"):
        average_precision(torch.ones(2), torch.ones(2, dtype=torch.bool), 1)


@pytest.mark.slow
def test_overlaps_and_doubles_are_torchvisions():
    from torchvision.ops import box_iou, nms

    corners = 20 * torch.rand(30, 2, generator=seeded(0))
    boxes = torch.cat([corners, corners + 1 + 10 * torch.rand(30, 2, generator=seeded(1))], 1)
    torch.testing.assert_close(overlaps(boxes, boxes[:7]), box_iou(boxes, boxes[:7]))
    kept = without_doubles(boxes, 0.3).nonzero()[:, 0]
    assert torch.equal(kept, nms(boxes, -torch.arange(30.0), 0.3)) and 1 < len(kept) < 30


def test_an_object_is_found_once():
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[1.0, 0, 11, 10], [0, 0, 10, 10], [21, 21, 31, 31], [50, 50, 60, 60]])
    assert right_ones(boxes, truth).tolist() == [True, False, True, False]
    assert right_ones(boxes, truth[:0]).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0.0, 0, 161, 20], r"the box \(0, 0, 161, 20\) is not within its picture of 160 × 120 pixels; clip it"),
        ([-1.0, 0, 10, 20], "is not within its picture"),
        ([30.0, 0, 10, 20], r"the box \(30, 0, 10, 20\) is empty; give left, top, right, bottom"),
    ],
)
def test_bad_boxes_are_refused(box, message):
    with pytest.raises(ValueError, match=message):
        check_boxes(torch.tensor([box]), 120, 160)
    cells = made_up_cells("WBC", pictures=12)
    with pytest.raises(ValueError, match=message):
        cells.smears.boxes["WBC"][0] = torch.tensor([box])
        MarkedCells(cells.smears, "WBC")


def test_objectives_of_boxes_by_hand():
    truth = torch.full((1, 3, 4), torch.nan)
    truth[0, 0], truth[0, 1] = torch.tensor([0.0, 0, 10, 10]), torch.tensor([20.0, 20, 30, 30])
    boxes = torch.tensor([[[0.0, 0, 10, 10], [40, 40, 50, 50], [0, 0, 0, 0]]])
    found = Found(boxes, torch.tensor([[0.9, 0.7, NO_BOX]]))
    assert detection.metrics["AP"].of(found, truth).item() == pytest.approx(0.5)
    assert detection.loss(found, truth).item() == pytest.approx(0.5)
    assert detection.metrics["counting error"].of(found, truth).item() == 0


def test_marked_cells_are_theirs():
    tasks = made_up_cells("Platelets", pictures=15, shots=3, queries=4)
    one, same = (tasks.sample(2, seeded(0)) for _ in range(2))
    assert torch.equal(one.support.y, same.support.y) and torch.equal(one.query.x, same.query.x)
    assert one.support.x.shape == (2, 3, 3, 120, 160) and one.support.y.shape == (2, 3, 4)
    for x, box in zip(one.support.x.flatten(0, 1), one.support.y.flatten(0, 1), strict=True):
        ours = [i for i, image in enumerate(tasks.smears.images) if torch.equal(image.float() / 255, x)]
        assert len(ours) == 1 and (tasks.smears.boxes["Platelets"][ours[0]] == box).all(1).any()
    assert (~one.query.y.isnan().any(-1)).any(-1).all()  # every picture asked about has one
    with pytest.raises(ValueError, match=r"there is no kind 'white'; choose one of RBC, WBC, Platelets"):
        made_up_cells("white")
    with pytest.raises(ValueError, match="only 15 pictures show RBC; lower queries"):
        made_up_cells("RBC", pictures=15, queries=15)
    assert KINDS_OF_CELLS == tuple(tasks.smears.boxes)


def test_the_direction_of_colours_is_fishers():
    """eq-find-whitened, by scikit-learn's discriminant."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    task = made_up_cells("WBC", pictures=12, shots=2, queries=1).sample(1, seeded(0)).each(lambda t: t[0])
    learner = ColourBlobs()
    state = learner.adapt(task.support)
    w = learner.direction_of(state).numpy()
    inside = []
    for left, top, right, bottom in task.support.y.tolist():
        y, x = np.mgrid[:120, :160] + 0.5
        across, along = (2 * x - left - right) / (right - left), (2 * y - top - bottom) / (bottom - top)
        inside.append(across**2 + along**2 < 1)
    pixels, labels = task.support.x.movedim(1, -1).reshape(-1, 3).numpy(), np.concatenate(inside).ravel()
    fitted = LinearDiscriminantAnalysis(solver="lsqr").fit(pixels, labels)
    fisher = np.linalg.solve(fitted.covariance_ + 1e-3 * np.eye(3), fitted.means_[1] - fitted.means_[0])
    np.testing.assert_allclose(w, fisher, rtol=1e-2)


def test_marked_cells_are_found_again():
    score = evaluate(ColourBlobs(), made_up_cells("WBC", pictures=30, shots=3, queries=5), episodes=4, progress=False)
    assert score.mean > 0.9 and score.diverged == 0 and score["counting error"].mean < 1


def test_the_rule_known_beforehand_takes_its_direction():
    learner = ColourBlobs((0.5, -1.0, 0.5))
    task = made_up_cells("WBC", pictures=12, shots=1, queries=1).sample(1, seeded(0)).each(lambda t: t[0])
    assert learner.direction_of(learner.adapt(task.support)).tolist() == [0.5, -1.0, 0.5]


def test_cells_are_loaded_by_name():
    train, _, test = load("made_up_cells", kind="RBC")
    assert train is test and test.kind == "RBC"


@pytest.mark.usefixtures("needs_cells")
def test_real_smears_hold_the_boxes_that_their_source_counts():
    counts = {"RBC": (4_153, 349), "WBC": (372, 358), "Platelets": (361, 201)}  # two of 4,155 red ones are empty
    for kind, (boxes, pictures) in counts.items():
        cells = blood_cells(kind)
        assert cells.smears.images.shape == (364, 3, 120, 160)
        of_each = [len(of) for of in cells.smears.boxes[kind]]
        assert (sum(of_each), sum(n > 0 for n in of_each)) == (boxes, pictures)
    task = blood_cells("WBC").sample(2, seeded(0))
    left, top, right, bottom = task.support.y[0, 0].round().int().tolist()
    _, green, blue = task.support.x[0, 0, :, top:bottom, left:right].mean((1, 2)).tolist()
    assert blue > green  # a white cell is stained violet


@pytest.mark.parametrize("content", [b"PK\x03\x04 and nothing more", None], ids=["no zip", "no table"])
def test_a_damaged_file_of_smears_is_refused(tmp_path, content):
    path = tmp_path / "bccd" / "bccd.zip"
    path.parent.mkdir()
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images/BloodImage_00000.jpg", b"")
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or damaged"):
        blood_cells("WBC", root=tmp_path)


def test_without_smears_the_message_says_what_needs_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="the stand-in needs no files"):
        blood_cells("WBC", root=tmp_path)
