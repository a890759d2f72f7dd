"""The rendered book as one PDF, printed by Chromium: _build/book.pdf, with its links, contents and bookmarks.

    make pdf

The pages of _build/html become one page, chapter after chapter. Live figures are their stills, and solutions are open.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup, Tag
from chromium import chromium
from playwright.sync_api import Browser

BUILD = Path(__file__).resolve().parent.parent / "_build"
# Chromium names a heading twice in the bookmarks where a break before it begins a page: a line above takes the break.
STYLE = """
.running-head { break-before: page; font-size: 0.8em; color: var(--pst-color-text-muted); }
a { text-decoration: none; }
.bd-article { display: block; max-width: none; padding: 0; }
"""
FOOTER = '<div style="width: 100%; font-size: 8px; text-align: center" class="pageNumber"></div>'


def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def pages_in_order(html: Path) -> list[Path]:
    """The front page, then what its contents list."""
    front = html / "book" / "intro.html"
    links = [link["href"].split("#")[0] for link in parsed(front).select("nav.bd-links a.internal[href]")]
    return list(dict.fromkeys([front, *((front.parent / unquote(link)).resolve() for link in links if link)]))


def bound(html: Path, pages: Sequence[Path]) -> str:
    """One page of HTML, to lie in the folder ``html``, from several: a link between two of them stays within it."""
    names = {page: page.relative_to(html).with_suffix("").as_posix().replace("/", "-") for page in pages}
    articles = []
    for page, name in names.items():
        article = parsed(page).select_one("article.bd-article")
        for tag in article.select("script, noscript, link, .headerlink, .copybtn"):
            tag.decompose()
        for tag in article.find_all(id=True):
            if not tag.find_parent("svg"):
                tag["id"] = f"{name}--{tag['id']}"
        for tag in article.select("[src]"):
            tag["src"] = beside(html, page, tag["src"])
        for link in article.select("a[href]"):
            lead(link, page, names)
        article["id"] = name
        articles.append(str(article))
    head = parsed(pages[0]).head
    for tag in head.select("[src], link[href]"):
        of = "src" if tag.has_attr("src") else "href"
        tag[of] = beside(html, pages[0], tag[of])
    contents = parsed(pages[0]).select_one("nav.bd-links")
    for link in contents.select("a[href]"):
        lead(link, pages[0], names)
    running_head = f"<p class='running-head'>{parsed(pages[0]).h1.find(string=True)}</p>"
    body = running_head.join([articles[0], f"<article><h1>Contents</h1>{contents}</article>", *articles[1:]])
    head.append(BeautifulSoup(f"<style>{STYLE}</style>", "html.parser"))
    return f"<!doctype html><html lang='en' data-theme='light'>{head}<body><main>{body}</main></body></html>"


def beside(html: Path, page: Path, url: str) -> str:
    """An address on a page, as seen from the folder of the book."""
    return url if urlsplit(url).scheme else os.path.relpath(page.parent / url, html).replace(os.sep, "/")


def lead(link: Tag, page: Path, names: dict[Path, str]) -> None:
    """Make a link on that page lead within the bound book; one that leads to no page of it becomes plain text."""
    parts = urlsplit(str(link["href"]))
    if parts.scheme:
        return
    name = names.get((page.parent / unquote(parts.path)).resolve() if parts.path else page)
    if name is None:
        link.unwrap()
    else:
        link["href"] = f"#{name}--{parts.fragment}" if parts.fragment else f"#{name}"


def print_pdf(browser: Browser, bound_page: Path, pdf: Path) -> None:
    """Print when every formula is set."""
    page = browser.new_page()
    page.set_default_timeout(600_000)
    page.goto(bound_page.as_uri())
    page.evaluate("globalThis.MathJax ? MathJax.startup.promise : null")
    margins = {"top": "15mm", "bottom": "18mm", "left": "15mm", "right": "15mm"}
    page.pdf(
        path=pdf,
        format="A4",
        scale=0.7,
        margin=margins,
        outline=True,
        tagged=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER,
    )
    page.close()


def main() -> None:
    html = BUILD / "html"
    if not (html / "book" / "intro.html").exists():
        sys.exit("there is no rendered book in _build/html: `make read` or `make book` renders it")
    page = html / "bound.html"
    page.write_text(bound(html, pages_in_order(html)), encoding="utf-8")
    with chromium() as browser:
        print_pdf(browser, page, BUILD / "book.part.pdf")
    page.unlink()
    (BUILD / "book.part.pdf").replace(BUILD / "book.pdf")
    print(f"The book is printed: {BUILD / 'book.pdf'}")


if __name__ == "__main__":
    main()
