"""Made examples beside real ones: none without copies, the same draws each time, exact where there is a truth."""

import copy

import pytest
import torch
from torch import nn

from mlcore import (
    MAML,
    Baseline,
    ClassificationTasks,
    DeltaEncoder,
    Examples,
    NearestNeighbour,
    NoisyRidge,
    PixelCounts,
    ProtoNet,
    Task,
    classification,
    evaluate,
    meta_train,
    mlp,
    rows,
    seeded,
)
from mlcore.adversaries import Adversarial
from mlcore.augmented import (
    Augmented,
    FirstShots,
    differences,
    imagined,
    noise,
    sigma_points,
    transformed,
    within_class_covariance,
)
from mlcore.learners.delta_encoder import feature_pairs
from mlcore.tasks import Pairs
from mlcore.tasks.pairs import reconstruction
from mlcore.wrapper import Wrapper


def covariance(d: int, seed: int = 0) -> torch.Tensor:
    root = torch.randn(d, d, generator=seeded(seed), dtype=torch.float64)
    return root @ root.T + 0.1 * torch.eye(d, dtype=torch.float64)


def blobs(d: int = 5, classes: int = 8) -> ClassificationTasks:
    """Normal classes of 12 members each, their means twice as far apart as members are."""
    centres = 2 * torch.randn(classes, 1, d, generator=seeded(1))
    x = centres + torch.randn(classes, 12, d, generator=seeded(2))
    return ClassificationTasks(x.flatten(0, 1), torch.arange(classes).repeat_interleave(12), ways=3, shots=4, queries=4)


def images() -> ClassificationTasks:
    x = torch.rand(60, 1, 6, 6, generator=seeded(3)).gt(0.6).float()
    return ClassificationTasks(x, torch.arange(6).repeat_interleave(10), ways=3, shots=2, queries=3)


LEARNERS = {
    "a metric": lambda: ProtoNet(nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.Flatten())),
    "gradient steps": lambda: MAML(nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(16, 3)), inner_lr=0.3),
}


def made(name: str):
    torch.manual_seed(0)
    return LEARNERS[name]().eval()


def flipped() -> object:
    return transformed(lambda image: image.flip(-1) + 0.1 * torch.rand_like(image))


@pytest.mark.parametrize("name", LEARNERS)
def test_without_copies_it_is_the_bare_learner(name):
    learner, task = made(name), images().sample(3, seeded(0))
    bare = Augmented(learner, flipped(), 0)
    assert torch.equal(bare(task), learner(task))
    scores = [evaluate(each, images(), episodes=5, progress=False).of_task for each in (bare, learner)]
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("name", LEARNERS)
def test_made_examples_are_seen_as_more_support(name):
    """The wrapper, against a support set that was put together by hand."""
    learner, task = made(name), images().sample(2, seeded(0))
    always = lambda x, n, generator: x.mean(0).expand(n, *x.shape[1:]) / 2  # noqa: E731
    shown = []
    for x, y in zip(*task.support, strict=True):
        means = torch.stack([x[y[:, k] > 0].mean(0) / 2 for k in range(3)]).repeat_interleave(2, 0)
        shown.append((torch.cat([x, means]), torch.cat([y, torch.eye(3).repeat_interleave(2, 0)])))
    whole = task._replace(support=Examples(*(torch.stack(parts) for parts in zip(*shown, strict=True))))
    torch.testing.assert_close(Augmented(learner, always, 2)(task), learner(whole))


