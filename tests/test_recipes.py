"""Recipes are plain values: they build, hash what matters, run, and match the records that rest on them."""

import inspect
import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mlcore import (
    MAML,
    Baseline,
    Examples,
    FixedTasks,
    HardTasks,
    MetaTransfer,
    Named,
    ProtoNet,
    SimpleShot,
    SupervisedTasks,
    Task,
    conv4,
    datasets,
    evaluate,
    meta_train,
    mlp,
    rows,
    seeded,
)
from mlcore.agents import Agent
from mlcore.datasets.quadratics import squared_norm
from mlcore.densities import either
from mlcore.experiments import run as running
from mlcore.experiments.catalogue import RECIPES, get_recipe
from mlcore.experiments.ledger import published, read_runs, record, results_folder
from mlcore.experiments.recipe import Evaluation, Profile, Recipe, described
from mlcore.experiments.run import checkpoint_path, run_recipe, score
from mlcore.files import repository_data
from mlcore.generative import likelihood
from mlcore.learners.simpleshot import mean_feature
from mlcore.learners.word_prior import Prior
from mlcore.objective import classification, cross_entropy, mse
from mlcore.tasks.pairs import reconstruction

SINUSOID = RECIPES["maml-sinusoid"]
_TWO_WAYS = torch.tensor([[0, 1, 0, 1, 0, 1]])
GLYPHS = partial(datasets.load, "glyphs", ways=3, shots=1, queries=2)
SMALL_NET = partial(conv4, 1, filters=4)


@pytest.fixture(autouse=True)
def _runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MLCORE_RUNS", str(tmp_path / "runs"))


def _small(recipe: Recipe = SINUSOID, iterations: int = 6, **changes) -> Recipe:
    profile = Profile(iterations=iterations, episodes=8, val_every=4, val_episodes=5)
    return replace(recipe, profiles={"quick": profile}, **changes)


