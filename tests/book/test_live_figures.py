"""The live figures, played in a real browser with the network refused, against what mlcore computes."""

import base64
import copy
import hashlib
import importlib.util
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from PIL import Image, ImageOps
from torch import nn
from watched import watched

from mlcore import MAML, Examples, GaussianProcess, MatchingNet, NearestNeighbour, ProtoNet, seeded
from mlcore.agents import UCB, Bandits, Step
from mlcore.datasets import gaussian_process, glyphs
from mlcore.datasets.omniglot import _small
from mlcore.experiments.catalogue import get_recipe
from mlcore.experiments.weights import weights_path
from mlcore.files import repository_data
from mlcore.learners import Ridge
from mlcore.objective import mse

ROOT = Path(__file__).parents[2]
DARK = """html { --pst-color-background: #14181e; --pst-color-text-base: #ced6dd; --pst-color-text-muted: #9ca4af;
--pst-color-link: #74aaf0; background: #14181e; color: #ced6dd }"""
RULES = ["color-contrast", "image-alt", "label", "button-name", "aria-valid-attr-value", "nested-interactive"]


def module(path: str):
    """A file of the repository that is part of no package."""
    name = f"live_figures_{Path(path).stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


invented, stills, extension = map(module, ("benchmarks/invented.py", "book/stills.py", "book/_ext/live_figures.py"))


@pytest.fixture(scope="module")
def learner():
    """The shipped network or, where there is none, one with random weights and averages: filters in half precision."""
    learner = extension.shipped(extension.RECIPE)
    if learner is None:
        learner = get_recipe(extension.RECIPE).build(0).eval()
        generator = torch.Generator().manual_seed(0)
        for name, value in learner.state_dict().items():
            if "running" in name or ".1." in name:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.2)
    for value in learner.state_dict().values():
        if value.dim() == 4:
            value.copy_(value.half())
    return learner


@pytest.fixture(scope="module")
def starts():
    """The shipped networks or, where there are none, three with random weights."""
    names = (*extension.STARTS, "random")
    return extension.starts() or {n: get_recipe("maml-sinusoid").build(i).eval() for i, n in enumerate(names)}


@pytest.fixture(scope="module")
def explorer():
    """The shipped network or, where there is none, one with random weights."""
    return extension.shipped(extension.EXPLORER) or get_recipe(extension.EXPLORER).build(0).eval()


@pytest.fixture(scope="module")
def processes():
    """The shipped networks or, where one is missing, two with random weights; in half precision."""
    built = {name: get_recipe(recipe).build(0).eval() for name, recipe in extension.FUNCTIONS.items()}
    processes = extension.together(extension.FUNCTIONS) or built
    for process in processes.values():
        for value in process.state_dict().values():
            value.copy_(value.half())
    return processes


@pytest.fixture(scope="module")
def scripts(learner, starts, explorer, processes):
    return {
        "protonet-weights.js": extension.protonet_script(learner),
        "sinusoid-weights.js": extension.sinusoid_script(starts),
        "bandit-weights.js": extension.bandit_script(explorer),
        "neural-weights.js": extension.neural_script(processes),
        "episodes-data.js": extension.episodes_script(),
    }


@pytest.fixture(scope="module")
def pages(scripts, tmp_path_factory):
    return stills.bare_pages(tmp_path_factory.mktemp("figures"), scripts)


@pytest.fixture
def opened(browser):
    """Opens a page, the network refused; at the end nothing may have gone wrong."""
    contexts, troubles = [], []

    def opened(path: Path, *, width: int = 1280, **settings):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, **settings))
        page = contexts[-1].new_page()
        troubles.append(watched(page))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not [trouble for trouble in troubles if trouble]


def drawings(n: int) -> list[list[np.ndarray]]:
    """Invented symbols in whole pixels, a dot, and a tiny and a huge one."""
    rng = np.random.default_rng(3)
    some = [[stroke.round() for stroke in invented.by_hand(invented.invent(rng), rng, 1.0)] for _ in range(n)]
    return [*some, [np.array([[40.0, 40.0]])], [some[0][0] / 8], [2.5 * stroke for stroke in some[1]]]


