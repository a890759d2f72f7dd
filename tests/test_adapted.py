"""An adapted model: adapted once, each query by itself, names as they were given, and back from a file."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from torch import nn

from mlcore import (
    ANIL,
    MAML,
    AdaptedModel,
    Baseline,
    MAMLPlusPlus,
    MatchingNet,
    NearestNeighbour,
    ProtoNet,
    Reptile,
    Ridge,
    Siamese,
    conv4,
    mlp,
    seeded,
)
from mlcore.nets import BatchNorm
from mlcore.objective import mse
from mlcore.task import Examples, Task, rows

LEARNERS = {
    "maml": lambda: MAML(conv4(outputs=3, filters=4, image_size=16), inner_lr=0.1, inner_steps=2),
    "maml++": lambda: MAMLPlusPlus(conv4(outputs=3, filters=4, image_size=16), inner_lr=0.1, inner_steps=2),
    "anil": lambda: ANIL(conv4(outputs=3, filters=4, image_size=16), inner_lr=0.1, inner_steps=2),
    "reptile": lambda: Reptile(conv4(outputs=3, filters=4, image_size=16), inner_lr=0.01, inner_steps=2),
    "protonet": lambda: ProtoNet(conv4(filters=4, image_size=16)),
    "matching": lambda: MatchingNet(conv4(filters=4, image_size=16), scale=10.0),
    "siamese": lambda: Siamese(conv4(filters=4, image_size=16), features=4),
    "ridge": lambda: Ridge(conv4(filters=4, image_size=16)),
    "baseline": lambda: Baseline(conv4(filters=4, image_size=16), classes=8, features=4, steps=3),
}
POLICIES = ("transductive", "episode", "support", "running", "one_query")
NAMES = ["dog", "cat", "fish", "cat", "dog", "fish"]


def built(name: str):
    """A learner whose averages are not those that it began with."""
    torch.manual_seed(0)
    learner = LEARNERS[name]()
    for norm in (module for module in learner.modules() if isinstance(module, BatchNorm)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    return learner


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 16, 16, generator=seeded(seed))


@pytest.mark.parametrize("policy", [None, "support", "running", "one_query"])
@pytest.mark.parametrize("name", LEARNERS)
def test_it_answers_as_the_learner_does_and_each_query_by_itself(name, policy):
    learner, x, queries = built(name), images(6), images(5, seed=1)
    model = learner.fit(x, NAMES, batch_norm=policy)
    assert learner.training and model.classes == ["cat", "dog", "fish"]
    together = model.outputs(queries)
    alone = torch.cat([model.outputs(query[None]) for query in queries])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    labels = rows(torch.tensor([model.classes.index(name) for name in NAMES]))
    task = Task(Examples(x[None], labels[None]), Examples(queries[None], torch.zeros(1, 5, 3)))
    with torch.no_grad():
        expected = learner.eval()(task, batch_norm=model.policy)[0]
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.probabilities(queries), expected.softmax(-1), rtol=1e-4, atol=1e-5)
    assert model.predict(queries) == [model.classes[i] for i in expected.argmax(-1)]


def test_the_default_is_the_policy_of_the_paper_where_queries_do_not_see_each_other():
    assert built("maml").fit(images(6), NAMES).policy == "support"
    assert built("reptile").fit(images(6), NAMES).policy == "one_query"
    assert built("protonet").fit(images(6), NAMES).policy == "running"


def test_the_support_set_is_kept_only_where_queries_are_normalised_with_it():
    kept = {policy: len(built("maml").fit(images(6), NAMES, batch_norm=policy).support.x) for policy in POLICIES}
    assert kept == {"transductive": 1, "running": 1, "support": 6, "one_query": 6, "episode": 6}
    assert len(MAML(mlp(4, 3), inner_lr=0.1).fit(torch.randn(6, 4), NAMES).support.x) == 1


def test_queries_see_each_other_where_that_is_asked_for():
    for name in ("maml", "protonet"):
        for policy in ("transductive", "episode"):
            model = built(name).fit(images(6), NAMES, batch_norm=policy)
            queries = images(5, seed=1)
            assert (model.outputs(queries)[:1] - model.outputs(queries[:1])).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (torch.tensor([9, 5, 7, 5]), [5, 7, 9]),
        (np.array([9, 5, 7, 5]), [5, 7, 9]),
        ([9, 5, 7, 5], [5, 7, 9]),
        ([torch.tensor(9), torch.tensor(5), torch.tensor(7), torch.tensor(5)], [5, 7, 9]),
        (np.array(["i", "e", "g", "e"], dtype=object), ["e", "g", "i"]),
        (("i", "e", "g", "e"), ["e", "g", "i"]),
    ],
)
def test_names_come_back_as_they_were_given(names, classes):
    x = 10 * torch.eye(4)
    model = NearestNeighbour().fit(x, names)
    predicted = model.predict(x + 0.1)
    assert model.classes == classes and predicted == [classes[2], classes[0], classes[1], classes[0]]
    assert all(type(name) in (int, str) for name in predicted)


def test_image_bytes_are_scaled_as_in_episodes():
    pictures = torch.randint(256, (6, 1, 16, 16), dtype=torch.uint8, generator=seeded(0))
    learner = built("protonet")
    as_bytes, as_floats = learner.fit(pictures, NAMES), learner.fit(pictures / 255, NAMES)
    torch.testing.assert_close(as_bytes.outputs(pictures), as_floats.outputs(pictures / 255))
    assert as_bytes.predict(pictures.numpy()) == as_floats.predict(pictures / 255)


def test_regression_gives_outputs():
    learner = MAML(mlp(1, 8, 1), inner_lr=0.1, loss_fn=mse, test_steps=3)
    x = torch.randn(5, 1)
    model = learner.fit(x, x.sin())
    assert (
        model.classes is None and torch.equal(model.predict(x), model.outputs(x)) and model.predict(x).shape == (5, 1)
    )
    with pytest.raises(ValueError, match="no probabilities; use outputs"):
        model.probabilities(x)


def test_inputs_may_have_several_parts():
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.norm, self.head = nn.Embedding(10, 4), BatchNorm(4), nn.Linear(4, 2)

        def forward(self, x):
            ids, mask = x
            return self.head(self.norm((self.words(ids) * mask[..., None]).sum(-2)))

    x = torch.randint(10, (4, 3), generator=seeded(0)), torch.ones(4, 3)
    for policy in POLICIES:
        for learner in (ProtoNet(Bag()), MAML(Bag(), inner_lr=0.1)):
            model = learner.fit(x, ["a", "b", "a", "b"], batch_norm=policy)
            assert model.outputs(x).shape == (4, 2) and model.outputs(x).isfinite().all()


def test_it_outlives_further_training_of_the_learner():
    learner = built("protonet")
    model = learner.fit(images(6), NAMES)
    before = model.outputs(images(5))
    with torch.no_grad():
        for value in learner.parameters():
            value.add_(1.0)
    assert torch.equal(model.outputs(images(5)), before)
    unmoved = MAML(mlp(4, 3), inner_lr=0.1, test_steps=0)  # its state is the very weights
    model = unmoved.fit(torch.ones(3, 4), [0, 1, 2])
    before = model.outputs(torch.ones(1, 4))
    with torch.no_grad():
        unmoved.net[0].weight.add_(1.0)
    assert torch.equal(model.outputs(torch.ones(1, 4)), before)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_file_holds_all_but_the_architecture(name, tmp_path):
    learner = built(name)
    model = learner.fit(images(6), NAMES)
    model.save(tmp_path / "model.pt")
    other = LEARNERS[name]()  # of other weights
    loaded = AdaptedModel.load(tmp_path / "model.pt", other)
    assert loaded.classes == model.classes and loaded.policy == model.policy
    assert torch.equal(loaded.outputs(images(5)), model.outputs(images(5)))
    assert torch.equal(loaded.to("cpu").outputs(images(5)), model.outputs(images(5)))
    assert not torch.equal(other.net[0][0].weight, learner.net[0][0].weight)


@pytest.mark.slow
def test_a_new_process_answers_the_same(tmp_path):
    torch.manual_seed(0)
    model = ProtoNet(mlp(4, 8, 8)).fit(torch.randn(6, 4, generator=seeded(0)), [7, 5, 9, 5, 7, 9])
    x = torch.randn(20, 4, generator=seeded(1))
    model.save(tmp_path / "model.pt")
    torch.save(x, tmp_path / "x.pt")
    script = f"""
        import torch
        from mlcore import AdaptedModel, ProtoNet, mlp
        model = AdaptedModel.load({str(tmp_path / "model.pt")!r}, ProtoNet(mlp(4, 8, 8)))
        print(model.predict(torch.load({str(tmp_path / "x.pt")!r})))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(model.predict(x))