def _noise(*, channels: int, size: int, ways: int) -> Task:
    """One 1-shot task of random images, with two queries a class."""
    x = torch.rand(1, 3 * ways, channels, size, size)
    y = rows(torch.arange(3 * ways) % ways)[None]
    return Task(Examples(x[:, :ways], y[:, :ways]), Examples(x[:, ways:], y[:, ways:]))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_builds(recipe):
    assert RECIPES[recipe.name] is recipe
    assert set(recipe.profiles) == {"quick", "record"}
    for load in [recipe.tasks, *(row.on for row in recipe.evaluations if row.on is not None)]:
        inspect.signature(load.func).bind(*load.args, **load.keywords)
        known = inspect.signature(datasets.load).parameters
        settings = {name: value for name, value in load.keywords.items() if name not in known}
        if load.args[0] == "omniglot_challenge":
            settings.pop("size", None)
            inspect.signature(datasets.omniglot_background).bind(**settings)
        else:
            inspect.signature(getattr(datasets, load.args[0])).bind(**settings)
    inspect.signature(meta_train).bind_partial(**recipe.training)
    settings = [row.setting for row in recipe.evaluations]
    assert len(set(settings)) == len(settings) > 0
    assert recipe.start_from is None or recipe.start_from in RECIPES
    coloured = recipe.dataset in ("cifar", "pairs") or "colour" in recipe.tasks.keywords
    channels, size = (3, 32) if coloured else (1, 28)
    # Training tasks may not be here to measure anything on.
    width = {name: lambda net, _: 0 * net(torch.rand(1, channels, size, size))[0].detach() for name in recipe.measured}
    if "prior" in width:
        width["prior"] = lambda net, _: Prior(torch.zeros(384, 192), torch.zeros(192), torch.ones(()))
    if "pairs" in width:
        width["pairs"] = lambda net, _: net(torch.rand(20, channels, size, size)).detach().unflatten(0, (10, 2))
    learner = replace(recipe, measured=width).build(0).eval()
    functions = "sinusoid noisy_sinusoid gaussian_process linear_regression quadratics tables pixels population".split()
    functions += ["bandits", "hidden_goal", "random_mdps", "pendulums", "wave_streams"]
    if recipe.dataset in ("movielens", "tennessee"):  # tables, which may not be here
        columns, target = (22, torch.randn(1, 6, 1)) if recipe.dataset == "movielens" else (104, rows(_TWO_WAYS))
        examples = Examples(torch.randn(1, 6, columns), target)
        objective = either if recipe.dataset == "movielens" else classification
        assert getattr(learner, "loss_fn", mse) is mse
        assert learner.judged(Task(examples, examples), objective).losses.isfinite().all()
    elif "names" in recipe.tasks.keywords:  # in features, which are made of images that may not be here
        task = _noise(channels=1, size=1, ways=5)
        x, y = torch.rand(1, 5, 192), task.support.y
        named = Named(x, y, torch.rand(1, 5, 384))
        assert learner(Task(named, Examples(x, y))).shape == (1, 5, 5)
    elif recipe.dataset == "pairs":
        pair = Examples(torch.rand(1, 4, channels, size, size))
        assert learner.judged(Task(pair, pair), reconstruction).outputs.shape == (1, 4)
    elif recipe.dataset == "navigation":
        tasks = recipe.splits()[0].replace(paths=3, stages=3)
        judged = learner.judged(tasks.sample(2, seeded(0)), tasks.objective)
        assert judged.outputs.shape == (2, 3) and judged.losses.isfinite().all()
    elif recipe.dataset == "drawings":
        drawn = Examples(torch.rand(1, 5, 1, 28, 28).round())
        assert learner.judged(Task(drawn, drawn), likelihood).outputs.shape == (1, 5)
    elif recipe.dataset in ("canvases", "blood_cells"):  # on embedded data of their kind
        cells = datasets.made_up_cells("WBC", pictures=4, queries=2)
        tasks = cells if recipe.dataset == "blood_cells" else datasets.canvases(characters=3)[2]
        judged = learner.judged(tasks.sample(1, seeded(0)), tasks.objective)
        assert judged.losses.isfinite().all() and all(0 <= s[0] <= 100 for s in judged.scores.values())
    elif recipe.dataset in functions:
        assert getattr(learner, "loss_fn", mse) in (mse, squared_norm)
        tasks = recipe.splits()[0]
        task = tasks.sample(1, seeded(0))
        judged = learner.judged(task, tasks.objective)
        asked = (1, learner.worlds.lifetime) if isinstance(learner, Agent) else task.query.y.shape
        assert all(part.shape == asked for part in tree_leaves(judged.outputs))
        assert judged.losses.isfinite().all()
    elif recipe.dataset in ("intents", "relations"):
        task = _noise(channels=1, size=1, ways=5)
        width = getattr(learner.net, "in_features", 384)
        task = task._replace(
            **{name: Examples(torch.rand(1, half.y.shape[1], width), half.y) for name, half in task._asdict().items()}
        )
        assert learner(task).shape == (1, 10, 5) and learner.judged(task, classification).losses.isfinite().all()
    else:
        assert getattr(learner, "loss_fn", cross_entropy) is cross_entropy
        head = getattr(recipe.net, "args", ())[1:2]  # a head has its ways, as a reader has; others have any
        ways = head[0] if head else getattr(learner, "ways", 5)
        task = _noise(channels=channels, size=size, ways=ways)
        if "instances" in recipe.tasks.keywords:  # a stream is asked about itself
            task = task._replace(support=task.query)
        assert learner(task).shape == (1, 2 * ways, ways)
        judged = learner.judged(task, classification)
        assert judged.losses.isfinite().all() and 0 <= judged.scores["accuracy"] <= 1


@pytest.mark.parametrize("name", ["maml-sinusoid", "maml-glyphs-5w1s"])
def test_recipes_on_embedded_data_learn_from_their_tasks(name):
    learner = RECIPES[name].build(0)
    for distribution in RECIPES[name].splits():
        judged = learner.meta_backward(distribution.sample(2, seeded(0)), distribution.objective)
        assert judged.losses.isfinite().all()
    assert all(p.grad.abs().max() > 0 for p in learner.parameters())


