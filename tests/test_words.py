"""With words: vectors that follow their classes, AM3 and its rival in closed form, exact where there is a truth."""

import io
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcore import (
    AM3,
    ClassificationTasks,
    Named,
    NamedTasks,
    ProtoNet,
    Task,
    WordPrior,
    classification,
    evaluate,
    meta_train,
    seeded,
)
from mlcore.datasets import encoded_names, features_of, glyphs, in_features, load, with_names
from mlcore.experiments.catalogue import RECIPES
from mlcore.learners.am3 import Trust, WithWords, trusted
from mlcore.learners.word_prior import Prior, word_prior

SIZE, FEATURES = 4, 6


def world(
    classes: int = 40, tau: float = 0.5, sigma: float = 1.0, each: int = 30, seed: int = 0, **settings
) -> NamedTasks:
    """Normal classes around a linear function of their vectors; class k is called "k"."""
    draw = partial(torch.randn, generator=seeded(seed))
    truth = torch.randn(SIZE, FEATURES, generator=seeded(99))
    e = draw(classes, SIZE)
    mu = e @ truth + tau * draw(classes, FEATURES)
    x = mu[:, None] + sigma * draw(classes, each, FEATURES)
    names = [f"{k:03}" for k in range(classes)]
    labels = [name for name in names for _ in range(each)]
    tasks = ClassificationTasks(x.flatten(0, 1), labels, ways=5, shots=1, queries=10)
    return NamedTasks(tasks, dict(zip(names, e, strict=True)), **settings)


def prior() -> Prior:
    draw = partial(torch.randn, generator=seeded(5))
    return Prior(draw(SIZE, FEATURES), draw(FEATURES), torch.tensor(2.0))


KINDS = {
    "AM3": lambda **s: AM3(nn.Identity(), features=FEATURES, words=SIZE, hidden=7, **s),
    "prior": lambda **s: WordPrior(nn.Identity(), prior=prior(), **s),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, seed: int = 0, **settings) -> WithWords:
    torch.manual_seed(seed)
    return KINDS[kind](**settings).eval()


# --- tasks -----------------------------------------------------------------------------------------------------------


def test_vectors_follow_their_classes():
    tasks = world(tau=0.0, sigma=0.0)  # an example is the image of its vector
    support, query = tasks.sample(20, seeded(1))
    truth = torch.randn(SIZE, FEATURES, generator=seeded(99))
    for half in (support, query):
        torch.testing.assert_close(half.x, half.y @ (support.words @ truth), rtol=1e-4, atol=1e-5)


def test_the_episodes_are_those_without_words():
    tasks = world()
    named, plain = tasks.sample(3, seeded(2)), tasks.tasks.sample(3, seeded(2))
    assert all(
        torch.equal(a, b) for a, b in zip(named.support[:2] + named.query, plain.support + plain.query, strict=True)
    )
    scores = [evaluate(ProtoNet(nn.Identity()), t, episodes=10, progress=False).of_task for t in (tasks, tasks.tasks)]
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("classes", [5, 6, 31])
def test_shuffled_names_are_others_of_the_same(classes):
    own, shuffled = world(classes).words, world(classes, shuffled=True).words
    assert not (own == shuffled).all(1).any()
    assert torch.equal(own.sort(0).values, shuffled.sort(0).values)
    assert torch.equal(shuffled, world(classes, shuffled=True).words)


def test_no_shots_are_one_shot_without_its_examples():
    tasks = world()
    none, one = tasks.replace(shots=0).sample(4, seeded(3)), tasks.replace(shots=1).sample(4, seeded(3))
    assert none.support.x.shape == (4, 0, FEATURES) and none.support.y.shape == (4, 0, 5)
    assert torch.equal(none.support.words, one.support.words) and torch.equal(none.query.x, one.query.x)
    assert tasks.replace(shots=0).replace(shots=3).sample(1, seeded(0)).support.x.shape[1] == 15


