"""Metric learners and baselines: gradients, closed forms, normalisation policies, and that each of them learns."""

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mlcore import (
    Baseline,
    ClassificationTasks,
    Examples,
    FixedTasks,
    MatchingNet,
    NearestNeighbour,
    ProtoNet,
    RelationNet,
    Ridge,
    Siamese,
    SimpleShot,
    SoftKMeans,
    SupervisedTasks,
    Task,
    classification,
    conv4,
    evaluate,
    meta_train,
    mlp,
    rows,
    seeded,
)
from mlcore.datasets import glyphs
from mlcore.learners.metric import MetricLearner, class_means, cosines, squared_distances
from mlcore.learners.protonet import linear_head
from mlcore.learners.relation import drawn, relation_encoder
from mlcore.learners.ridge import R2D2Encoder
from mlcore.learners.siamese import pair_loss
from mlcore.learners.simpleshot import mean_feature
from mlcore.nets import BatchNorm, LSTMCell

WAYS, SHOTS, QUERIES = 3, 2, 2


def _net(outputs: int = 5) -> nn.Sequential:
    """A smooth embedding of 7 × 7 images into a few numbers, with a norm that has nothing left at its default."""
    norm = BatchNorm(2)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Softplus(), nn.Flatten(), nn.Linear(50, outputs))


LEARNERS = {
    "siamese": lambda: Siamese(_net(), features=5),
    "matching": lambda: MatchingNet(_net()),
    "matching, full context": lambda: MatchingNet(
        _net()[:-1].append(nn.Linear(50, 2)), full_context=True, features=2, reads=2
    ),
    "protonet": lambda: ProtoNet(_net()),
    "protonet, cosine": lambda: ProtoNet(_net(), distance="cosine"),
    "protonet, scaled": lambda: ProtoNet(_net(), distance="scaled"),
    "soft k-means": lambda: SoftKMeans(_net()),
    "relation": lambda: RelationNet(_net()[:3], filters=2, hidden=3),
    "ridge": lambda: Ridge(_net()),
    "baseline": lambda: Baseline(_net(), classes=4, features=5, steps=3),
    "baseline++": lambda: Baseline(_net(), classes=4, features=5, cosine=True, steps=3),
}

# As the authors' codes have them.
RELEASED = {
    "ridge, released": lambda: Ridge(_net(), strength=0.5),
    "relation, released": lambda: RelationNet(_net()[:3], filters=2, hidden=3, as_released=True),
}


def _build(name: str):
    torch.manual_seed(0)
    return (LEARNERS | RELEASED)[name]().double()


def _batch(n_tasks: int = 2, seed: int = 0, support: bool = True) -> Task:
    generator = torch.Generator().manual_seed(seed)
    n_support, n_query = WAYS * SHOTS * support, WAYS * QUERIES
    x = torch.randn(n_tasks, n_support + n_query, 1, 7, 7, dtype=torch.float64, generator=generator)
    y = rows(torch.arange(n_support + n_query) % WAYS).double().expand(n_tasks, -1, -1)
    return Task(Examples(x[:, :n_support], y[:, :n_support]), Examples(x[:, n_support:], y[:, n_support:]))


def _one(batch: Task, number: int = 0) -> Task:
    """A task of a batch, without the tasks dimension."""
    return batch.each(lambda tensor: tensor[number])


