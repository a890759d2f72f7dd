"""The pages in a real browser, with the network refused: light, dark and as narrow as a phone."""

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from watched import watched

ROOT = Path(__file__).parents[2]

PAGES = sorted(
    path.relative_to(ROOT).with_suffix(".html").as_posix()
    for pattern in ("*.ipynb", "*.md")
    for path in (ROOT / "book").rglob(pattern)
    if ".ipynb_checkpoints" not in path.parts
)
SCREENSHOTS = ROOT / "_build" / "screenshots"
RULES = ["color-contrast", "image-alt", "heading-order", "document-title", "html-has-lang", "link-name", "list"]


def visit(browser, url, *, width, scheme):
    """A page, and what went wrong while it loaded."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.emulate_media(reduced_motion="reduce")
    trouble = watched(page)
    page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
    page.goto(url)
    page.wait_for_function("!window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)")
    return page, trouble


def test_figures_move_and_are_small(browser, html):
    moving = [name for name in PAGES if 'class="animation"' in (html / name).read_text(encoding="utf-8")]
    played = [p for p in (ROOT / "book").rglob("*.ipynb") if "HTML(player(" in p.read_text(encoding="utf-8")]
    assert moving and len(moving) == len(played)
    for name in moving:
        page, trouble = visit(browser, (html / name).as_uri(), width=1280, scheme="light")
        for player in page.locator(".animation").all():
            picture, slider = player.locator("img"), player.locator("input[type=range]")
            page.wait_for_function("slider => slider.max > 5", arg=slider.element_handle())
            last = picture.get_attribute("src")
            slider.fill("0")
            assert picture.get_attribute("src") != last and len(picture.get_attribute("alt")) > 20
            player.get_by_role("button", name="Next frame").click()
            assert slider.input_value() == "1"
            assert len(last) * (int(slider.get_attribute("max")) + 1) < 600_000
            page.emulate_media(media="print")
            assert picture.is_visible() and not slider.is_visible()
            page.emulate_media(media="screen")
        assert not trouble
        page.close()


def test_solutions_are_open_on_paper(browser, html):
    page, _ = visit(browser, (html / "book/optimization/maml.html").as_uri(), width=1280, scheme="light")
    text = page.locator(".solution section p").first
    heights = {}
    for media in ("screen", "print"):
        page.emulate_media(media=media)
        heights[media] = text.evaluate("e => e.checkVisibility({opacityProperty: true, visibilityProperty: true})")
    assert heights == {"screen": False, "print": True}
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole(browser, html, name):
    page, trouble = visit(browser, (html / name).as_uri(), width=1280, scheme="light")
    try:
        assert page.locator("mjx-container").count() >= page.locator("div.math, span.math").count()
        assert page.locator("mjx-merror").count() == 0
        wide = "[...document.querySelectorAll('div.math mjx-container')].filter(e => e.scrollWidth > e.clientWidth + 2)"
        assert not page.evaluate(f"{wide}.map(e => e.closest('div.math').id)"), "break these equations"
        # Loaded once, since setting the equations is what takes the time.
        for look, width, scheme in (("light", 1280, "light"), ("dark", 1280, "dark"), ("phone", 390, "light")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function("scheme => document.documentElement.dataset.theme == scheme", arg=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{look}: it scrolls sideways"
            folder = SCREENSHOTS / look
            folder.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=folder / f"{name.replace('/', '-')[:-5]}.png", full_page=True)
            if look != "phone":
                rules = RULES if look == "light" else ["color-contrast"]  # all that the dark changes
                found = Axe().run(page, context="article", options={"runOnly": rules}).response["violations"]
                assert not found, [(look, rule["id"], rule["nodes"][0]["html"][:200]) for rule in found]
        assert not trouble
    finally:
        page.close()