def test_initial_weights_depend_on_the_seed_alone():
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, again, other = (SINUSOID.build(seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["net.0.weight"], other["net.0.weight"])


ROW = SINUSOID.evaluations[0]


def other(name: str, **keywords) -> dict:
    """A change of the keywords of one of the recipe's callables."""
    return {name: partial(getattr(SINUSOID, name), **keywords)}


MATTERS = (
    {
        "data set": {"tasks": partial(datasets.load, "glyphs", shots=10, queries=10)},
        "data": other("tasks", shots=9),
        "net": {"net": partial(mlp, 1, 41, 40, 1)},
        "net option": other("net", activation=nn.Tanh),
        "no net": {"net": None},
        "learner": {"learner": partial(ProtoNet)},
        "hard tasks": {"train_on": HardTasks},
        "hard tasks' pool": {"train_on": partial(HardTasks, pool=7)},
        "measured": {"measured": {"mean": mean_feature}},
        "training": {"training": SINUSOID.training | {"outer_lr": 1e-4}},
        "optimizer": {"training": SINUSOID.training | {"optimizer": torch.optim.SGD}},
        "optimizer option": {"training": SINUSOID.training | {"optimizer": partial(torch.optim.SGD, momentum=0.9)}},
        "evaluation steps": {"evaluations": (replace(ROW, test_steps=2), *SINUSOID.evaluations[1:])},
        "evaluation policy": {"evaluations": (replace(ROW, batch_norm="running"), *SINUSOID.evaluations[1:])},
        "evaluation sizes": {"evaluations": (replace(ROW, sizes={}), *SINUSOID.evaluations[1:])},
        "evaluation episodes": {"evaluations": (replace(ROW, episodes=7), *SINUSOID.evaluations[1:])},
        "evaluation data": {"evaluations": (replace(ROW, on=GLYPHS), *SINUSOID.evaluations[1:])},
        "validation sizes": {"validation": {"shots": 3}},
        "start": {"start_from": "another"},
        "fewer evaluations": {"evaluations": SINUSOID.evaluations[1:]},
    }
    | {
        f"learner's {name}": other("learner", **{name: value})
        for name, value in {
            "inner_lr": 0.02,
            "inner_steps": 2,
            "test_steps": 2,
            "first_order": True,
            "loss_fn": cross_entropy,
            "mapping": "loop",
            "bfloat16": True,
        }.items()
    }
    | {
        f"profile {name}": {"profiles": SINUSOID.profiles | {"quick": replace(SINUSOID.profiles["quick"], **{name: 7})}}
        for name in ("iterations", "episodes", "val_every", "val_episodes")
    }
)
DOES_NOT = {
    "title": {"title": "another"},
    "paper": {"paper": "another"},
    "published": {"evaluations": tuple(replace(row, published=None) for row in SINUSOID.evaluations)},
    "the other profile": {"profiles": SINUSOID.profiles | {"record": Profile(iterations=1, episodes=2, val_every=3)}},
    "nothing": {},
}


def test_every_keyword_of_the_learner_is_changed_above():
    keywords = set(inspect.signature(MAML).parameters) - {"net"}
    assert keywords == {name.removeprefix("learner's ") for name in MATTERS if name.startswith("learner's ")}


@pytest.mark.parametrize("change", MATTERS.values(), ids=MATTERS)
def test_hash_changes_with_what_matters(change):
    assert replace(SINUSOID, **change).hash("quick") != SINUSOID.hash("quick")


def test_every_change_gives_another_hash():
    hashes = [replace(SINUSOID, **change).hash("quick") for change in MATTERS.values()]
    assert len(set(hashes)) == len(hashes)


# The last one has a name that any other function without one shares.
VAGUE = [nn.ReLU(), torch.zeros(2), {1, 2}, 1j, partial(mlp, torch.tensor(3)), lambda t: 1 - t]


@pytest.mark.parametrize("value", VAGUE, ids=lambda value: type(value).__name__)
def test_what_has_no_description_is_refused(value):
    with pytest.raises(TypeError, match="which has no description; use a partial of a function or a class"):
        described(value)
    with pytest.raises(TypeError, match=r"a recipe holds .*, which has no description"):
        replace(SINUSOID, training={"outer_lr": value}).hash("quick")


def test_a_description_is_plain_values():
    value = {"a": partial(mlp, 1, activation=nn.Tanh), "b": (1, 2.5, None, True, "x"), "c": ROW}
    assert json.loads(json.dumps(described(value))) == {
        "a": {"call": "mlp", "args": [1], "with": {"activation": "Tanh"}},
        "b": [1, 2.5, None, True, "x"],
        "c": {name: part for name, part in vars(ROW).items() if part is not None},
    }


@pytest.mark.parametrize("change", DOES_NOT.values(), ids=DOES_NOT)
def test_hash_stays_with_what_does_not(change):
    changed = replace(SINUSOID, **change)
    assert changed.hash("quick") == SINUSOID.hash("quick")
    assert len(changed.hash("quick")) == 12 and int(changed.hash("quick"), 16) > 0


def test_hashes_are_all_different():
    hashes = [recipe.hash("record") for recipe in RECIPES.values()]
    assert len(set(hashes)) == len(hashes)


def test_what_is_only_scored_otherwise_keeps_its_checkpoint():
    fewer = replace(SINUSOID, evaluations=SINUSOID.evaluations[1:])
    longer = replace(SINUSOID, profiles={"quick": replace(SINUSOID.profiles["quick"], episodes=7)})
    slower = replace(SINUSOID, training={"meta_batch": 25, "outer_lr": 1e-4})
    same = SINUSOID.training_hash("quick")
    assert fewer.training_hash("quick") == longer.training_hash("quick") == same != slower.training_hash("quick")


def test_published_numbers_exist():
    wanted = {row.published for recipe in RECIPES.values() for row in recipe.evaluations} - {None}
    assert wanted and wanted <= set(published())


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="there is no recipe 'maml'; `mlcore list` shows all"):
        get_recipe("maml")
    with pytest.raises(ValueError, match="there is no profile 'full'; choose one of quick, record"):
        run_recipe(SINUSOID, profile="full")