@pytest.mark.parametrize("name", LEARNERS)
def test_what_is_made_depends_on_the_class_and_the_seed_alone(name):
    """Not on the batch, the order of the rows, the order of the tasks, or what was drawn before."""
    task = images().sample(4, seeded(0))
    learner = Augmented(made(name), flipped(), 3, seed=5)
    expected = learner(task)
    torch.rand(7)
    torch.testing.assert_close(learner(task), expected)
    alone = torch.cat([learner(part) for part in task.split(1)])
    order = torch.tensor([3, 1, 4, 0, 2, 5])
    permuted = task._replace(support=Examples(*(part[:, order] for part in task.support)))
    for other in (alone, learner(permuted)):
        torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(Augmented(made(name), flipped(), 3, seed=6)(task), expected)
    state = torch.get_rng_state()
    learner(task)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_adapted_model_saw_the_made_examples():
    task = images().sample(1, seeded(0))
    learner = Augmented(made("a metric"), flipped(), 3)
    model = learner.fit(task.support.x[0], task.support.y[0].argmax(-1))
    torch.testing.assert_close(model.outputs(task.query.x[0]), learner(task)[0], rtol=1e-4, atol=1e-5)


def test_learners_are_trained_through_their_wrapper():
    learner, task = made("a metric").train(), images().sample(2, seeded(0))
    other = copy.deepcopy(learner)
    other.meta_backward(task, classification)
    Augmented(learner, flipped(), 0).meta_backward(task, classification)
    for ours, theirs in zip(learner.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.equal(learner.net[1].running_mean, other.net[1].running_mean)


def test_first_shots_hides_the_others():
    """The rows kept are the first of each class, in any batch; with all shots nothing changes."""
    learner, task = made("a metric"), images().sample(3, seeded(0))
    assert torch.equal(FirstShots(learner, 2)(task), learner(task))
    kept = FirstShots(learner, 1).changed(task.support)
    for x, y, few, target in zip(*task.support, *kept, strict=True):
        assert few.shape[0] == 3 and torch.equal(target.sum(0), torch.ones(3))
        for image, label in zip(few, target.argmax(-1), strict=True):
            assert torch.equal(image, x[y.argmax(-1) == label][0])
    changed = task._replace(support=Examples(task.support.x.clone(), task.support.y))
    hidden = [y[:, y[i].argmax()][: i + 1].sum() > 1 for y in task.support.y[:1] for i in range(6)]
    changed.support.x[0, torch.tensor(hidden)] = 9.0
    torch.testing.assert_close(FirstShots(learner, 1)(changed), FirstShots(learner, 1)(task))
    once, whole = FirstShots(ProtoNet(nn.Identity()), 1), blobs()
    assert once.embeds_each_input_alone and not Augmented(made("a metric"), flipped(), 1).embeds_each_input_alone
    both = Augmented(once, noise(torch.eye(5)), 0, embedded=True)
    assert both.embeds_each_input_alone
    scores = [evaluate(each, whole, episodes=4, progress=False).of_task for each in (both, once)]
    torch.testing.assert_close(*scores)


def test_embeddings_are_made_from_embeddings():
    """As if the network came first: on features it is the same as on inputs that are features."""
    net = nn.Linear(5, 4).requires_grad_(False)
    tasks, step = blobs(), noise(torch.eye(4))
    z = ClassificationTasks(net(tasks.x), torch.arange(8).repeat_interleave(12), ways=3, shots=4, queries=4)
    within = Augmented(ProtoNet(net), step, 6, embedded=True)
    scores = [
        evaluate(learner, of, episodes=8, progress=False).of_task
        for learner, of in ((within, tasks), (Augmented(ProtoNet(nn.Identity()), step, 6), z))
    ]
    assert (scores[0] - scores[1]).abs().mean() < 0.2  # a last bit draws other noise
    one = tasks.sample(2, seeded(0))
    embedded = within.prepare(one, "running")
    assert embedded.support.x.shape == (2, 12 + 3 * 6, 4)
    torch.testing.assert_close(embedded.support.x[:, :12], net(one.support.x))
    torch.testing.assert_close(within(one), ProtoNet(nn.Identity())(embedded))


def test_a_wrapper_is_its_learner():
    for name in LEARNERS:
        learner, task = made(name), images().sample(2, seeded(0))
        wrapped = Wrapper(learner)
        assert torch.equal(wrapped(task), learner(task))
        model, plain = (each.fit(task.support.x[0], [0, 1, 2, 0, 1, 2]) for each in (wrapped, learner))
        assert torch.equal(model.outputs(task.query.x[0]), plain.outputs(task.query.x[0]))
    learner = made("a metric")
    evaluate(FirstShots(learner, 1), images(), episodes=2, progress=False)
    assert not any(module.training for module in learner.modules())  # as it was
    attacked = Adversarial(made("a metric"), eps=0.1, steps=1)
    model = attacked.fit(task.support.x[0], [0, 1, 2, 0, 1, 2])
    plain = attacked.learner.fit(task.support.x[0], [0, 1, 2, 0, 1, 2])
    assert torch.equal(model.outputs(task.query.x[0]), plain.outputs(task.query.x[0]))


def test_sigma_points_have_their_moments_exactly():
    wanted = covariance(7)
    steps = sigma_points(wanted)
    assert steps.shape == (14, 7) and steps.sum(0).abs().max() < 1e-12
    torch.testing.assert_close(steps.T @ steps / 14, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ways", [2, 4])
def test_noisy_ridge_is_least_squares_on_noisy_copies(ways):
    """eq-help-penalty to 1e-10: fitted to 2d copies of each example, and with the originals among them."""
    d, wanted = 6, covariance(6)
    x = torch.randn(3 * ways, d, generator=seeded(1), dtype=torch.float64)
    y = rows(torch.arange(3 * ways) % ways).double()
    steps = sigma_points(wanted)
    copies, targets = (x[:, None] + steps).flatten(0, 1), y.repeat_interleave(len(steps), 0)
    both = torch.cat([x, copies]), torch.cat([y, targets])
    share = len(steps) / (1 + len(steps))
    for inputs, outputs, scale in ((copies, targets, 1.0), (*both, share)):
        ones = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1)
        solved = torch.linalg.lstsq(ones, outputs).solution
        learner = NoisyRidge(nn.Identity(), covariance=scale * wanted)
        weight, bias = learner.update((), Examples(x, y))
        torch.testing.assert_close(torch.cat([weight, bias[None]]), solved, rtol=1e-10, atol=1e-10)


def test_one_shot_of_two_classes_is_fishers_discriminant():
    """eq-help-lda, and eq-help-best: N* gives the direction of Bayes' rule, from the joint covariance."""
    d, within, between = 6, covariance(6), covariance(6, seed=4)
    x, y = torch.randn(2, d, generator=seeded(2), dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    delta, whole = x[0] - x[1], within + between
    joint = torch.linalg.inv(torch.cat([torch.cat([whole, between], 1), torch.cat([between, whole], 1)]))
    best = 2 * within + within @ torch.linalg.solve(between, within)
    cases = [(s * within, torch.linalg.solve(within, delta)) for s in (0.1, 1.0, 30.0)]
    cases += [(torch.eye(d, dtype=torch.float64), delta), (best, -joint[:d, d:] @ delta)]
    for noisy, direction in cases:
        weight, bias = NoisyRidge(nn.Identity(), covariance=noisy).update((), Examples(x, y))
        cosine = torch.nn.functional.cosine_similarity(weight[:, 0] - weight[:, 1], direction, dim=0)
        assert cosine > 1 - 1e-10
        middle = x.mean(0) @ weight + bias
        torch.testing.assert_close(middle[0], middle[1])


def test_class_means_stay_with_balanced_copies():
    """eq-help-mean: exactly with balanced steps, in the mean with drawn ones."""
    d, wanted, m = 3, covariance(3), 4
    x, query = torch.randn(2, 3, generator=seeded(1), dtype=torch.float64)
    balanced = (x + sigma_points(wanted)).mean(0)
    torch.testing.assert_close(balanced, x)
    drawn = noise(wanted)(x[None], m * 200_000, seeded(2)).view(-1, m, d)
    mean = (x + drawn.sum(1)) / (1 + m)
    found = (query - mean).square().sum(1).mean()
    expected = (query - x).square().sum() + m / (1 + m) ** 2 * wanted.trace()
    torch.testing.assert_close(found, expected, rtol=5e-3, atol=0.0)


def test_noise_and_differences_have_the_covariances_they_should():
    pairs = torch.randn(4_000, 2, 3, generator=seeded(0), dtype=torch.float64) @ covariance(3)
    within, x = within_class_covariance(pairs), torch.zeros(1, 3, dtype=torch.float64)
    torch.testing.assert_close(within, covariance(3) @ covariance(3), rtol=0.1, atol=0.3)
    for makes, expected in ((noise(within), within), (differences(pairs), 2 * within)):
        found = makes(x, 100_000, seeded(1))
        torch.testing.assert_close(found.T @ found / len(found), expected, rtol=0.05, atol=0.2)


def test_a_transform_gets_one_shot_at_a_time():
    x = torch.arange(3.0).view(3, 1, 1, 1)
    found = transformed(lambda image: image + torch.rand(1))(x, 50, seeded(0))
    assert set(found.flatten().floor().tolist()) == {0, 1, 2} and len(found.unique()) == 50


def test_a_model_imagines_from_the_shots_of_the_class():
    model = PixelCounts((1, 2, 2))
    x = torch.ones(3, 1, 2, 2)
    torch.testing.assert_close(imagined(model)(x, 2, seeded(0)), torch.full((2, 1, 2, 2), 4 / 5))  # (1 + 3) / (2 + 3)


def delta_encoder(tasks: ClassificationTasks, net: nn.Module | None = None) -> DeltaEncoder:
    torch.manual_seed(0)
    net = net or nn.Identity()
    pairs = feature_pairs(net, Pairs(tasks), n=300)
    return DeltaEncoder(net, features=pairs.shape[-1], pairs=pairs, latent=2, width=16)


def test_pairs_are_two_examples_of_one_class():
    tasks = blobs()
    task = Pairs(tasks, pairs=3).sample(5, seeded(0))
    assert task.support.x.shape == task.query.x.shape == (5, 3, 5) and task.support.y == ()
    owner = {tuple(x.tolist()): i // 12 for i, x in enumerate(tasks.x)}
    for a, b in zip(task.support.x, task.query.x, strict=True):
        members = [tuple(x.tolist()) for x in torch.cat([a, b])]
        assert len({owner[x] for x in members}) == 1 and len(set(members)) == 6
    again = feature_pairs(nn.Identity(), Pairs(tasks), n=150)
    assert again.shape == (150, 2, 5) and torch.equal(again, feature_pairs(nn.Identity(), Pairs(tasks), n=150))
    with pytest.raises(ValueError, match="pairs must be at least 1"):
        Pairs(tasks, pairs=0)


def test_delta_encoder_gradients(differences_agree):
    learner = delta_encoder(blobs()).double().train()
    batch = Pairs(blobs()).sample(3, seeded(0)).each(torch.Tensor.double)
    loss = lambda: learner.meta_loss(batch, reconstruction)  # noqa: E731
    learner.meta_backward(batch, reconstruction)
    differences_agree(learner, loss)


def test_delta_encoder_is_its_equation():
    """eq-help-delta, written out, for a pair and for a step from elsewhere."""
    learner = delta_encoder(blobs()).eval()
    a, b = Pairs(blobs()).sample(1, seeded(0))
    a, b = a.x[0], b.x[0]
    with torch.no_grad():
        z = learner.encoder(torch.cat([a, b], 1))
        guess = a + learner.decoder(torch.cat([z, a], 1))
        torch.testing.assert_close(learner.predict(learner.update((), Examples(a)), b), (guess - b).abs().mean(1))
        x = torch.randn(1, 5, generator=seeded(1))
        found = learner.make(x, 40, seeded(2))
        steps = x + learner.decoder(torch.cat([learner.encoder(learner.pairs.flatten(1)), x.expand(300, -1)], 1))
    assert ((found[:, None] - steps).norm(dim=-1).amin(1) < 1e-5).all() and len(found.unique(dim=0)) > 20


def test_delta_encoder_learns_the_steps_of_its_classes():
    """Members differ in one direction alone; made ones should too, whatever the shot."""
    centres = torch.randn(20, 1, 6, generator=seeded(1))
    x = centres + torch.randn(20, 10, 1, generator=seeded(2)) * torch.tensor([0, 0, 2.0, 0, 0, 0])
    tasks = ClassificationTasks(x.flatten(0, 1), torch.arange(20).repeat_interleave(10), queries=4)
    learner = delta_encoder(tasks)
    before = learner.make(torch.zeros(1, 6), 200, seeded(0)).var(0)
    options = {"iterations": 400, "meta_batch": 8, "outer_lr": 5e-3, "decay": "cosine"}
    meta_train(learner, Pairs(tasks), **options, seed=0, progress=False)
    found = learner.eval().make(torch.zeros(1, 6), 200, seeded(0)).var(0)
    assert before[2] < before.sum() / 2
    assert found[2] > 2 and found[2] > 0.95 * found.sum()


def test_the_network_under_a_delta_encoder_is_frozen():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten())
    learner = delta_encoder(images(), net).train()
    before = {name: value.clone() for name, value in learner.net.state_dict().items()}
    learner.meta_backward(Pairs(images()).sample(2, seeded(0)), reconstruction)
    assert all(torch.equal(value, before[name]) for name, value in learner.net.state_dict().items())
    assert all(p.grad is None for p in learner.net.parameters()) and learner.encoder[0].weight.grad.any()
    assert "pairs" not in learner.state_dict()


def test_made_features_reach_a_head():
    """A linear head on features gets better with steps of the right kind: the loud direction stops counting."""
    spread = torch.tensor([6.0, 1, 1, 1, 1])
    centres = 2 * torch.randn(40, 1, 5, generator=seeded(1))
    x = (centres + spread * torch.randn(40, 30, 5, generator=seeded(2))).flatten(0, 1)
    tasks = ClassificationTasks(x, torch.arange(40).repeat_interleave(30), ways=3, shots=1, queries=10)
    pairs = feature_pairs(nn.Identity(), Pairs(tasks), n=2_000)
    head = Baseline(nn.Identity(), classes=3, features=5)
    steps = Augmented(head, differences(pairs), 20, embedded=True)
    scores = [evaluate(each, tasks, episodes=100, progress=False).of_task for each in (steps, head)]
    gain = scores[0] - scores[1]
    assert gain.mean() > 4 * gain.std() / 10


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Augmented(NearestNeighbour(), flipped(), -1), "copies=-1 must not be negative; 0 is the bare learner"),
        (lambda: FirstShots(NearestNeighbour(), 0), "shots=0 must be at least 1"),
        (
            lambda: NoisyRidge(nn.Identity(), covariance=torch.eye(3)[:2]),
            r"must be \[features, features\], not \[2, 3\]",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_makers_of_another_shape_are_refused():
    learner = Augmented(NearestNeighbour(), lambda x, n, generator: x, 3)
    with pytest.raises(ValueError, match=r"makes must give \[3, \*\[1, 6, 6\]\], not \[2, 1, 6, 6\]"):
        learner(images().sample(1, seeded(0)))


def test_mlp_heads_see_made_inputs_of_any_rank():
    learner = Augmented(MAML(mlp(5, 8, 3), inner_lr=0.1), noise(torch.eye(5)), 2)
    task: Task = blobs().sample(2, seeded(0))
    assert learner(task).shape == (2, 12, 3)