def _adapted(learner: MetricLearner, support: Examples) -> Any:
    return learner.adapt(support._replace(x=learner.embed(support.x)))


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS | RELEASED)
def test_the_gradient_is_that_of_finite_differences(name):
    learner = _build(name)
    batch = _batch(support="baseline" not in name)  # a baseline learns from minibatches
    names, values = zip(*((n, p.detach().requires_grad_()) for n, p in learner.named_parameters()), strict=True)

    class Loss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.learner = learner

        def forward(self) -> Tensor:
            return self.learner.meta_loss(batch, classification)

    def loss(*values: Tensor) -> Tensor:
        return functional_call(Loss(), {f"learner.{n}": v for n, v in zip(names, values, strict=True)}, ())

    torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-7, rtol=1e-5)
    learner.meta_backward(batch, classification)
    moved = {n for n, p in learner.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    # A convolution's bias is taken out by the normalisation after it, and the mean cannot see it.
    assert moved >= {n for n in names if not n.endswith("net.0.bias") and "relation" not in n}


@pytest.mark.parametrize("policy", ["transductive", "episode", "support", "running", "one_query"])
@pytest.mark.parametrize("name", LEARNERS)
def test_every_policy_normalises_by_what_it_names(name, policy):
    learner = _build(name).eval()
    for norm in (module for module in learner.modules() if isinstance(module, BatchNorm)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    batch = _batch()
    if name == "relation" and policy == "support":
        with pytest.raises(ValueError, match="use batch_norm='episode', 'transductive', 'running' or 'one_query'"):
            learner(batch, batch_norm=policy)
        return
    with torch.no_grad():
        outputs = learner(batch, batch_norm=policy)
        # A query that changes shows whose statistics are in use.
        x = torch.cat([batch.query.x[:, :-1], 5 * batch.query.x[:, -1:]], 1)
        other = batch._replace(query=batch.query._replace(x=x))
        same = torch.isclose(learner(other, batch_norm=policy)[:, :-1], outputs[:, :-1], rtol=1e-9, atol=1e-9).all()
    assert outputs.shape == (2, WAYS * QUERIES, WAYS) and outputs.isfinite().all()
    # Soft k-means looks at all queries, whatever normalises them.
    assert bool(same) == (policy not in ("transductive", "episode") and name != "soft k-means")


@pytest.mark.parametrize("name", [name for name in LEARNERS if "baseline" not in name])
def test_training_keeps_the_running_statistics_of_whole_episodes(name):
    learner = _build(name)
    norm = learner.net[1]
    before, batch = norm.running_mean.clone(), _batch(1)
    with torch.no_grad():
        mean = learner.net[0](torch.cat([batch.support.x, batch.query.x], 1)[0]).mean((0, 2, 3))
    learner(batch)
    torch.testing.assert_close(norm.running_mean, before.lerp(mean, norm.momentum))


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "relation"])
def test_all_mappings_agree(name):
    learner = _build(name).eval()
    results = []
    for learner.mapping in ("loop", "vmap", 2):
        results.append(learner(_batch(3)).detach())
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(results[0], results[2], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LEARNERS)
def test_adapt_and_predict_are_one_task_of_forward(name):
    learner, batch = _build(name).eval(), _batch()
    support, query = _one(batch, 1)
    with torch.no_grad():
        outputs = learner.predict(_adapted(learner, support), learner.embed(query.x))
        torch.testing.assert_close(outputs, learner(batch)[1], rtol=1e-10, atol=1e-10)


def test_prototypes_are_class_means_and_distances_are_distances():
    z = torch.randn(7, 5, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1, 0, 2])
    means = class_means(z, F.one_hot(y).double())
    for k in range(3):
        torch.testing.assert_close(means[k], z[y == k].mean(0))
    torch.testing.assert_close(squared_distances(z, means), torch.cdist(z, means).square())


def test_cosines_are_of_angles_alone():
    a, b = torch.tensor([[3.0, 4.0], [0.0, -0.2]]), torch.tensor([[1.0, 0.0], [0.0, 7.0]])
    torch.testing.assert_close(cosines(a, b), torch.tensor([[0.6, 0.8], [0.0, -1.0]]))
    torch.testing.assert_close(ProtoNet(nn.Identity(), distance="cosine").predict(b, a), 10 * cosines(a, b))


def test_scaled_distances_are_means_of_squares_times_a_learned_scale():
    learner = ProtoNet(nn.Identity(), distance="scaled")
    prototypes, z = torch.tensor([[0.0, 0, 0, 0], [1, 1, 1, 1]]), torch.tensor([[1.0, 2, 3, 0]])
    torch.testing.assert_close(learner.predict(prototypes, z), torch.tensor([[-35.0, -15.0]]))  # 10 × 14/4, 10 × 6/4
    learner.scale.data.fill_(2.0)
    torch.testing.assert_close(learner.predict(prototypes, z), torch.tensor([[-7.0, -3.0]]))


