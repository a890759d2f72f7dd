"""Equation, function and test hold together: whoever stands at one finds the other two."""

import importlib
import inspect
import pkgutil
import re
from functools import cache
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

import mlcore

TESTS = Path(__file__).parents[1]
DERIVED = re.compile(r"Derived in: ([^:]+), ((?::eq:`[\w-]+`(?: and )?)+)\.")


def derived() -> dict[str, tuple[str, list[str]]]:
    """Everything public that says where it is derived: its name, the chapter's title and the equations' labels."""
    found = {}
    for info in pkgutil.walk_packages(mlcore.__path__, "mlcore."):
        if info.name.endswith("__main__"):
            continue
        for thing in vars(importlib.import_module(info.name)).values():
            if getattr(thing, "__module__", None) != info.name or not (inspect.isclass(thing) or callable(thing)):
                continue
            for stated in DERIVED.findall(" ".join((inspect.getdoc(thing) or "").split())):
                found[f"{info.name}.{thing.__qualname__}"] = (stated[0], re.findall("`(.+?)`", stated[1]))
    return found


EVERYTHING = derived()


@cache
def page(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


@pytest.fixture(scope="module")
def api(html) -> dict[str, Path]:
    """On which page each name is documented."""
    return {
        entry["id"]: path for path in (html / "book" / "api").glob("*.html") for entry in page(path).select("dt[id]")
    }


def test_every_learner_says_where_it_is_derived():
    learners = {
        f"{thing.__module__}.{thing.__name__}"
        for thing in vars(mlcore.learners).values()
        if inspect.isclass(thing) and issubclass(thing, mlcore.Learner)
    }
    untaught = "soft_kmeans.SoftKMeans attentive_cnp.AttentiveCNP transformer_np.TransformerNP"
    underived = {f"mlcore.learners.{name}" for name in untaught.split()}
    assert len(learners) > 20 and learners - set(EVERYTHING) == underived


@pytest.mark.parametrize("name", EVERYTHING)
def test_function_and_equation_link_to_each_other(api, name):
    title, labels = EVERYTHING[name]
    documented = api[name]
    entry = page(documented).find(id=name).find_next_sibling("dd")
    for label in labels:
        (link,) = {link["href"] for link in entry.select(f'a[href$="#equation-{label}"]')}
        chapter = (documented.parent / link.partition("#")[0]).resolve()
        assert page(chapter).find("h1").get_text().startswith(title)
        back = {link["href"].rpartition("/")[2] for link in page(chapter).select("article a[href*='/api/']")}
        assert f"{documented.name}#{name}" in back, f"{chapter.name} does not link to {name}"


@pytest.mark.parametrize("name", EVERYTHING)
def test_what_is_derived_is_tested(name):
    word = re.compile(rf"\b{name.rpartition('.')[2]}\b")
    assert any(word.search(path.read_text(encoding="utf-8")) for path in TESTS.glob("test_*.py"))
