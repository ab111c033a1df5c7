"""The pages in a real browser: nothing cut off, readable in light and dark, and reached by the keyboard.

``make test-browser`` runs them; they need playwright (``pip install 'fastprune[browser]'``) and a Chromium, such as
Debian's.
"""

import os
import shutil

import pytest
from pages import PAGES

pytestmark = pytest.mark.browser

WIDTHS = (400, 1400)
SCHEMES = ("light", "dark")

CONTRAST = """() => {
  const channels = colour => colour.match(/[0-9.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const found = channels(getComputedStyle(e).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
  };
  const told = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest("style, metadata")) continue;
    const style = getComputedStyle(element);
    const [a, b] = [channels(element.ownerSVGElement ? style.fill : style.color), behind(element)].map(light);
    told.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.textContent.trim()]);
  }
  return told;
}"""
"""Of every element with text of its own: the contrast with what is behind it, as WCAG reckons it, and the text."""

CUT_OFF = """() => {
  const told = [];
  const outside = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1
    || inner.top < outer.top - 1 || inner.bottom > outer.bottom + 1;
  if (document.documentElement.scrollWidth > innerWidth) told.push("the page is wider than the window");
  for (const element of document.querySelectorAll("main *")) {
    const box = element.getBoundingClientRect();
    if (!box.width || element.closest(".scroll, svg")) continue;
    if (box.left < 0 || box.right > innerWidth + 1) told.push(element.outerHTML.slice(0, 80));
  }
  for (const picture of document.querySelectorAll("figure svg"))
    for (const text of picture.querySelectorAll("text"))
      if (outside(text.getBoundingClientRect(), picture.getBoundingClientRect())) told.push(text.textContent);
  for (const region of document.querySelectorAll(".scroll"))
    if (getComputedStyle(region).overflowX !== "auto") told.push(region.outerHTML.slice(0, 80));
  return told;
}"""
"""What reaches out of the window or out of its picture; a region that scrolls holds what is wider."""

SMALL = """() => [...document.querySelectorAll("figure text")]
  .filter(text => text.getBoundingClientRect().height < 9).map(text => text.textContent)"""


@pytest.fixture(scope="module")
def browser():
    place = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        sync_playwright = None
    if not (place and sync_playwright):
        why = (
            "no Chromium is installed (apt-get install chromium)" if sync_playwright else "playwright is not installed"
        )
        if os.environ.get("FASTPRUNE_BROWSER") == "required":
            pytest.fail(why)
        pytest.skip(why)
    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(make(), encoding="utf-8")
    return folder


def opened(browser, files, name, width=1400, scheme="light"):
    """The page, with all its tables open, and what the browser complained of."""
    page, complaints = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.goto(f"file://{files}/{name}.html")
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    return page, complaints


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_off_or_too_small_and_the_browser_complains_of_nothing(browser, files, name, width):
    page, complaints = opened(browser, files, name, width)
    assert page.evaluate(CUT_OFF) == [] and page.evaluate(SMALL) == [] and complaints == []
    page.close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", PAGES)
def test_every_text_can_be_read(browser, files, name, scheme):
    page, _ = opened(browser, files, name, scheme=scheme)
    told = page.evaluate(CONTRAST)
    assert len(told) > 40 and not [text for contrast, text in told if contrast < 4.5]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 23, 28)"
    )
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_the_keyboard_reaches_every_figure_and_table(browser, files, name):
    page, _ = opened(browser, files, name, width=400)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = false)")
    wanted = page.evaluate("document.querySelectorAll('figure, .scroll, summary').length")
    reached = set()
    for _ in range(3 * wanted):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "BODY":
            break
        outlined = page.evaluate("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")
        assert outlined >= 2, "what is focused cannot be seen"
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            page.keyboard.press("Enter")
        place = "[...document.querySelectorAll('figure, .scroll, summary')].indexOf(document.activeElement)"
        reached.add(page.evaluate(place))
    assert reached - {-1} == set(range(wanted))
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    assert all(page.evaluate("[...document.querySelectorAll('figure')].map(one => one.getAttribute('aria-label'))"))
    page.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_figure_has_its_numbers_in_a_table_behind_it(browser, files, name):
    page, _ = opened(browser, files, name)
    figures, without = page.evaluate(
        """() => [document.querySelectorAll("figure").length, [...document.querySelectorAll("figure")]
          .filter(one => ![...document.querySelectorAll("table")]
            .some(table => one.compareDocumentPosition(table) & Node.DOCUMENT_POSITION_FOLLOWING)).length]"""
    )
    assert figures and not without
    page.close()