def flat(strokes: list[np.ndarray]) -> list[list[float]]:
    return [stroke.ravel().tolist() for stroke in strokes]


def test_a_drawing_becomes_the_same_pixels_in_the_page_and_in_python(opened, pages):
    page = opened(pages["alphabet"])
    for strokes in drawings(12):
        ours = page.evaluate("strokes => Array.from(alphabet.picture(strokes))", flat(strokes))
        assert np.array_equal(np.array(ours).reshape(28, 28), invented.picture(strokes))


def test_ink_is_shrunk_as_mlcore_shrinks_omniglots_files():
    """Such a file holds 105 x 105 bits, paper = 1."""
    ink = np.zeros((105, 105), bool)
    for start, end in ((30, 20), (75, 60)), ((75, 60), (30, 84)):
        invented._trace(ink, np.array(start, float), np.array(end, float))
    file = io.BytesIO()
    ImageOps.invert(Image.fromarray(255 * ink.astype(np.uint8))).convert("1").save(file, "PNG")
    assert np.array_equal(_small(file.getvalue()), invented._shrunk(ink))


def test_the_page_embeds_and_compares_as_mlcore_does(opened, pages, learner):
    page = opened(pages["alphabet"])
    some = drawings(6)[:6]
    x = torch.from_numpy(np.stack([invented.picture(strokes) for strokes in some]))[:, None].double() / 255
    exact = get_recipe(extension.RECIPE).build(0).double().eval()
    exact.load_state_dict(learner.state_dict())
    with torch.no_grad():
        z = exact.embed(x)
        outputs = exact.predict(exact.update((), Examples(z[:5], torch.eye(5).double())), z[5:])[0]
    embedded = page.evaluate(
        "all => all.map(strokes => Array.from(alphabet.embed(alphabet.picture(strokes))))", [flat(s) for s in some]
    )
    scale = z.abs().max().item()
    np.testing.assert_allclose(np.array(embedded) / scale, z.numpy() / scale, atol=1e-6)
    compared = page.evaluate("z => alphabet.compare(z.slice(0, 5), z[5])", embedded)
    np.testing.assert_allclose(compared["distances"], -outputs.numpy(), rtol=1e-4)
    np.testing.assert_allclose(compared["probabilities"], outputs.softmax(-1).numpy(), atol=1e-4)


def test_the_script_holds_the_filters_bit_by_bit_and_is_small(learner, pages):
    script = extension.protonet_script(learner)
    assert len(script) + (stills.FIGURES / "alphabet.js").stat().st_size < 700_000
    parts = json.loads(script.removeprefix("globalThis.protonetWeights = ").removesuffix(";\n"))
    held = np.frombuffer(base64.b64decode(parts["filters"]), "<f2")
    filters = torch.cat([value.flatten() for name, value in learner.state_dict().items() if value.dim() == 4])
    assert np.array_equal(held, filters.numpy().astype("<f2"))


def said(page) -> str:
    page.wait_for_function("document.querySelector('.said').textContent")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.locator(".said").text_content()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