def test_settings_are_in_the_file(tmp_path):
    net = mlp(4, 8)
    MatchingNet(net, scale=3.0).fit(torch.randn(6, 4), NAMES).save(tmp_path / "model.pt")
    assert AdaptedModel.load(tmp_path / "model.pt", MatchingNet(net)).learner.scale == 3.0


def test_a_file_of_another_learner_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    ProtoNet(mlp(4, 8)).fit(torch.randn(6, 4), NAMES).save(path)
    with pytest.raises(ValueError, match="is a model of ProtoNet, not of Ridge; give such a learner"):
        AdaptedModel.load(path, Ridge(mlp(4, 8)))
    with pytest.raises(ValueError, match="is a model of another network: size mismatch"):
        AdaptedModel.load(path, ProtoNet(mlp(4, 7)))
    with pytest.raises(TypeError, match="learner must be a Learner"):
        AdaptedModel.load(path, mlp(4, 8))
    torch.save({"weights": {}}, path)
    with pytest.raises(ValueError, match=r"is not a saved model that can be read \(KeyError\)"):
        AdaptedModel.load(path, ProtoNet(mlp(4, 8)))


@pytest.mark.parametrize(
    ("x", "names", "error", "message"),
    [
        (torch.randn(3, 4), [1, "a", 2], TypeError, "all integers or all strings, but that of example 1 is 'a'"),
        (torch.randn(3, 4), ["b", "a", 2], TypeError, "all integers or all strings, but that of example 2 is 2"),
        (torch.randn(3, 4), [True, False, True], TypeError, "integers or strings, not bool"),
        (torch.randn(3, 4), torch.tensor([0.5, 1.0, 2.0]), TypeError, r"regression targets as \[n, \*output\]"),
        (torch.randn(3, 4), [0.5, 1.0, 2.0], TypeError, "labels must be integers or strings, not float"),
        (torch.randn(3, 4), ["a", "b"], ValueError, "3 examples but there are 2 names"),
        (torch.randn(0, 4), [], ValueError, "there are no labels"),
        (torch.randn(3, 5), [1, 2, 3], RuntimeError, "shapes cannot be multiplied"),
    ],
)
def test_bad_input_is_named(x, names, error, message):
    with pytest.raises(error, match=message):
        ProtoNet(mlp(4, 3)).fit(x, names)


