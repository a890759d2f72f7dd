"""The pages in a real browser, with the network refused: light, dark and as narrow as a phone."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    path.relative_to(ROOT).with_suffix(".html").as_posix()
    for pattern in ("*.ipynb", "*.md")
    for path in (ROOT / "book").rglob(pattern)
    if ".ipynb_checkpoints" not in path.parts
)
SCREENSHOTS = ROOT / "_build" / "screenshots"
RULES = ["color-contrast", "image-alt", "heading-order", "document-title", "html-has-lang", "link-name", "list"]


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


def visit(browser, url, *, width, scheme):
    """A page, and what went wrong while it loaded."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.emulate_media(reduced_motion="reduce")
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    page.on("request", lambda r: trouble.append(f"request: {r.url}") if r.url.startswith(("http:", "https:")) else None)
    page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
    page.route("http*://**", lambda route: route.abort())
    page.goto(url)
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
    return page, trouble


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    ("look", "width", "scheme"), [("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")]
)
def test_a_page_is_whole(browser, html, name, look, width, scheme):
    page, trouble = visit(browser, (html / name).as_uri(), width=width, scheme=scheme)
    try:
        assert not trouble
        assert page.locator("mjx-container").count() >= page.locator("div.math, span.math").count()
        assert page.locator("mjx-merror").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        folder = SCREENSHOTS / look
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name.replace('/', '-')[:-5]}.png", full_page=True)
        if look != "phone":
            found = Axe().run(page, context="article", options={"runOnly": RULES}).response["violations"]
            assert not found, [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found]
    finally:
        page.close()