@pytest.mark.parametrize("name", stills.IDS)
def test_a_figure_looks_right_everywhere(opened, pages, name, look):
    page = opened(pages[name], width=390 if look == "phone" else 1280)
    shown = page.locator("canvas, .board").first
    before = shown.screenshot()
    if look == "dark":
        page.add_style_tag(content=DARK)
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        said(page)
        assert shown.screenshot() != before
    press = {"metric": "Next point", "episodes": "New episode", "neural": "New curve"}.get(name, stills.STILLS[name][0])
    page.get_by_role("button", name=press).click()
    said(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= (390 if look == "phone" else 1280)
    assert not page.locator("figure img").is_visible()
    found = Axe().run(page, context="article", options={"runOnly": RULES}).response["violations"]
    assert not found, [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found]
    page.emulate_media(media="print")
    assert page.locator("figure img").is_visible() and not page.locator(".live-figure").is_visible()


@pytest.mark.parametrize("name", stills.IDS)
def test_without_javascript_there_is_a_still(opened, pages, name):
    page = opened(pages[name], java_script_enabled=False)
    assert page.locator("figure img").is_visible() and page.locator(".live-figure").count() == 0
    still = stills.FIGURES / f"{name}.png"
    with Image.open(still) as image:
        assert still.stat().st_size < 60_000 and image.width > 600


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("alphabet", "protonet-omniglot-1s"),
        ("episodes", "protonet-omniglot-1s"),
        ("sinusoid", "maml-sinusoid"),
        ("bandit", "rl2-5-arms-20-pulls"),
        ("neural", "cnp-gp"),
    ],
)
def test_a_figure_without_weights_says_so(opened, tmp_path, name, recipe):
    none = {
        "protonet-weights.js": extension.protonet_script(None),
        "sinusoid-weights.js": extension.sinusoid_script(None),
        "bandit-weights.js": extension.bandit_script(None),
        "neural-weights.js": extension.neural_script(None),
        "episodes-data.js": extension.episodes_script(),
    }
    page = opened(stills.bare_pages(tmp_path / "site", none)[name])
    assert f"mlcore run {recipe}" in page.locator(".live-figure").text_content()
    assert page.locator("figure img").is_visible() and page.locator("canvas, button").count() == 0


def test_an_alphabet_is_drawn_by_hand(opened, pages):
    page = opened(pages["alphabet"])
    fields = page.locator("canvas")
    shapes = [((0.2, 0.2), (0.8, 0.8)), ((0.2, 0.8), (0.8, 0.8)), ((0.3, 0.2), (0.3, 0.8), (0.8, 0.8))]

    def draw(field, points):
        box = fields.nth(field).bounding_box()
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
        page.mouse.move(*at[0])
        page.mouse.down()
        for point in at[1:]:
            page.mouse.move(*point, steps=8)
        page.mouse.up()

    for field, points in enumerate(shapes):
        draw(field, points)
    draw(5, shapes[2])
    assert "This is symbol 3" in said(page) and "among 3 symbols" in said(page)
    assert "nearest" in page.locator(".field").nth(2).get_attribute("class")
    page.get_by_role("button", name="Undo stroke").click()
    assert "Draw a symbol" in said(page)
    draw(5, shapes[0])
    assert "This is symbol 1" in said(page)
    page.get_by_role("button", name="Clear all").click()
    assert page.evaluate("alphabet.fields.every(field => !field.strokes.length)")


def test_the_example_goes_round_and_shows_what_the_network_computes(opened, pages):
    page = opened(pages["alphabet"])
    seen = set()
    for _ in range(5):
        page.get_by_role("button", name="Example").click()
        said(page)
        numbers = page.evaluate("alphabet.compare(alphabet.fields.slice(0, 5).map(f => f.z), alphabet.fields[5].z)")
        best = int(np.argmin(numbers["distances"]))
        assert "nearest" in page.locator(".field").nth(best).get_attribute("class")
        assert f"{100 * numbers['probabilities'][best]:.1f}\u00a0%" in page.locator(".numbers").nth(best).text_content()
        seen.add(json.dumps(page.evaluate("alphabet.fields[5].strokes")))
    assert len(seen) == 5


def test_an_alphabet_is_drawn_by_touch(opened, pages):
    page = opened(pages["alphabet"], width=390, has_touch=True)
    assert page.locator("canvas").first.evaluate("canvas => getComputedStyle(canvas).touchAction") == "none"
    page.locator("canvas").first.tap()
    assert page.evaluate("alphabet.fields[0].strokes.length") == 1