def test_a_run_trains_and_scores_as_the_recipe_says():
    recipe = _small()
    run = run_recipe(recipe, seed=1, progress=False)
    assert len(run.history.loss) == 6 and run.history.val_iteration == [4, 6]
    assert list(run.scores) == [row.setting for row in recipe.evaluations]
    learner = recipe.build(1)
    train, val, test = recipe.splits()
    meta_train(
        learner, train, iterations=6, val=val, val_every=4, val_episodes=5, seed=1, progress=False, **recipe.training
    )
    for name, value in learner.state_dict().items():
        assert torch.equal(run.learner.state_dict()[name], value)
    for row in recipe.evaluations:
        asked = learner.replace(test_steps=row.test_steps)
        expected = evaluate(asked, test.replace(**row.sizes), episodes=8)  # seed 0, whatever the run's
        assert torch.equal(run.scores[row.setting].per_task, expected.per_task)
    assert len({score.mean for score in run.scores.values()}) == 3
    assert run.learner.test_steps == 1


def test_a_row_names_the_policy():
    rows = tuple(Evaluation(policy, batch_norm=policy) for policy in ("transductive", "running"))
    recipe = _small(RECIPES["maml-glyphs-5w1s"], evaluations=rows, net=partial(conv4, 1, 5, filters=4), iterations=2)
    run = run_recipe(recipe, progress=False)
    test = recipe.splits()[2]
    for row in rows:
        expected = evaluate(run.learner, test, episodes=8, batch_norm=row.setting)
        assert torch.equal(run.scores[row.setting].per_task, expected.per_task)
    transductive, running = (run.scores[row.setting].per_task for row in rows)
    assert not torch.equal(transductive, running)


def test_resume_goes_on_and_a_plain_run_starts_again(monkeypatch):
    recipe, started = _small(), []
    train = running.meta_train

    def spy(learner, tasks, *, checkpoint, **options):
        started.append(checkpoint.exists())
        return train(learner, tasks, checkpoint=checkpoint, **options)

    monkeypatch.setattr(running, "meta_train", spy)
    first = run_recipe(recipe, progress=False)
    resumed = run_recipe(recipe, progress=False, resume=True)
    again = run_recipe(recipe, progress=False)
    assert started == [False, True, False]
    assert checkpoint_path(recipe, "quick", 0).with_suffix(".previous.pt").exists()
    assert first.history == resumed.history == again.history
    assert resumed.history.minutes == first.history.minutes  # the wall time of the whole run, not of the last part