def test_soft_k_means_counts_queries_by_their_share():
    learner, state = SoftKMeans(nn.Identity()), (torch.tensor([[0.0], [2.0]]), torch.ones(2))
    # At 1 both distances are 1: the prototypes move to 0.5 / 1.5 and 2.5 / 1.5.
    torch.testing.assert_close(learner.predict(state, torch.tensor([[1.0]])), -torch.full((1, 2), (2 / 3) ** 2))
    still = SoftKMeans(nn.Identity(), steps=0).predict(state, torch.tensor([[3.0]]))
    torch.testing.assert_close(still, torch.tensor([[-9.0, -1.0]]))


class _Weighted(nn.Module):
    """A relation module made by hand: a weighted sum of each pair's numbers."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, pairs: Tensor) -> Tensor:
        return pairs.flatten(1) @ self.weights[:, None]


def test_relations_are_of_the_sum_of_shots_and_between_0_and_1():
    """eq-relation"""
    learner = RelationNet(nn.Identity(), filters=1, map_size=4)
    learner.relation = _Weighted(torch.tensor([1.0, 2.0, 10.0, 20.0]))
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0]]).view(3, 1, 1, 2)  # two shots of class 0, one of class 1
    sums = learner.update((), Examples(z, torch.eye(2)[[0, 1, 0]]))
    assert torch.equal(sums.flatten(1), torch.tensor([[4.0, 1.0], [0.0, 1.0]]))
    query = torch.tensor([[0.1, -0.4], [-0.5, 0.2]]).view(2, 1, 1, 2)
    logits = torch.tensor([[6.0 - 7, 2 - 7], [6 - 1, 2 - 1]])  # the class's maps come first, the query's after them
    torch.testing.assert_close(learner.predict(sums, query), logits.sigmoid())
    far = learner.predict(100 * sums, query)
    assert 0 <= far.min() and far.max() <= 1


def test_the_released_relation_network_normalises_support_and_queries_apart():
    learner, batch = _build("relation, released"), _batch(1)
    support, query = _one(batch)
    plain = copy.deepcopy(learner).train()  # whose norms do as torch's do
    z, at = plain.net(support.x), plain.net(query.x)
    sums = torch.stack([z[k::WAYS].sum(0) for k in range(WAYS)])
    pairs = torch.stack([torch.cat([one, other]) for other in at for one in sums])
    expected = plain.relation(pairs).sigmoid().view(-1, WAYS)
    judged = learner.judged(batch, classification)
    torch.testing.assert_close(judged.outputs[0], expected)
    torch.testing.assert_close(judged.losses[0], (expected - query.y).square().mean())
    for ours, theirs in zip(learner.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)  # averages of both halves, for the policy "running"
    assert not torch.equal(learner.net[1].running_mean, torch.zeros(2))
    # In evaluation the same, by the batch's own statistics, which leave the averages alone.
    before = copy.deepcopy(learner.state_dict())
    torch.testing.assert_close(learner.eval()(batch)[0], expected)
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_released_relation_weights_are_drawn_as_in_the_code():
    torch.manual_seed(0)
    net = relation_encoder(3, filters=64).apply(drawn)
    assert net[0].weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.1)
    assert net[0].weight.mean().abs() < 0.01 and not net[0].bias.any()
    learner = RelationNet(net, as_released=True)
    linear = [layer for layer in learner.relation if isinstance(layer, nn.Linear)]
    assert len(linear) == 2 and all((layer.bias == 1).all() for layer in linear)
    assert linear[0].weight.std().item() == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize("steps", [0, 1])
def test_baseline_plus_plus_starts_at_the_directions_of_the_class_means(steps):
    learner = Baseline(nn.Identity(), classes=9, features=4, cosine=True, steps=steps, lr=0.3, weight_decay=0.1)
    learner = learner.double().eval()
    z, y = torch.randn(6, 4, dtype=torch.float64, generator=seeded(1)), rows(torch.arange(6) % 3).double()
    weight = torch.stack([z[k::3].mean(0) / z[k::3].mean(0).norm() for k in range(3)]).requires_grad_()
    if steps:
        directions = weight / weight.norm(dim=-1, keepdim=True)
        logits = 10 * z @ directions.T / z.norm(dim=-1, keepdim=True)
        loss = F.cross_entropy(logits, y) + 0.05 * weight.square().sum()
        weight = weight - 0.3 * torch.autograd.grad(loss, weight)[0]
    head = learner.update({}, Examples(z, y))
    assert list(head) == ["weight"]
    torch.testing.assert_close(head["weight"], weight.detach(), rtol=1e-10, atol=1e-12)
    expected = 10 * F.normalize(z, dim=-1) @ F.normalize(weight.detach(), dim=-1).T
    torch.testing.assert_close(learner.predict(head, z), expected)


def test_protonet_is_a_linear_classifier():
    """eq-proto-linear"""
    learner, batch = _build("protonet").eval(), _batch(1)
    with torch.no_grad():
        support, query = _one(batch)
        weight, bias = linear_head(_adapted(learner, support))
        linear = F.linear(learner.embed(query.x), weight, bias)
        torch.testing.assert_close(linear.log_softmax(-1), learner(batch)[0].log_softmax(-1), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("features", [3, 40])
def test_the_ridge_head_is_least_squares_on_the_augmented_system(features):
    """eq-woodbury"""
    learner = Ridge(nn.Identity()).double()
    nn.init.constant_(learner.log_lambda, math.log(0.3))
    z = torch.randn(10, features, dtype=torch.float64)
    y = F.one_hot(torch.arange(10) % 5).double()
    augmented = torch.cat([z, math.sqrt(0.3) * torch.eye(features).double()])
    rows = torch.cat([y, torch.zeros(features, 5).double()])
    torch.testing.assert_close(
        learner.update((), Examples(z, y)).detach(), torch.linalg.lstsq(augmented, rows).solution
    )


@pytest.mark.parametrize("features", [3, 40])
def test_the_released_ridge_head_divides_by_the_root_of_the_examples(features):
    """As the code of R2-D2 computes it: bias, λ I and both sides of the system, each in its own place."""
    learner = Ridge(nn.Identity(), scale=3.0, strength=50.0).double()
    z, query = torch.randn(10, features, dtype=torch.float64), torch.randn(4, features, dtype=torch.float64)
    y = F.one_hot(torch.arange(10) % 5).double()
    x = torch.cat([z, torch.ones(10, 1)], 1) / math.sqrt(10)
    weights = x.T @ torch.linalg.inv(x @ x.T + 50 * torch.eye(10)) @ (y / math.sqrt(10))
    expected = 3 * (query @ weights[:-1] + weights[-1])
    torch.testing.assert_close(learner.predict(learner.update((), Examples(z, y)), query).detach(), expected)
    assert [name for name, _ in learner.named_parameters()] == ["alpha"]


def test_the_encoder_of_r2d2_puts_its_last_two_blocks_side_by_side():
    net, x = R2D2Encoder(3, filters=8, dropout=0.5).eval(), torch.rand(2, 3, 32, 32)
    assert R2D2Encoder(3)(x).shape == (2, 1152)  # RRNet_small's out_dim
    for norm in (module for module in net.modules() if isinstance(module, BatchNorm)):
        nn.init.normal_(norm.running_mean)
    features, h, halves = net(x), x, []
    for i, block in enumerate([*net.first, net.last]):
        convolution, norm = block[0], block[1]
        h = F.conv2d(h, convolution.weight, convolution.bias, padding=1)
        h = F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias)
        h = F.leaky_relu(F.max_pool2d(h, 2, stride=1 if i == 3 else 2), 0.1)
        halves.append(h)
    expected = torch.cat([F.max_pool2d(halves[2], 2, stride=1).flatten(1), halves[3].flatten(1)], 1)
    torch.testing.assert_close(features, expected)
    assert (net.train()(x)[:, 72:] == 0).float().mean() > 0.3  # of the fourth block's 8 × 3 × 3, with dropout


def test_matching_attends_and_cannot_be_surer_than_its_cosines_allow():
    """eq-matching"""
    learner, z = MatchingNet(nn.Identity()), torch.eye(6)
    y = F.one_hot(torch.arange(6) // 2).float()
    attention = learner.attention(z, z)
    torch.testing.assert_close(attention.sum(-1), torch.ones(6))
    torch.testing.assert_close(learner.predict((z, y), z).exp(), attention @ y)
    opposite = torch.tensor([[1.0, 0.0]] + [[-1.0, 0.0]] * 19)
    sure = learner.predict((opposite, torch.eye(20)), opposite[:1]).exp()[0, 0]
    assert sure.item() == pytest.approx(math.e / (math.e + 19 / math.e), rel=1e-5)


def test_full_context_embeds_an_image_in_the_light_of_its_set():
    plain, full = _build("matching").eval(), _build("matching, full context").eval()
    z = torch.randn(6, 2, dtype=torch.float64)
    y = F.one_hot(torch.arange(6) % 3).double()
    changed = z.clone()
    changed[5] += 1
    assert torch.equal(plain.update((), Examples(z, y))[0][0], plain.update((), Examples(changed, y))[0][0])
    assert not torch.equal(full.update((), Examples(z, y))[0][0], full.update((), Examples(changed, y))[0][0])


def test_full_context_reads_like_torchs_lstm():
    ours, theirs = LSTMCell(4, 3), nn.LSTM(4, 3)
    order = torch.tensor([0, 1, 3, 2])  # ours: input, forget, output, candidate; theirs has the last two exchanged
    with torch.no_grad():
        gates = ours.gates.weight.view(4, 3, 7)[order].reshape(12, 7)
        theirs.weight_ih_l0.copy_(gates[:, :4])
        theirs.weight_hh_l0.copy_(gates[:, 4:])
        theirs.bias_ih_l0.copy_(ours.gates.bias.view(4, 3)[order].flatten())
        theirs.bias_hh_l0.zero_()
        x = torch.randn(6, 4)
        torch.testing.assert_close(ours.read(x), theirs(x)[0])


def test_full_context_adds_what_it_reads_to_what_it_sees():
    """eq-matching: h→ + h← + g'(x) for a support image; for a query, each read starts from the output plus f'(x)."""
    learner = _build("matching, full context")
    z, query = torch.randn(2, 4, 2, dtype=torch.float64, generator=seeded(1))
    support, _ = learner.update((), Examples(z, torch.eye(4).double()))
    backwards = learner.backwards.read(z.flip(0)).flip(0)
    torch.testing.assert_close(support, learner.forwards.read(z) + backwards + z)
    hidden, cell = query, torch.zeros_like(query)
    for _ in range(2):
        glimpse = torch.softmax(hidden @ support.T, -1) @ support
        output, cell = learner.attend(query, torch.cat([hidden, glimpse], -1), cell)
        hidden = output + query
    expected = torch.softmax(cosines(hidden, support), -1)  # labels are rows of the identity
    torch.testing.assert_close(learner.predict((support, torch.eye(4).double()), query).exp(), expected)
    # Gates of zero give no output: what is left are the embeddings themselves, as without context.
    for value in (p for cell in (learner.forwards, learner.backwards, learner.attend) for p in cell.parameters()):
        value.data.zero_()
    state, plain = learner.update((), Examples(z, torch.eye(4).double())), MatchingNet(nn.Identity())
    assert torch.equal(state[0], z)
    torch.testing.assert_close(learner.predict(state, query), plain.predict(state, query))


def test_a_querys_length_may_be_a_temperature():
    query, support = torch.tensor([[3.0, 4.0], [0.0, 0.1]]), torch.tensor([[2.0, 0.0], [0.0, 0.5]])
    long, plain = MatchingNet(nn.Identity(), query_length=True, scale=2.0), MatchingNet(nn.Identity(), scale=2.0)
    products = torch.tensor([[6.0, 8.0], [0.0, 0.2]])  # twice the length of a query times its cosine
    torch.testing.assert_close(long.attention(query, support), products.softmax(-1))
    torch.testing.assert_close(plain.attention(query, support), torch.tensor([[1.2, 1.6], [0.0, 2.0]]).softmax(-1))


def test_siamese_weighs_the_match_as_much_as_all_others():
    """eq-siamese"""
    outputs, targets = torch.zeros(1, 5), torch.eye(5)[:1]
    outputs.requires_grad_()
    pair_loss(outputs, targets).backward()
    assert outputs.grad[0, 0].item() == pytest.approx(-outputs.grad[0, 1:].sum().item())


def test_the_nearest_neighbour_is_the_nearest():
    """eq-nearest-neighbour"""
    batch = _batch(1)
    outputs, (support, query) = NearestNeighbour()(batch)[0], _one(batch)
    distances = torch.cdist(query.x.flatten(1), support.x.flatten(1))
    assert torch.equal(outputs.argmax(-1), support.y[distances.argmin(1)].argmax(-1))
    torch.testing.assert_close(-outputs.amax(-1), distances.amin(1).square())


def test_a_new_head_descends_to_the_minimum_of_its_loss():
    """eq-new-head"""
    learner = Baseline(nn.Identity(), classes=9, features=4, steps=2_000, lr=0.3, weight_decay=0.1).double().eval()
    z, y = torch.randn(12, 4, dtype=torch.float64), F.one_hot(torch.arange(12) % 3).double()
    head = {name: value.requires_grad_() for name, value in learner.update({}, Examples(z, y)).items()}
    loss = F.cross_entropy(learner.predict(head, z), y) + 0.05 * head["weight"].square().sum()
    gradients = torch.autograd.grad(loss, [head["weight"], head["bias"]])
    assert max(g.abs().max() for g in gradients) < 1e-9


def test_simpleshot_centres_on_the_training_classes():
    """eq-simpleshot"""
    train, _, test = glyphs()
    net = conv4(filters=4)
    learner = SimpleShot(net, mean=mean_feature(net, train))
    assert net.training
    with torch.no_grad():
        z = learner.net.eval()(train.examples(train.codes()))
        torch.testing.assert_close(learner.mean, z.mean(0), rtol=1e-4, atol=1e-5)
        some = learner.eval().embed(test.examples(test.codes()[:9]))
    torch.testing.assert_close(some.norm(dim=-1), torch.ones(9))


def _counting(learner) -> list[int]:
    """How many images the network is given from now on, call by call."""
    counts: list[int] = []
    learner.net.register_forward_hook(lambda module, inputs, output: counts.append(len(inputs[0])))
    return counts


@pytest.mark.parametrize("rotations", [False, True])
def test_600_episodes_embed_each_distinct_image_once(rotations):
    _, _, test = glyphs(rotations=rotations)
    learner = ProtoNet(conv4(filters=4))
    counts = _counting(learner)
    evaluate(learner, test, episodes=600)
    codes = torch.cat([test.draw(1, seeded(0, 1, i)) for i in range(600)])
    assert sum(counts) == len(codes.unique()) < codes.numel() / 3


def test_embedding_once_changes_no_score():
    _, _, test = glyphs(rotations=True)
    learner = ProtoNet(conv4(filters=4).double())
    test.x = test.x.double() / 255
    score = evaluate(learner, test, episodes=40)
    one_by_one = FixedTasks(test.numbered(range(40), seed=0))
    assert torch.equal(score.per_task, evaluate(learner, one_by_one, batch_norm="running").per_task)


def test_augmented_images_are_embedded_as_drawn():
    tasks = glyphs(queries=2)[2].replace(augment=lambda image: image * torch.rand(()))
    learner = ProtoNet(conv4(filters=4))
    expected = evaluate(learner, FixedTasks(tasks.numbered(range(20), seed=0)), batch_norm="running").per_task
    assert torch.equal(evaluate(learner, tasks, episodes=20).per_task, expected)
    assert not torch.equal(evaluate(learner, tasks.replace(augment=None), episodes=20).per_task, expected)


def test_bfloat16_is_for_training_only():
    torch.manual_seed(0)
    net = conv4(filters=8)
    exact, fast = ProtoNet(net), ProtoNet(copy.deepcopy(net), bfloat16=True)
    batch = glyphs()[0].sample(1, seeded(0))
    assert torch.equal(exact.eval()(batch), fast.eval()(batch))
    slow_loss, fast_loss = (learner.train().meta_loss(batch, classification) for learner in (exact, fast))
    assert slow_loss != fast_loss and slow_loss.item() == pytest.approx(fast_loss.item(), rel=0.05)
    assert fast_loss.dtype == torch.float32


def test_training_ways_may_differ_from_test_ways():
    train, _, test = glyphs(queries=3)
    learner = ProtoNet(conv4(filters=4))
    meta_train(learner, train.replace(ways=12), iterations=2, progress=False)
    assert evaluate(learner, test.replace(ways=20, queries=2), episodes=3).per_task.shape == (3,)


TRAINED = {
    "siamese": lambda: Siamese(conv4(filters=16), features=16),
    "matching": lambda: MatchingNet(conv4(filters=16)),
    "matching, full context": lambda: MatchingNet(conv4(filters=16), full_context=True, features=16, reads=2),
    "protonet": lambda: ProtoNet(conv4(filters=16)),
    "protonet, cosine": lambda: ProtoNet(conv4(filters=16), distance="cosine"),
    "relation": lambda: RelationNet(conv4(filters=16, downsample="pool")[:2], filters=16, map_size=7),
    "ridge": lambda: Ridge(conv4(filters=16)),
    "baseline": lambda: Baseline(conv4(filters=16), classes=759, features=16),
    "baseline++": lambda: Baseline(conv4(filters=16), classes=759, features=16, cosine=True),
}


def _trained(name: str, train: ClassificationTasks, iterations: int):
    torch.manual_seed(0)
    learner = TRAINED[name]()
    tasks = SupervisedTasks(train) if "baseline" in name else train.replace(ways=10, queries=5)
    meta_train(learner, tasks, iterations=iterations, meta_batch=1, outer_lr=5e-3, progress=False)
    return learner


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_learns_new_letters(name):
    """Chance is 20 %; pixels reach about 42 %."""
    train, _, test = glyphs(queries=5)
    # Pairs teach slowly, and so do cosines: these need more of them.
    learner = _trained(name, train, {"siamese": 400, "baseline++": 250}.get(name, 150))
    score = evaluate(learner, test, episodes=100)
    assert score.mean - score.ci95 > 0.45, score


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_stays_at_chance_on_shuffled_labels(name):
    """Labels that mean nothing can be learned by heart but not generalised from: a leak of query labels would show."""
    parts = []
    for part in glyphs(queries=5):
        codes = part.codes()
        order = torch.randperm(len(codes), generator=seeded(1))
        labels = torch.arange(len(part.classes)).repeat_interleave(20)[order]
        parts.append(ClassificationTasks(part.x[codes // 4], labels, queries=5))
    score = evaluate(_trained(name, parts[0], 15), parts[2], episodes=150)
    assert abs(score.mean - 0.2) < 4 * score.ci95 / 1.96, score


def test_a_metric_of_ones_own_is_two_functions():
    class Manhattan(MetricLearner):
        def update(self, state, data):
            return class_means(data.x, data.y)

        def predict(self, state, x):
            return -(x[:, None] - state).abs().sum(-1)

    z, y = torch.tensor([[0.0, 0.0], [4.0, 4.0], [2.0, 2.0]]), torch.eye(2)[[0, 1, 0]]
    learner = Manhattan(nn.Identity())
    torch.testing.assert_close(
        learner.predict(learner.update((), Examples(z, y)), torch.tensor([[3.0, 1.0]])), -torch.tensor([[2.0, 4.0]])
    )
    with pytest.raises(NotImplementedError, match=r"MetricLearner must define update\(state, data\)"):
        MetricLearner(nn.Identity()).adapt(Examples(z, y))


def test_a_baseline_says_what_it_trains_on():
    learner = Baseline(mlp(2, 3), classes=2, features=3)
    tasks = ClassificationTasks(torch.randn(9, 2), [0, 1, 2] * 3, ways=2, queries=1)
    with pytest.raises(ValueError, match=r"give meta_train SupervisedTasks\(tasks\), not episodes"):
        meta_train(learner, tasks, iterations=1, progress=False)
    with pytest.raises(ValueError, match="classes=2, but there are 3; raise classes"):
        meta_train(learner, SupervisedTasks(tasks, batch_size=50), iterations=1, progress=False)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="distance must be 'euclidean', 'scaled' or 'cosine', not 'l1'"):
        ProtoNet(mlp(2, 2), distance="l1")
    with pytest.raises(ValueError, match=r"strength must be positive, not -1\.0"):
        Ridge(mlp(2, 2), strength=-1.0)
    with pytest.raises(ValueError, match="batch_norm must be one of"):
        ProtoNet(mlp(2, 2))(_batch(), batch_norm="none")