def test_an_alphabet_is_drawn_by_keys_alone(opened, pages):
    page = opened(pages["alphabet"])

    def draw(keys):
        for key in ["Space", *keys, "Space"]:
            page.keyboard.press(key)

    for moves in (["ArrowRight"] * 6, ["ArrowDown"] * 6, ["ArrowRight"] * 6 + ["ArrowDown"] * 6):
        page.keyboard.press("Tab")
        draw(moves)
    for _ in range(3):
        page.keyboard.press("Tab")
    draw(["ArrowDown"] * 6)
    assert "This is symbol 2" in said(page)
    assert "1 stroke" in page.locator("canvas").nth(5).get_attribute("aria-label")
    page.keyboard.press("Backspace")
    assert page.evaluate("alphabet.fields[5].strokes.length") == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Example"
    page.keyboard.press("Enter")
    assert page.evaluate("alphabet.fields.every(field => field.strokes.length)")


HEADS = {
    "ProtoNet": ProtoNet(nn.Identity()),
    "MatchingNet": MatchingNet(nn.Identity()),
    "MatchingNet × 10": MatchingNet(nn.Identity(), scale=10.0),
    "NearestNeighbour": NearestNeighbour(nn.Identity()),
    "Ridge": Ridge(nn.Identity()),
}


def compare_rules(page):
    """Probabilities over a grid by the page and by mlcore, for the points at hand."""
    support = page.evaluate("metric.support()")
    z = torch.tensor([point["z"] for point in support]).double()
    y = torch.eye(3).double()[[point["k"] for point in support]]
    ticks = torch.linspace(-3.9, 3.9, 14).double()
    grid = torch.cartesian_prod(ticks, ticks)
    for name, head in HEADS.items():
        head = head.double().eval()
        with torch.no_grad():
            expected = head.predict(head.update((), Examples(z, y)), grid).softmax(-1)
        rule, *scale = name.split(" × ")
        ours = page.evaluate(
            "([rule, grid, scale]) => metric.probabilities(rule, metric.support(), grid, scale)",
            [rule, grid.tolist(), float(scale[0]) if scale else 1.0],
        )
        np.testing.assert_allclose(ours, expected.numpy(), atol=1e-4, err_msg=name)


def test_four_rules_are_mlcores_as_points_move(opened, pages):
    page = opened(pages["metric"])
    said(page)
    compare_rules(page)
    assert page.evaluate("metric.RULES") == ["ProtoNet", "MatchingNet", "NearestNeighbour", "Ridge"]
    start = page.evaluate("metric.support()")

    def at(z):
        page.locator("canvas").nth(1).scroll_into_view_if_needed()
        box = page.locator("canvas").nth(1).bounding_box()
        return box["x"] + (z[0] + 4) / 8 * box["width"], box["y"] + (4 - z[1]) / 8 * box["height"]

    page.mouse.move(*at(start[8]["z"]))
    page.mouse.down()
    page.mouse.move(*at((-3, 3)), steps=5)
    page.mouse.up()
    np.testing.assert_allclose(page.evaluate("metric.support()")[8]["z"], (-3, 3), atol=0.05)
    page.get_by_label("square").check()
    page.mouse.click(*at((3, -3)))
    added = page.evaluate("metric.support()")[-1]
    assert added["k"] == 1 and np.allclose(added["z"], (3, -3), atol=0.05)
    assert "Marked: a square at (3.0, −3.0)" in said(page)
    compare_rules(page)
    page.get_by_role("button", name="Remove it").click()
    page.get_by_role("button", name="Reset").click()
    assert page.evaluate("metric.support()") == start


def test_four_rules_by_keys_alone(opened, pages):
    page = opened(pages["metric"])
    before = said(page)
    page.keyboard.press("Tab")
    for key in ("n", "ArrowUp", "ArrowUp", "Shift+ArrowLeft", "3", "ArrowRight"):
        page.keyboard.press(key)
    support = page.evaluate("metric.support()")
    assert (
        np.allclose(support[1]["z"], (1.48, 0.9)) and support[-1]["k"] == 2 and np.allclose(support[-1]["z"], (0.2, 0))
    )
    assert said(page) != before
    compare_rules(page)
    for _ in range(len(support)):
        page.keyboard.press("Delete")
    left = [point["k"] for point in page.evaluate("metric.support()")]
    assert set(left) == {0, 1, 2} and "needs one point" in said(page)
    page.set_viewport_size({"width": 700, "height": 900})
    assert "needs one point" in said(page), "a figure that is painted anew says the same"
    page.keyboard.press("ArrowLeft")
    assert "needs one point" not in said(page)
    compare_rules(page)