def test_a_checkpoint_of_another_recipe_is_refused():
    run_recipe(_small(), progress=False)
    changed = _small(training={"meta_batch": 25, "outer_lr": 0.5})
    with pytest.raises(
        ValueError,
        match=rf"recipe {_small().training_hash('quick')}, seed 0; this one is {changed.training_hash('quick')}",
    ):
        run_recipe(changed, progress=False, resume=True)


def test_a_run_that_cannot_start_keeps_the_checkpoint(tmp_path, monkeypatch):
    recipe = RECIPES["maml-omniglot-5w1s"]
    path = checkpoint_path(recipe, "record", 0)
    assert path.parent == tmp_path / "runs"
    path.parent.mkdir()
    path.write_bytes(b"hours of work")
    monkeypatch.setenv("MLCORE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no Omniglot in"):
        run_recipe(recipe, profile="record", progress=False)
    assert path.read_bytes() == b"hours of work"


def test_checkpoints_of_different_runs_have_different_names():
    paths = {
        checkpoint_path(recipe, p, seed) for recipe in RECIPES.values() for p in recipe.profiles for seed in (0, 1)
    }
    assert len(paths) == 4 * len(RECIPES)


def _stale(name: str, runs: list[dict]) -> list[str]:
    recipe = RECIPES.get(name)
    if recipe is None:
        return [f"{name}: there is no such recipe"]
    return [
        f"{name} ({run['profile']}, seed {run['seed']})"
        for run in runs
        if run["recipe_hash"] != recipe.hash(run["profile"])
    ]


@pytest.mark.skipif(repository_data() is None, reason="no clone, no records")
def test_committed_records_are_of_todays_recipes():
    stale = []
    for path in sorted(results_folder().glob("*.json")):
        assert json.loads(path.read_text())["recipe"] == path.stem
        stale += _stale(path.stem, read_runs(path))
    assert not stale, f"run these again: {stale}"


def test_a_stale_record_is_found():
    run = {"profile": "record", "seed": 0, "recipe_hash": SINUSOID.hash("record")}
    assert _stale("maml-sinusoid", [run]) == []
    assert _stale("maml-sinusoid", [run | {"recipe_hash": SINUSOID.hash("quick")}]) != []
    assert _stale("no-such-recipe", [run]) != []


def test_a_recipe_may_start_from_anothers_network(monkeypatch):
    first = Recipe(
        name="first",
        title="",
        paper="",
        tasks=GLYPHS,
        net=SMALL_NET,
        learner=partial(Baseline, classes=759, features=4),
        training={"meta_batch": 1},
        train_on=partial(SupervisedTasks, batch_size=8),
        evaluations=(Evaluation("few", batch_norm="running"),),
        profiles={"quick": Profile(iterations=2, episodes=4, val_every=2, val_episodes=3)},
    )
    idle = {"quick": Profile(iterations=0, episodes=4, val_every=1)}
    second = replace(
        first,
        name="second",
        learner=SimpleShot,
        measured={"mean": mean_feature},
        training={},
        train_on=None,
        profiles=idle,
        start_from="first",
    )
    with pytest.raises(FileNotFoundError, match="make it first: mlcore run first --profile quick --seed 0"):
        run_recipe(second, progress=False)
    trained, started = run_recipe(first, progress=False), run_recipe(second, progress=False)
    assert torch.equal(trained.learner.net.block1[0].weight, started.learner.net.block1[0].weight)
    assert started.learner.mean.abs().max() > 0 and started.history.loss == []
    assert len(started.scores["few"].per_task) == 4