def test_what_has_no_vector_or_one_of_another_size_is_refused():
    tasks = world(5).tasks
    words = {name: torch.zeros(3) for name in tasks.classes}
    with pytest.raises(ValueError, match="class '003' has no vector; give one for each of the 5 classes"):
        NamedTasks(tasks, {name: e for name, e in words.items() if name != "003"})
    with pytest.raises(ValueError, match=r"vector of class '002' has shape \[4\], but that of class '000' \[3\]"):
        NamedTasks(tasks, words | {"002": torch.zeros(4)})
    with pytest.raises(TypeError, match="replace"):
        NamedTasks(tasks, words).replace(words=3)


# --- what all learners promise ---------------------------------------------------------------------------------------


@every_kind
def test_order_says_nothing_and_relabelled_classes_relabel_the_outputs(kind):
    learner, task, order = made(kind), world().replace(shots=3).sample(2, seeded(4)), [3, 0, 4, 1, 2]
    outputs = learner(task)
    x, y, words = task.support
    shuffled = torch.randperm(15, generator=seeded(0))
    torch.testing.assert_close(learner(task._replace(support=Named(x[:, shuffled], y[:, shuffled], words))), outputs)
    relabelled = task._replace(support=Named(x, y[..., order], words[:, order]))
    torch.testing.assert_close(learner(relabelled), outputs[..., order])
    assert not torch.allclose(learner(task._replace(support=Named(x, y, words[:, order]))), outputs)


@every_kind
@pytest.mark.parametrize("shots", [0, 2])
def test_a_loop_chunks_and_all_at_once_are_one_computation(kind, shots):
    task, results = world().replace(shots=shots).sample(3, seeded(5)), []
    for mapping in ("loop", 2, "vmap"):
        learner = made(kind, mapping=mapping)  # in evaluation mode, without dropout
        judged = learner.meta_backward(task, classification)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters()]
        assert any(g.any() for g in gradients)
        results.append((judged, gradients))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-4, atol=1e-5)


@every_kind
def test_what_is_saved_is_all_that_is_learned(kind):
    learner, other = made(kind), made(kind, seed=1)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    task = world().sample(2, seeded(6))
    assert torch.equal(learner(task), other(task))


@every_kind
def test_a_task_without_words_or_with_others_is_refused(kind):
    task = world().sample(2, seeded(7))
    with pytest.raises(TypeError, match=r"needs a vector for each class: .* not Examples"):
        made(kind)(world().tasks.sample(2, seeded(7)))
    wide = task._replace(support=task.support._replace(words=torch.zeros(2, 5, 9)))
    with pytest.raises(ValueError, match="a class comes with 9 numbers"):
        made(kind)(wide)


def test_a_learner_with_words_must_say_what_they_say():
    with pytest.raises(NotImplementedError, match=r"WithWords must define said\(words\)"):
        WithWords(nn.Identity())(world().sample(1, seeded(0)))
    with pytest.raises(NotImplementedError, match=r"WithWords must define trust\(said, count\)"):
        WithWords(nn.Identity()).trust(torch.zeros(2, 3), torch.ones(2, 1))


# --- AM3 -------------------------------------------------------------------------------------------------------------


def by_hand(learner: AM3, task: Task) -> Tensor:
    """eq-words-am3 for the first task, in plain formulas."""
    x, y, words = (part[0] for part in task.support)
    w = learner.g[3](learner.g[0](words).relu())
    share = 1 / (1 + (-learner.h[3](learner.h[0](w).relu())).exp())
    p = torch.stack([x[y[:, k] > 0].mean(0) for k in range(5)])
    mixed = share * p + (1 - share) * w
    return -learner.scale * (task.query.x[0][:, None] - mixed).square().mean(-1)


def test_am3_is_its_equation():
    learner, task = made("AM3"), world().replace(shots=3).sample(1, seeded(8))
    torch.testing.assert_close(learner(task)[0], by_hand(learner, task))
    loss = F.cross_entropy(by_hand(learner, task), task.query.y[0])
    expected = torch.autograd.grad(loss, list(learner.parameters()))
    found = torch.autograd.grad(learner.meta_loss(task, classification), list(learner.parameters()))
    torch.testing.assert_close(found, expected)