def compare_descents(page, starts):
    """Curves of the page and of mlcore after the same steps on the points at hand."""
    x, y = torch.tensor(page.evaluate("sinusoid.points()")).double().split(1, dim=1)
    grid, steps = torch.linspace(-5, 5, 23).double()[:, None], page.evaluate("sinusoid.steps()")
    for name, learner in starts.items():
        maml = MAML(copy.deepcopy(learner.net).double(), inner_lr=0.01, loss_fn=mse)
        state = maml.begin()
        for _ in range(steps):
            state = maml.update(state, Examples(x, y))
        expected = maml.predict(state, grid)[:, 0]
        ours = page.evaluate("([start, x]) => sinusoid.outputs(start, x)", [name, grid[:, 0].tolist()])
        np.testing.assert_allclose(ours, expected.detach().numpy(), atol=1e-4, err_msg=name)


def test_three_starts_descend_as_mlcore_does(opened, pages, starts):
    page = opened(pages["sinusoid"])
    assert "After 0 steps" in said(page)
    compare_descents(page, starts)
    for _ in range(2):
        page.get_by_role("button", name="One step").click()
    page.get_by_role("slider", name="Steps").fill("7")
    compare_descents(page, starts)
    x, y = page.evaluate("sinusoid.points()")[2]
    box = page.locator("canvas").nth(1).bounding_box()
    page.mouse.move(box["x"] + (x + 5) / 10 * box["width"], box["y"] + (6 - y) / 12 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.25 * box["height"], steps=5)
    page.mouse.up()
    np.testing.assert_allclose(page.evaluate("sinusoid.points()")[2], (0, 3), atol=0.1)
    assert "After 7 steps" in said(page)
    compare_descents(page, starts)
    page.get_by_role("button", name="New wave").click()
    assert page.evaluate("sinusoid.steps()") == 0
    compare_descents(page, starts)


def test_three_starts_by_keys_alone(opened, pages, starts):
    page = opened(pages["sinusoid"])
    said(page)
    before = page.evaluate("sinusoid.points()")
    page.locator("canvas").first.focus()
    for key in ("n", "ArrowUp", "Shift+ArrowRight", "+", "+", "-"):
        page.keyboard.press(key)
    after = page.evaluate("sinusoid.points()")
    np.testing.assert_allclose(np.subtract(after, before), [[0, 0], [0.02, 0.2], [0, 0], [0, 0], [0, 0]], atol=1e-9)
    assert page.evaluate("sinusoid.steps()") == 1 and "After 1 step," in said(page)
    compare_descents(page, starts)


def compare_episode(page, learner):
    """The answer of the page and of mlcore to the query at hand."""
    exact = get_recipe(extension.RECIPE).build(0).double().eval()
    exact.load_state_dict(learner.state_dict())
    state = page.evaluate("episodes.state()")
    classes, query = state["episode"], state["query"]
    drawn = [[k["letter"], drawing] for k in classes for drawing in k["support"]]
    drawn.append([classes[query["k"]]["letter"], query["drawing"]])
    assert len({tuple(each) for each in drawn}) == len(drawn), "the query is in the support set"
    x = torch.tensor(page.evaluate("all => all.map(each => episodes.picture(...each))", drawn)).double() / 255
    with torch.no_grad():
        z = exact.embed(x.reshape(-1, 1, 28, 28))
        y = torch.eye(len(classes)).double().repeat_interleave(len(classes[0]["support"]), 0)
        expected = exact.predict(exact.update((), Examples(z[:-1], y)), z[-1:])[0].softmax(-1)
    np.testing.assert_allclose(page.evaluate("episodes.answer().probabilities"), expected.numpy(), atol=1e-4)
    return query["k"], int(expected.argmax())