def test_bad_queries_are_named():
    model = built("protonet").fit(images(6), NAMES)
    with pytest.raises(ValueError, match=r"must be \[n, \.\.\.\] like the support set, \[n, 1, 16, 16\]; .* x\[None\]"):
        model.predict(images(6)[0])
    few = MAML(mlp(4, 2), inner_lr=0.1)
    with pytest.raises(ValueError, match="build the network with outputs equal to the ways"):
        few.fit(torch.randn(3, 4), [1, 2, 3])
    with pytest.raises(ValueError, match="batch_norm must be one of"):
        few.fit(torch.randn(2, 4), [1, 2], batch_norm="none")


def test_a_network_with_more_outputs_than_classes_answers_with_its_first():
    model = MAML(mlp(4, 9), inner_lr=0.1).fit(torch.randn(3, 4), [1, 2, 3])
    assert model.outputs(torch.randn(2, 4)).shape == (2, 3)


def test_a_state_that_no_file_can_hold_is_named(tmp_path):
    class Odd(NearestNeighbour):
        def update(self, state, data):
            return *super().update(state, data), object()

        def predict(self, state, x):
            return super().predict(state[:2], x)

    with pytest.raises(TypeError, match="a model holds a object, which cannot be saved"):
        Odd().fit(torch.eye(3), [1, 2, 3]).save(tmp_path / "model.pt")