def test_without_examples_am3_answers_by_words_and_h_learns_nothing():
    learner, task = made("AM3"), world().replace(shots=0).sample(2, seeded(9))
    w = learner.g(task.support.words)
    expected = -learner.scale * (task.query.x[:, :, None] - w[:, None]).square().mean(-1)
    torch.testing.assert_close(learner(task), expected)
    learner.meta_backward(task, classification)
    assert all(not p.grad.any() for p in learner.h.parameters())
    assert all(p.grad.isfinite().all() and p.grad.any() for p in learner.g.parameters())


def test_a_class_without_examples_beside_others_answers_by_its_words():
    learner, support = made("AM3"), world().sample(1, seeded(10)).support
    keep = support.y[0, :, 2] == 0
    state = learner.update((), Named(support.x[0][keep], support.y[0][keep], support.words[0]))
    whole = learner.update((), Named(*(part[0] for part in support)))
    torch.testing.assert_close(state[2], learner.g(support.words[0])[2])
    torch.testing.assert_close(state[[0, 1, 3, 4]], whole[[0, 1, 3, 4]])


def test_trust_tells_the_mean_share():
    tasks, learner = world(), made("prior")
    tasks.objective = trusted
    for shots in (1, 4):
        told = evaluate(Trust(learner), tasks.replace(shots=shots), episodes=4, progress=False)
        assert told.mean == pytest.approx(shots / (shots + 2.0))
    share = made("AM3")
    task = tasks.sample(1, seeded(0))
    torch.testing.assert_close(Trust(share)(task)[0], share.h(share.g(task.support.words[0])).sigmoid().mean())


def test_am3_learns_what_words_are_worth_and_not_to_trust_shuffled_ones():
    """Words that say nearly all beside one shot that says little; the same words in another order say nothing."""
    sizes = {"tau": 0.1, "sigma": 3.0}
    gains = {}
    for shuffled in (False, True):
        train, test = (world(n, seed=s, shuffled=shuffled, **sizes) for n, s in ((300, 1), (60, 2)))
        torch.manual_seed(0)
        learner = AM3(nn.Identity(), features=FEATURES, words=SIZE, hidden=32, dropout=0.0)
        meta_train(learner, train, iterations=200, meta_batch=8, outer_lr=1e-2, seed=0, progress=False)
        with_words, without = (
            evaluate(each, test, episodes=100, progress=False).of_task for each in (learner, ProtoNet(nn.Identity()))
        )
        gains[shuffled] = float((with_words - without).mean())
    assert gains[False] > 0.1 and gains[True] < 0.02


# --- the prior -------------------------------------------------------------------------------------------------------


def test_the_mixture_is_the_posterior_mean():
    """eq-words-lambda, against conjugate updating one example after another."""
    known, n = prior(), 4
    e, x = torch.randn(SIZE, generator=seeded(1)), torch.randn(n, FEATURES, generator=seeded(2))
    sigma2, tau2 = 3.0, 1.5  # whose ratio is the prior's
    mean, precision = e @ known.weight + known.offset, 1 / tau2
    for one in x:
        mean = (precision * mean + one / sigma2) / (precision + 1 / sigma2)
        precision += 1 / sigma2
    state = made("prior").update((), Named(x, torch.ones(n, 1), e[None]))
    torch.testing.assert_close(state[0], mean)
    nothing = made("prior").update((), Named(x[:0], torch.ones(0, 1), e[None]))
    torch.testing.assert_close(nothing[0], e @ known.weight + known.offset)


def test_the_error_of_the_mixture_is_that_of_as_many_more_examples():
    """eq-words-worth: with words, n examples are n + σ²/τ²."""
    tau, sigma, n = 0.5, 1.0, 2
    draw = partial(torch.randn, 400_000, generator=seeded(3), dtype=torch.float64)
    mu = tau * draw()
    seen = mu + sigma / n**0.5 * draw()
    share = n / (n + sigma**2 / tau**2)
    assert (share * seen - mu).square().mean() == pytest.approx(sigma**2 / (n + sigma**2 / tau**2), rel=0.01)
    for other in (share - 0.1, share + 0.1):
        assert (other * seen - mu).square().mean() > (share * seen - mu).square().mean()