def test_episodes_are_guessed_by_pointer_and_by_key_and_judged_as_mlcore_does(opened, pages, learner):
    page = opened(pages["episodes"])
    assert "Which class" in said(page)
    page.get_by_role("slider", name="Ways").fill("7")
    page.get_by_role("slider", name="Shots").fill("3")
    letters = {k["letter"] for k in page.evaluate("episodes.state().episode")}
    assert len(letters) == 7 and page.locator(".class canvas").count() == 21
    network = 0
    for asked in range(4):
        truth, nearest = compare_episode(page, learner)
        network += nearest == truth
        if asked % 2:
            page.locator(".class").first.focus()
            page.keyboard.press(str(truth + 1))
        else:
            page.locator(".class").nth((truth + 1) % 7).click()
        assert f"It is class {truth + 1}. You said" in said(page)
        assert "true" in page.locator(".class").nth(truth).get_attribute("class")
        assert "nearest" in page.locator(".class").nth(nearest).get_attribute("class")
        page.keyboard.press("Enter")  # the next query has the focus
    assert page.evaluate("episodes.state().score") == {"you": 2, "network": network, "queries": 4}


def test_letters_of_episodes_are_glyphs_in_sixteen_shades(opened, pages):
    page = opened(pages["episodes"])
    sample = glyphs(ways=40, shots=8, queries=1)[2].sample(1, seeded(0)).support
    ours = page.evaluate("[0, 1, 2].map(k => episodes.picture(k, 5))")
    for k, picture in enumerate(ours):
        same_class = sample.x[0, sample.y[0].argmax(-1) == k].flatten(1)
        assert (same_class - torch.tensor(picture) / 255).abs().amax(1).min() <= 1 / 30 + 1e-6


def lived(agent, worlds, pulls):
    """What an agent says after these pulls of arms, (arm, reward) each."""
    zero = torch.zeros(())
    steps = [(torch.zeros(worlds.actions), 0.0)] + [(torch.eye(worlds.actions)[arm], paid) for arm, paid in pulls]
    state = agent.begin()
    for action, paid in steps:
        state = agent.update(state, Step(action, torch.tensor(float(paid)), torch.zeros(0), zero, zero))
    return agent.act(state)


def test_players_of_the_bandit_score_arms_as_mlcore_does(opened, pages, explorer):
    page = opened(pages["bandit"])
    worlds = Bandits(arms=page.evaluate("bandit.ARMS"), pulls=page.evaluate("bandit.PULLS"))
    rng = np.random.default_rng(5)
    for length in (0, 1, 4, 19):
        pulls = [[int(rng.integers(worlds.actions)), int(rng.integers(2))] for _ in range(length)]
        with torch.no_grad():
            expected = {"RL²": lived(explorer, worlds, pulls).logits, "UCB1": lived(UCB(worlds), worlds, pulls)}
        for player, scores in expected.items():
            ours = page.evaluate("([player, pulls]) => bandit.scores(player, pulls)", [player, pulls])
            np.testing.assert_allclose(ours, scores.numpy(), atol=1e-4, err_msg=f"{player} after {pulls}")
    pulls = [[0, 1], [0, 1], [0, 0], [3, 0]]
    draws = page.evaluate("pulls => Array.from({length: 4000}, () => bandit.scores('Thompson', pulls))", pulls)
    belief = torch.tensor([[3.0, 1, 1, 1, 1], [2.0, 1, 1, 2, 1]])
    np.testing.assert_allclose(np.mean(draws, 0), (belief[0] / belief.sum(0)).numpy(), atol=0.03)
    variance = belief.prod(0) / belief.sum(0) ** 2 / (belief.sum(0) + 1)
    np.testing.assert_allclose(np.var(draws, 0), variance.numpy(), atol=0.01)