def test_a_row_may_ask_about_other_data_and_fewer_tasks():
    recipe = Recipe(
        name="far",
        title="",
        paper="",
        tasks=partial(GLYPHS, train_groups=("Greek",)),
        net=SMALL_NET,
        learner=ProtoNet,
        evaluations=(
            Evaluation("near"),
            Evaluation("one script", on=partial(GLYPHS, test_groups=("Hebrew",)), episodes=3),
        ),
        profiles={"quick": Profile(iterations=0, episodes=4, val_every=1)},
    )
    run = run_recipe(recipe, progress=False)
    assert [len(score.per_task) for score in run.scores.values()] == [4, 3]
    hebrew = recipe.splits()[2].select_classes(c for c in recipe.splits()[2].classes if c.startswith("Hebrew/"))
    expected = evaluate(run.learner, hebrew, episodes=3, batch_norm="transductive")
    assert torch.equal(run.scores["one script"].per_task, expected.per_task)


def test_a_recipe_with_hard_tasks_records_the_classes_that_failed(tmp_path):
    recipe = Recipe(
        name="hard",
        title="",
        paper="",
        tasks=GLYPHS,
        net=SMALL_NET,
        learner=partial(MetaTransfer, ways=3, features=4, inner_steps=1),
        training={"meta_batch": 2},
        train_on=partial(HardTasks, pool=3),
        evaluations=(Evaluation("few", batch_norm="running"),),
        profiles={"quick": Profile(iterations=4, episodes=4, val_every=4, val_episodes=3)},
    )
    run = run_recipe(recipe, progress=False)
    (entry,) = read_runs(record(recipe, run, profile="quick", seed=0, folder=tmp_path))
    counts = entry["hard_classes"]
    assert [row["class"] for row in counts] == recipe.splits()[0].classes
    assert all(row["failed"] <= row["seen"] for row in counts)
    assert 3 * sum(row["failed"] for row in counts) == sum(row["seen"] for row in counts) > 0


def test_a_recipe_of_defaults_runs_to_a_record(tmp_path):
    recipe = Recipe(
        name="plain",
        title="",
        paper="",
        tasks=GLYPHS,
        net=SMALL_NET,
        learner=ProtoNet,
        evaluations=(Evaluation("few"),),
        profiles={"quick": Profile(iterations=2, episodes=4, val_every=2, val_episodes=3)},
    )
    assert recipe.dataset == "glyphs" and "training" not in recipe.values("quick")
    run = run_recipe(recipe, progress=False)
    learner, (train, val, _) = recipe.build(0), recipe.splits()
    options = {"val": val, "val_every": 2, "val_episodes": 3, "progress": False}
    history = meta_train(learner, train, iterations=2, **options)  # with the defaults of meta_train
    assert run.history == history and run.peak_bytes > 0
    (entry,) = read_runs(record(recipe, run, profile="quick", seed=0, folder=tmp_path))
    assert (entry["iterations"], entry["recipe_hash"]) == (2, recipe.hash("quick"))
    assert [row["setting"] for row in entry["scores"]] == ["few"] and "hard_classes" not in entry


def test_a_setting_that_a_learner_does_not_have_is_refused():
    learner, test = ProtoNet(SMALL_NET()), GLYPHS()[2]
    with pytest.raises(ValueError, match="ProtoNet has no setting 'test_steps' to replace"):
        score(learner, test, Evaluation("few", test_steps=3), episodes=4)
    with pytest.raises(TypeError, match=r"replace\(\) does not know \['shot'\]"):
        score(learner, test, Evaluation("few", sizes={"shot": 3}), episodes=4)
    assert len(score(learner, test, Evaluation("few"), episodes=4).per_task) == 4


def test_a_list_of_test_tasks_is_scored_whole():
    learner, test = ProtoNet(SMALL_NET()), GLYPHS()[2]
    fixed = FixedTasks(test.sample(5, seeded(0)), test.objective)
    assert len(score(learner, fixed, Evaluation("few"), episodes=3).per_task) == 5


@pytest.mark.slow
@pytest.mark.usefixtures("needs_omniglot")
def test_the_challenge_is_read_right_since_the_hausdorff_distance_errs_as_published():
    """eq-hausdorff: 38.8 % in Lake et al. (2015)."""
    error = run_recipe(RECIPES["challenge-hausdorff"], progress=False).scores["error"]
    assert error.metric == "error" and abs(100 * error.mean - 38.8) <= 0.1
    assert "% error (20 tasks)" in str(error)