def test_word_prior_leaves_one_class_out_without_fitting_again():
    """eq-words-out, against as many fits as there are classes."""
    tasks = world(12, each=11)
    found = word_prior(nn.Identity(), tasks, strengths=(0.3,))
    x = torch.stack([tasks.tasks.examples(tasks.tasks.codes().view(12, 11)[k]) for k in range(12)]).double()
    m, e = x.mean(1), tasks.words.double()
    strength = 0.3 * (e - e.mean(0)).square().sum() / 12

    def fit(keep: Tensor) -> tuple[Tensor, Tensor]:
        a, b = e[keep], m[keep]
        # An intercept of its own, which is not penalised.
        design = torch.cat([a, torch.ones(len(a), 1).double()], 1)
        penalty = torch.diag(torch.tensor([*[strength] * SIZE, 0.0]).double())
        solved = torch.linalg.solve(design.mT @ design + penalty, design.mT @ b)
        return solved[:-1], solved[-1]

    errors = []
    for k in range(12):
        weight, offset = fit(torch.arange(12) != k)
        errors.append((m[k] - e[k] @ weight - offset).square().mean())
    sigma2 = (x - m[:, None]).square().sum() / (12 * 10) / FEATURES
    tau2 = torch.stack(errors).mean() - sigma2 / 11
    assert found.worth == pytest.approx(float(sigma2 / tau2), rel=1e-6)
    weight, offset = fit(torch.arange(12) >= 0)
    torch.testing.assert_close(found.weight, weight)
    torch.testing.assert_close(found.offset, offset)


def test_a_whole_group_left_out_is_a_fit_without_it():
    tasks = world(12, each=11)
    names = [f"{'abc'[k % 3]}/{k:02}" for k in range(12)]
    x = tasks.tasks.examples(tasks.tasks.codes()).view(12, 11, FEATURES)
    order = sorted(range(12), key=names.__getitem__)
    labels = [names[k] for k in range(12) for _ in range(11)]
    grouped = ClassificationTasks(x.flatten(0, 1), labels, ways=3, shots=1, queries=2)
    asked = NamedTasks(grouped, dict(zip(names, tasks.words, strict=True)))
    found = word_prior(nn.Identity(), asked, strengths=(0.3,), whole_groups=True)
    m, e = x.double().mean(1)[order], tasks.words.double()[order]
    design = torch.cat([e, torch.ones(12, 1).double()], 1)
    penalty = torch.eye(SIZE + 1).double() * 0.3 * (e - e.mean(0)).square().sum() / 12
    penalty[-1, -1] = 0
    errors = []
    for group in torch.arange(12).split(4):
        keep = torch.ones(12, dtype=torch.bool).index_fill(0, group, False)
        solved = torch.linalg.solve(design[keep].mT @ design[keep] + penalty, design[keep].mT @ m[keep])
        errors.append((m[group] - design[group] @ solved).square().mean())
    sigma2 = (x.double()[order] - m[:, None]).square().sum() / (12 * 10) / FEATURES
    assert found.worth == pytest.approx(float(sigma2 / (torch.stack(errors).mean() - sigma2 / 11)), rel=1e-6)
    with pytest.raises(ValueError, match="all classes are of the group ''"):
        word_prior(nn.Identity(), tasks, whole_groups=True)


def test_an_endless_ridge_leaves_the_mean_of_all_classes():
    tasks = world(50)
    found = word_prior(nn.Identity(), tasks, strengths=(1e9,))
    means = tasks.tasks.examples(tasks.tasks.codes()).view(50, 30, FEATURES).mean(1)
    learner = WordPrior(nn.Identity(), prior=found)
    torch.testing.assert_close(learner.said(tasks.words), means.mean(0).expand(50, -1), rtol=1e-4, atol=1e-5)
    between = means.var(0).mean() - 1 / 30  # σ² is 1 here; a class left out of the mean is off by C / (C - 1) of it
    assert 1 / found.worth == pytest.approx(float(between) * 50 / 49, rel=0.05)