@torch.no_grad()
def test_the_recorded_explorer_plays_as_the_page_says(explorer):
    if not weights_path(extension.EXPLORER).exists():
        pytest.skip("the weights of the explorer are not here")
    worlds = explorer.worlds.sample(500, seeded(0)).support
    lives = [explorer.adapt(type(worlds)(*parts)).steps for parts in zip(*worlds, strict=True)]
    arm = torch.stack([life.action.argmax(-1) for life in lives])
    paid = torch.stack([life.reward for life in lives]) == 1
    stays = arm[:, 1:] == arm[:, :-1]
    lost = ~paid[:, :-1]
    assert stays[paid[:, :-1]].double().mean() > 0.99
    assert stays[:, :5][lost[:, :5]].double().mean() < 0.2 and stays[:, -5:][lost[:, -5:]].double().mean() > 0.6
    assert 3.5 < paid.double().sum(1).std() < 4.5


def test_a_bandit_is_played_by_pointer_and_by_key_and_paid_by_the_same_luck(opened, pages):
    page = opened(pages["bandit"])
    assert "Pull one" in said(page)
    for turn in range(20):
        if turn % 2:
            page.keyboard.press("2")
        else:
            page.get_by_role("button", name="Arm 4").click()
    assert "The end" in said(page) and page.get_by_role("button", name="Arm 1").is_disabled()
    world, played, over = page.evaluate("bandit.state()").values()
    for player, pulls in played.items():
        assert [paid for _, paid in pulls] == [
            int(luck < world["chances"][arm]) for (arm, _), luck in zip(pulls, world["luck"], strict=True)
        ]
        assert over[player] == [sum(paid for _, paid in pulls)]
    assert [arm for arm, _ in played["You"]] == [3, 1] * 10 and "pays" in page.locator(".arm").first.text_content()
    page.get_by_role("button", name="games without you").click()
    assert "After 500 more games" in said(page)
    rewards = page.evaluate("bandit.state().over")
    assert len(rewards["You"]) == 1 and len(rewards["RL²"]) == 501
    # A player of no skill is paid 10; UCB1 explores for longer than this life lasts.
    assert np.mean(rewards["Thompson"]) > 11.2 and np.mean(rewards["UCB1"]) > 10.7
    if weights_path(extension.EXPLORER).exists():
        assert np.mean(rewards["RL²"]) > 13
    page.get_by_role("button", name="New bandit").click()
    assert (
        not page.evaluate("bandit.state().played.You.length")
        and not page.get_by_role("button", name="Arm 1").is_disabled()
    )


def compare_answers(page, processes):
    """What the panels say at some places, and what mlcore says."""
    points = torch.tensor(page.evaluate("neural.points()")).double().reshape(-1, 2)
    support, x = Examples(*points.split(1, dim=1)), torch.linspace(-2, 2, 17)[:, None].double()
    bayes = GaussianProcess.of(gaussian_process("rbf"), points=10)
    for rule, learner in {"bayes": bayes, **processes}.items():
        learner = copy.deepcopy(learner).double()
        with torch.no_grad():
            expected = learner.predict(learner.update(learner.begin(), support), x)
        ours = page.evaluate("([rule, x]) => neural.answers(rule, x)", [rule, x[:, 0].tolist()])
        for part in ("mean", "scale"):
            exact = getattr(expected, part)[:, 0].numpy()
            np.testing.assert_allclose([each[part] for each in ours], exact, atol=1e-4, err_msg=f"{rule} {part}")


def test_points_of_a_curve_are_answered_as_mlcore_does(opened, pages, processes):
    page = opened(pages["neural"])
    assert "4 points." in said(page) and page.get_by_role("button", name="One more point").is_disabled()
    compare_answers(page, processes)
    canvas = page.locator("canvas").nth(1)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    page.mouse.down()  # a new point, which is dragged
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.5 * box["height"], steps=4)
    page.mouse.up()
    np.testing.assert_allclose(page.evaluate("neural.points()")[-1], (1.2, 0), atol=0.05)
    assert "5 points." in said(page)
    compare_answers(page, processes)
    page.get_by_role("button", name="New curve").click()
    for _ in range(2):
        page.get_by_role("button", name="One more point").click()
    assert "5 points." in said(page)
    compare_answers(page, processes)


