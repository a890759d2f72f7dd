"""The pages in a real browser, with the network refused: light, dark and as narrow as a phone.

With MLCORE_SCREENSHOTS=folder, each page is pictured there in all three.
"""

import os
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
SCREENSHOTS = os.environ.get("MLCORE_SCREENSHOTS")
RULES = ["image-alt", "heading-order", "document-title", "html-has-lang", "link-name", "list"]

# Marks the first text of each colour, size and weight on each ground: a page has tens of these, and thousands of texts.
MARK_ONE_OF_EACH_LOOK = """() => {
  const seen = new Set();
  for (const element of document.querySelectorAll("article *")) {
    element.removeAttribute("data-look");
    const text = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!text || !element.checkVisibility({ visibilityProperty: true })) continue;
    const { color, fontSize, fontWeight } = getComputedStyle(element);
    const look = [color, fontSize, fontWeight];
    for (let around = element; around; around = around.parentElement) {
      const { backgroundColor, opacity } = getComputedStyle(around);
      if (backgroundColor !== "rgba(0, 0, 0, 0)" || opacity !== "1") look.push(backgroundColor, opacity);
    }
    if (seen.has(look.join())) continue;
    seen.add(look.join());
    element.setAttribute("data-look", "");
  }
}"""


def violations(page, context, rules):
    found = Axe().run(page, context=context, options={"runOnly": rules}).response["violations"]
    return [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found]


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
            if SCREENSHOTS:
                page.screenshot(path=Path(SCREENSHOTS, look, f"{name.replace('/', '-')[:-5]}.png"), full_page=True)
            if look != "phone":
                page.evaluate(MARK_ONE_OF_EACH_LOOK)
                assert not violations(page, "[data-look]", ["color-contrast"]), look
        assert not violations(page, "article", RULES)
        assert not trouble
    finally:
        page.close()
