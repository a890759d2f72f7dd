"""Learners that read a support set as a sequence, and streams of examples."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad

from mlcore import (
    MANN,
    SNAIL,
    ClassificationTasks,
    Examples,
    LSTMLearner,
    StreamTasks,
    Task,
    classification,
    evaluate,
    rows,
    seeded,
)
from mlcore.learners.mann import Memory, least_used
from mlcore.learners.snail import AttentionBlock, DenseBlock
from mlcore.nets.lstm import LSTMCell
from mlcore.nets.norms import BatchNorm
from mlcore.objective import cross_entropy
from mlcore.tasks.streams import by_instance

DOUBLE = torch.float64
WAYS, FEATURES = 3, 5


def snail() -> SNAIL:
    torch.manual_seed(0)
    return SNAIL(nn.Identity(), features=FEATURES, ways=WAYS, length=7, filters=8).double()


def lstm(**settings) -> LSTMLearner:
    torch.manual_seed(0)
    return LSTMLearner(nn.Identity(), features=FEATURES, ways=WAYS, hidden=6, **settings).double()


def mann(**settings) -> MANN:
    torch.manual_seed(0)
    sizes = {"hidden": 6, "slots": 5, "width": 4, "heads": 2}
    return MANN(nn.Identity(), features=FEATURES, ways=WAYS, **sizes, **settings).double()


every_sequence = pytest.mark.parametrize("build", [snail, lstm, mann])


def examples(n: int, *, seed: int = 0) -> Examples:
    x = torch.randn(n, FEATURES, dtype=DOUBLE, generator=seeded(seed))
    return Examples(x, rows(torch.arange(n) % WAYS, WAYS).double())


def batch(tasks: int = 2) -> Task:
    x = torch.randn(tasks, 10, FEATURES, dtype=DOUBLE, generator=seeded(1))
    y = rows(torch.arange(10) % WAYS, WAYS).double().expand(tasks, -1, -1)
    return Task(Examples(x[:, :6], y[:, :6]), Examples(x[:, 6:], y[:, 6:]))


# All of them.


@every_sequence
def test_a_query_sees_no_other_and_all_of_the_support_set(build):
    learner, support, x = build(), examples(6), examples(4, seed=1).x
    answers = learner.predict(learner.adapt(support), x)
    torch.testing.assert_close(learner.predict(learner.adapt(support), x[2:3]), answers[2:3])
    for i in range(6):
        changed = Examples(support.x.index_fill(0, torch.tensor(i), 0.5), support.y)
        assert (learner.predict(learner.adapt(changed), x) - answers).abs().max() > 1e-9


@every_sequence
@pytest.mark.parametrize("portions", [2, 3, 6])
def test_a_sequence_may_come_in_portions(build, portions):
    learner, support, x = build(), examples(6), examples(4, seed=1).x
    state = learner.begin()
    for part in zip(support.x.chunk(portions), support.y.chunk(portions), strict=True):
        state = learner.update(state, Examples(*part))
    torch.testing.assert_close(learner.predict(state, x), learner.predict(learner.adapt(support), x))


@every_sequence
def test_gradients_are_their_finite_differences(build, differences_agree):
    learner, task = build(), batch()
    learner.meta_backward(task, classification)
    differences_agree(learner, lambda: learner.meta_loss(task, classification))


# SNAIL.


def test_a_later_element_changes_nothing_earlier():
    learner, sequence = snail(), torch.randn(9, FEATURES + WAYS, dtype=DOUBLE, generator=seeded(2))
    answers, _ = learner.read(sequence, learner.begin())
    for t in range(9):
        other, _ = learner.read(sequence.index_fill(0, torch.tensor(t), 3.0), learner.begin())
        torch.testing.assert_close(other[:t], answers[:t], rtol=1e-12, atol=1e-12)
        assert (other[t:] - answers[t:]).abs().amax(1).min() > 1e-9


def test_cached_queries_are_those_of_whole_sequences():
    learner, support, x = snail(), examples(6), examples(4, seed=1).x
    answers = learner.predict(learner.adapt(support), x)
    for question, answer in zip(x, answers, strict=True):
        sequence = torch.cat([torch.cat([support.x, support.y], -1), F.pad(question, (0, WAYS))[None]])
        torch.testing.assert_close(learner.read(sequence, learner.begin())[0][-1], answer)


@pytest.mark.parametrize("dilation", [1, 2, 4])
def test_a_dense_block_is_two_causal_convolutions_and_a_gate(dilation):
    torch.manual_seed(0)
    block, x = DenseBlock(3, 4, dilation).double(), torch.randn(7, 3, dtype=DOUBLE)
    convolution = nn.Conv1d(3, 8, 2, dilation=dilation).double()
    with torch.no_grad():
        convolution.weight.copy_(torch.stack([block.before.weight, block.now.weight], -1))
        convolution.bias.copy_(block.now.bias)
    value, gate = convolution(F.pad(x.mT, (dilation, 0))).chunk(2)
    expected = torch.cat([x, (value.tanh() * gate.sigmoid()).mT], -1)
    outputs, memory = block(x, block.begin())
    torch.testing.assert_close(outputs, expected)
    assert torch.equal(memory, x[-dilation:]) and block.outputs == 7


def test_attention_is_torchs_over_keys_of_the_past():
    torch.manual_seed(0)
    block, x = AttentionBlock(3, 6, 4).double(), torch.randn(5, 3, dtype=DOUBLE)
    expected = F.scaled_dot_product_attention(block.query(x), block.key(x), block.value(x), is_causal=True)
    torch.testing.assert_close(block(x, block.begin())[0], torch.cat([x, expected], -1))


def test_sizes_are_the_papers():
    learner = SNAIL(nn.Identity())
    attentions = [block for block in learner.blocks if isinstance(block, AttentionBlock)]
    assert [(b.key.out_features, b.value.out_features) for b in attentions] == [(64, 32), (256, 128), (512, 256)]
    assert [b.dilation for b in learner.blocks if isinstance(b, DenseBlock)] == [1, 2, 4] * 2
    with pytest.raises(ValueError, match=r"length must be at least 2, .*not 1"):
        SNAIL(nn.Identity(), length=1)


def test_in_training_a_meta_batch_is_normalised_together():
    torch.manual_seed(0)
    norm = BatchNorm(FEATURES)
    learner, task = SNAIL(norm, features=FEATURES, ways=WAYS, length=7, filters=8).double(), batch()
    x = torch.cat([task.support.x, task.query.x], 1)
    expected = F.batch_norm(x.flatten(0, 1), None, None, training=True).view_as(x)
    prepared = learner.prepare(task, "episode")
    torch.testing.assert_close(torch.cat([prepared.support.x, prepared.query.x], 1), expected)
    torch.testing.assert_close(learner.net.running_mean, 0.1 * x.mean((0, 1)))
    apart = learner.eval().prepare(task, "running").query.x
    torch.testing.assert_close(apart[0, 0], learner.embed(task.query.x[0, :1])[0])


# Streams, an LSTM and an external memory.


@pytest.mark.parametrize("build", [lstm, mann])
def test_answers_along_a_stream_are_those_to_queries_at_every_length(build):
    learner, support = build(), examples(6)
    state = learner.adapt(support)
    for t in range(6):
        shorter = learner.begin() if t == 0 else learner.adapt(Examples(support.x[:t], support.y[:t]))
        torch.testing.assert_close(learner.predict(shorter, support.x[t : t + 1])[0], state.answers[t])
    query = examples(4, seed=1)
    outputs = learner.predict(state, query.x)
    expected = cross_entropy(torch.cat([state.answers, outputs]), torch.cat([support.y, query.y]))
    torch.testing.assert_close(learner.loss(state, outputs, query, classification), expected)
    along = learner.replace(along=True)
    torch.testing.assert_close(along.loss(state, state.answers, support, classification), expected_along(state))


def expected_along(state):
    return cross_entropy(state.answers, state.labels)


def test_the_cell_is_torchs():
    torch.manual_seed(0)
    ours, theirs = LSTMCell(3, 4).double(), nn.LSTMCell(3, 4).double()
    with torch.no_grad():  # torch's gates are input, forget, candidate, output
        order = torch.cat([torch.arange(4 * i, 4 * i + 4) for i in (0, 1, 3, 2)])
        theirs.weight_ih.copy_(ours.gates.weight[order, :3])
        theirs.weight_hh.copy_(ours.gates.weight[order, 3:])
        theirs.bias_ih.copy_(ours.gates.bias[order])
        theirs.bias_hh.zero_()
    x, hidden, cell = (torch.randn(2, n, dtype=DOUBLE) for n in (3, 4, 4))
    torch.testing.assert_close(ours(x, hidden, cell), theirs(x, (hidden, cell)))


def test_the_least_used_rows_are_taken_one_a_head():
    usage = torch.tensor([0.3, 0.0, 0.9, 0.0, 0.1])
    assert least_used(usage, 2).tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert least_used(usage, 3)[2].tolist() == [0, 0, 0, 0, 1]


def test_a_step_of_the_memory_by_hand():
    """One head, three rows. A shut gate writes to the least used row, an open one to the row read last."""
    torch.manual_seed(0)
    learner = MANN(nn.Identity(), features=2, ways=2, hidden=3, slots=3, width=2, heads=1, decay=0.5).double()
    stored = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]], dtype=DOUBLE)
    usage = torch.tensor([0.7, 0.2, 0.4], dtype=DOUBLE)
    reading = torch.tensor([[0.0, 0.0, 1.0]], dtype=DOUBLE)
    zeros = torch.zeros(3, dtype=DOUBLE)
    memory = Memory(zeros, zeros, stored, usage, reading, torch.zeros(2, dtype=DOUBLE))
    for gate in (-40.0, 40.0):
        nn.init.zeros_(learner.gates.weight)
        nn.init.constant_(learner.gates.bias, gate)
        after = learner.step(torch.ones(4, dtype=DOUBLE), memory)[1]
        key = learner.keys(after.hidden).tanh()
        expected = stored.clone()
        expected[1] = 0  # the least used row is emptied in any case
        expected[2 if gate > 0 else 1] += key
        torch.testing.assert_close(after.rows, expected)
        weights = (10 * F.cosine_similarity(key[None], expected)).softmax(0)
        torch.testing.assert_close(after.reading[0], weights)
        torch.testing.assert_close(after.read, weights @ expected)
        written = torch.eye(3, dtype=DOUBLE)[2 if gate > 0 else 1]
        torch.testing.assert_close(after.usage, 0.5 * usage + weights + written)


def labelled() -> ClassificationTasks:
    labels = torch.arange(6).repeat_interleave(8)
    x = F.one_hot(labels, FEATURES + 1).float()[:, :FEATURES] + 0.1 * torch.randn(48, FEATURES, generator=seeded(0))
    return ClassificationTasks(x, labels, ways=WAYS, queries=1)


def test_a_stream_asks_about_itself_and_counts_instances():
    tasks = StreamTasks(labelled(), instances=4)
    task = tasks.sample(5, seeded(0))
    assert task.support is task.query and task.support.x.shape == (5, 12, FEATURES)
    assert task.support.y.sum(1).eq(4).all()
    y = rows(torch.tensor([0, 0, 1, 1, 0, 1]))
    wrong = y.flip(-1)
    outputs = torch.stack([wrong[0], y[1], wrong[2], wrong[3], y[4], y[5]])
    assert by_instance(outputs, y).tolist() == [0, 0.5, 1]  # by class 0: wrong, right, right; 1: wrong, wrong, right
    assert tasks.replace(instance=2).objective.metrics["accuracy"].of(outputs, y) == 0.5
    assert repr(tasks.replace(instances=2)) == "StreamTasks(ways=3, instances=2; instance=None)"
    with pytest.raises(ValueError, match="instance=5 must be 1 to 4"):
        tasks.replace(instance=5)
    with pytest.raises(TypeError, match=r"replace\(\) does not know \['shots'\]"):
        tasks.replace(shots=2)


@pytest.mark.parametrize("build", [lstm, mann])
def test_a_learner_answers_along_a_stream(build):
    learner = build(along=True).float().eval()
    task = StreamTasks(labelled(), instances=4).sample(3, seeded(0))
    judged = learner.judged(task, StreamTasks(labelled(), instances=4).objective)
    assert judged.outputs.shape == (3, 12, WAYS) and judged.scores["by instance"].shape == (3, 4)
    single = task.each(lambda tensor: tensor[0])
    torch.testing.assert_close(judged.outputs[0], learner.adapt(single.support).answers, rtol=1e-5, atol=1e-6)
    score = evaluate(learner, StreamTasks(labelled(), instances=4, instance=1), episodes=20, progress=False)
    assert score["by instance"].per_task[:, 0].equal(score.per_task)


def test_a_gate_that_forgets_nothing_makes_an_lstm_gradient_descent():
    """Ravi and Larochelle (2017), equation 2: c ← f ∘ c + i ∘ (-∇L), with f = 1 and i = α, is a step of SGD."""
    support = examples(6)
    loss = lambda w: cross_entropy(support.x @ w, support.y)  # noqa: E731
    start = torch.randn(FEATURES, WAYS, dtype=DOUBLE, generator=seeded(3))
    w = start.clone().requires_grad_()
    optimizer = torch.optim.SGD([w], lr=0.3)
    cell = start
    for _ in range(5):
        optimizer.zero_grad()
        loss(w).backward()
        optimizer.step()
        cell = 1.0 * cell + 0.3 * -grad(loss)(cell)
    torch.testing.assert_close(cell, w.detach())