def test_word_prior_finds_the_worth_that_is_there():
    for tau in (0.3, 1.0):
        found = word_prior(nn.Identity(), world(800, tau=tau, each=20))
        assert found.worth == pytest.approx(1 / tau**2, rel=0.1)
    own, shuffled = (word_prior(nn.Identity(), world(200, tau=0.3, shuffled=s)).worth for s in (False, True))
    assert shuffled < own / 10


def test_equal_vectors_are_refused():
    tasks = world(5)
    same = NamedTasks(tasks.tasks, {name: torch.ones(3) for name in tasks.tasks.classes})
    with pytest.raises(ValueError, match="vectors of all classes are equal"):
        word_prior(nn.Identity(), same)


@pytest.mark.parametrize("shots", [0, 1, 4])
def test_the_prior_is_ahead_by_as_many_examples_as_words_are_worth(shots):
    """eq-words-apart: what the mean of all classes is worth tells no class from another, and comes off."""
    train, test = (world(n, tau=1.5, sigma=6.0, each=60, seed=s) for n, s in ((400, 1), (100, 2)))
    known, alone = (word_prior(nn.Identity(), train, strengths=s) for s in ((0.01,), (1e9,)))
    worth = float(known.worth - alone.worth)
    assert 8 < worth == pytest.approx(6.0**2 * (1 / 1.5**2 - 1 / (1.5**2 + SIZE)), rel=0.4)
    without = test.replace(shots=shots + round(worth))
    found = [
        evaluate(WordPrior(nn.Identity(), prior=p), t, episodes=400, progress=False).mean
        for p, t in ((known, test.replace(shots=shots)), (alone, without))
    ]
    assert found[0] == pytest.approx(found[1], abs=0.025)


# --- data ------------------------------------------------------------------------------------------------------------


def test_letters_of_names_are_vectors_of_length_one():
    train, val, test = load("glyphs", names="own", shots=1)
    assert train.words.shape == (len(train.tasks.classes), 256)
    for part in (train, val, test):
        torch.testing.assert_close(part.words.norm(dim=1), torch.ones(len(part.words)))
    with pytest.raises(ValueError, match=r"no names 'mine'; choose 'own' or 'shuffled'"):
        with_names(glyphs(), "mine", "letters")  # pyright: ignore[reportArgumentType]


def test_features_take_the_place_of_examples():
    test = glyphs()[2]
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.Dropout(0.5))
    z = features_of(test.x, net)
    assert net.training and net[1].num_batches_tracked == 0
    codes = test.codes()[:7]
    torch.testing.assert_close(in_features(test, z).examples(codes), net.eval()(test.examples(codes)))
    with pytest.raises(ValueError, match="examples but 3 embeddings"):
        in_features(test, z[:3])


def test_names_that_are_not_there_are_missed_in_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no names of classes in .*: set \$MLCORE_DATA"):
        encoded_names(root=tmp_path)


def test_names_of_an_encoder_are_of_all_classes(needs_names):
    found = encoded_names()
    assert len(found) == 100 and found["maple_tree"].shape == (384,)
    near = lambda a, b: float(F.cosine_similarity(found[a], found[b], dim=0))  # noqa: E731
    assert near("maple_tree", "oak_tree") > near("maple_tree", "bicycle") + 0.2


def test_no_recipe_trains_on_one_split_and_tests_on_the_other():
    for name, recipe in RECIPES.items():
        if recipe.paper == "xing2019am3":
            asked = {recipe.tasks.keywords["split"]}
            asked |= {row.on.keywords["split"] for row in recipe.evaluations if row.on is not None}
            assert len(asked) == 1 and next(iter(asked)).replace("_", "-") in name


def test_shuffled_rows_differ_in_names_alone():
    own, shuffled = RECIPES["am3-1s-fc100"].values("record"), RECIPES["am3-1s-shuffled-fc100"].values("record")
    assert own["tasks"]["with"].pop("names") == "own" and shuffled["tasks"]["with"].pop("names") == "shuffled"
    assert own["tasks"] == shuffled["tasks"] and own["learner"] == shuffled["learner"]
