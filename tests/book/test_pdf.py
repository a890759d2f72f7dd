"""The book bound into one page, and printed."""

import pdf
import pytest
from bs4 import BeautifulSoup


@pytest.fixture(scope="module")
def bound(html):
    return BeautifulSoup(pdf.bound(html, pdf.pages_in_order(html)), "html.parser")


def test_every_page_is_bound_once_in_the_order_of_the_contents(html, bound):
    pages = pdf.pages_in_order(html)
    in_contents = {path for path in (html / "book").rglob("*.html")}
    assert pages[0].name == "intro.html" and len(pages) == len(set(pages)) and set(pages) == in_contents
    ids = [article["id"] for article in bound.select("article[id]")]
    assert ids == [page.relative_to(html).with_suffix("").as_posix().replace("/", "-") for page in pages]


def test_links_and_pictures_lead_somewhere(html, bound):
    ids = {tag["id"] for tag in bound.find_all(id=True)}
    inside = [link["href"] for link in bound.select("main a[href]") if link["href"].startswith("#")]
    assert len(inside) > 1_000 and not [link for link in inside if link[1:] not in ids]
    assert not [link["href"] for link in bound.select("main a[href]") if link["href"].startswith(("../", "./"))]
    files = [image["src"] for image in bound.select("img[src]") if not image["src"].startswith("data:")]
    assert len(files) > 100 and not [file for file in files if not (html / file).exists()]
    assert not bound.select("main script")


def test_pages_are_printed_with_bookmarks_and_links(html, browser, tmp_path):
    page = html / "bound-for-a-test.html"
    try:
        page.write_text(
            pdf.bound(html, [html / "book" / "intro.html", html / "book" / "running.html"]), encoding="utf-8"
        )
        pdf.print_pdf(browser, page, tmp_path / "two.pdf")
    finally:
        page.unlink()
    printed = (tmp_path / "two.pdf").read_bytes()
    assert printed.startswith(b"%PDF-") and b"/Outlines" in printed
    assert printed.count(b"/Subtype /Link") >= 2  # the front page leads twice to the other