def test_points_of_a_curve_by_keys_alone(opened, pages, processes):
    page = opened(pages["neural"])
    said(page)
    page.locator("canvas").first.focus()
    for key in ("n", "ArrowUp", "Shift+ArrowRight", "Enter", "ArrowLeft"):
        page.keyboard.press(key)
    points = page.evaluate("neural.points()")
    np.testing.assert_allclose([points[1], points[4]], [[-0.69, -0.7], [-0.1, 0]], atol=1e-9)
    for left in (4, 3, 2, 1, 0):
        page.keyboard.press("Delete")
        assert f"{left} point" in said(page)
    for key in ("Delete", "n", "ArrowUp"):
        page.keyboard.press(key)
    with torch.no_grad():  # Bayes' rule has no answer of its own to no points; the prior is known
        none = Examples(torch.zeros(0, 1), torch.zeros(0, 1))
        expected = {
            name: learner.predict(learner.update(learner.begin(), none), torch.zeros(1, 1))
            for name, learner in processes.items()
        }
    bayes = page.evaluate("neural.answers('bayes', [0])[0]")
    assert (
        bayes["mean"] == 0 and abs(bayes["scale"] - np.sqrt(np.mean(np.linspace(0.145, 0.955, 10) ** 2) + 4e-4)) < 1e-9
    )
    for name, density in expected.items():
        answer = page.evaluate("rule => neural.answers(rule, [0])[0]", name)
        assert abs(answer["mean"] - density.mean.item()) < 1e-4 and abs(answer["scale"] - density.scale.item()) < 1e-4
    for _ in range(25):
        page.keyboard.press("Enter")
    assert "20 points." in said(page)
    compare_answers(page, processes)


def test_the_measured_rate_is_of_these_weights_and_not_typed():
    weights = weights_path(extension.RECIPE)
    rates = extension.measured(repository_data())
    if not weights.exists():
        assert rates is None, "there is a rate without the weights that it was measured with"
        assert "not been measured" in extension.sentences(rates)
        return
    assert rates and rates["weights"] == hashlib.sha256(weights.read_bytes()).hexdigest()[:12], (
        "measure again: python benchmarks/invented.py"
    )
    assert rates["alphabets"] >= 20 and rates["hands"]["steady"]["protonet"]["mean"] > 0.2
    assert f"{100 * rates['hands']['steady']['protonet']['mean']:.1f}" in extension.sentences(rates)


def test_invented_alphabets_can_be_told_apart_and_repeat():
    few = invented.tasks(1.0, alphabets=8)
    again = invented.tasks(1.0, alphabets=8)
    assert torch.equal(few.query.x, again.query.x) and few.query.x.shape == (8, 15, 1, 28, 28)
    still = invented.tasks(0.0, alphabets=8)  # a hand that never strays
    assert invented.rate(NearestNeighbour(), still)["mean"] == 1.0


PLACES = {
    "alphabet": "book/intro.html",
    "metric": "book/metric/learning_a_metric.html",
    "sinusoid": "book/optimization/maml.html",
    "episodes": "book/foundations/tasks_and_episodes.html",
}


@pytest.mark.parametrize("name", PLACES)
def test_the_book_has_the_figure_in_its_place(opened, html, starts, name):
    text = (html / PLACES[name]).read_text(encoding="utf-8")
    others = [path for path in html.rglob("*.html") if f"figures/{name}.js" in path.read_text(encoding="utf-8")]
    assert f"figures/{name}.js" in text and others == [html / PLACES[name]]
    page = opened(html / PLACES[name])
    assert page.locator(f"#{stills.IDS[name]} figcaption").is_visible()
    if name == "metric":
        compare_rules(page)
    elif name == "sinusoid":
        compare_descents(page, starts)
    elif name == "episodes":
        assert "Which class" in said(page)
    elif weights_path(extension.RECIPE).exists():
        page.get_by_role("button", name="Example").click()
        assert "This is symbol 3" in said(page)
    silent = opened(html / PLACES[name], java_script_enabled=False)
    assert silent.locator(f"#{stills.IDS[name]} img").is_visible()
    assert len(silent.locator(f"#{stills.IDS[name]} img").get_attribute("alt")) > 60
