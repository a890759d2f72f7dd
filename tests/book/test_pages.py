"""The rendered pages, as HTML: links, equations, figures, citations, and nothing from the network."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]

NOTEBOOKS = sorted(
    path.relative_to(ROOT).with_suffix(".html").as_posix()
    for path in (ROOT / "book").rglob("*.ipynb")
    if ".ipynb_checkpoints" not in path.parts
)
CHAPTERS = [name for name in NOTEBOOKS if "/reference/" not in name]


@pytest.fixture(scope="module")
def pages(html) -> dict[Path, BeautifulSoup]:
    """Every page of the book but the sources that viewcode copies."""
    return {
        path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        for path in html.rglob("*.html")
        if "_static" not in path.parts and path.name not in ("index.html", "search.html", "genindex.html")
    }


def test_links_inside_the_book_lead_somewhere(pages, html):
    anchors = {path: {tag["id"] for tag in page.find_all(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        for link in page.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc or link["href"] == "#":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link['href']}"
            if parts.fragment and target in anchors:
                assert unquote(parts.fragment) in anchors[target], f"{path.name}: {link['href']}"


def test_no_page_loads_anything_from_elsewhere(pages):
    for path, page in pages.items():
        loaded = [
            tag.get("src") or tag.get("href") for tag in page.select("script[src], img[src], link[href], iframe[src]")
        ]
        assert not [url for url in loaded if urlsplit(url).netloc], path.name


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_references_are_resolved(pages, html, name):
    article = pages[html / name].find("article")
    text = " ".join(part for part in article.find_all(string=True) if not part.find_parent("div", class_="highlight"))
    for broken in ("[?]", "??", "{numref}", "{eq}", "{cite", "{doc}", "```", "$$"):
        assert broken not in text, broken
    assert not article.select(".problematic, .system-message")


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapters_derive_and_show(pages, html, name):
    page = pages[html / name]
    assert len(page.select("article a.reference.internal[href*='#equation-']")) >= 3
    assert 4 <= len(page.select("figure")) <= 10


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_figures_are_numbered_described_and_captioned(pages, html, name):
    for figure in pages[html / name].select("figure"):
        assert len(figure.find("img")["alt"]) > 20
        assert figure.select_one("figcaption .caption-number") and len(figure.figcaption.get_text()) > 40


def test_every_citation_has_an_entry(pages, html):
    entries = {tag["id"] for tag in pages[html / "book" / "bibliography.html"].find_all(id=True)}
    cited = {
        urlsplit(link["href"]).fragment
        for page in pages.values()
        for link in page.select("a[href*='bibliography.html#id']")
    }
    assert len(cited) > 10 and cited <= entries


@pytest.mark.parametrize("name", CHAPTERS)
def test_solutions_are_folded(pages, html, name):
    solutions = pages[html / name].select(".solution")
    assert len(solutions) >= 3
    assert all("dropdown" in solution["class"] for solution in solutions)


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapters_link_to_the_api(pages, html, name):
    assert len({link["href"] for link in pages[html / name].select("article a[href*='/api/']")}) >= 3


def test_search_is_built(html):
    assert (html / "searchindex.js").stat().st_size > 10_000
