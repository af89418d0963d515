"""The pages in a browser, from disk and with the network off, as on a colleague's laptop and on a phone.

Screenshots are kept in ``build/screenshots``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_run import CLASSES, make_run

from covidxr.report.compare import compare_runs
from covidxr.report.page import write_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here")
SHOTS = Path(__file__).parents[1] / "build" / "screenshots"
WIDTHS = [390, 1280]
VISIBLE = ".images > li:not([hidden])"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api").sync_playwright()
    with playwright as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The page of a run, and one of two runs side by side."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder / name) for name in ("a", "b")]
    return {"run": write_page(runs[0]), "compare": compare_runs([*runs, write_page(runs[1]).parent])[0]}


@pytest.fixture
def visit(browser, pages):
    """Open a page with the network off; what the console says and what a file asks for is an error at the end."""
    contexts, complaints = [], []

    def visiting(name="run", width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.on(
            "request", lambda request: complaints.append(request.url) if not request.url.startswith("file:") else None
        )
        page.goto(pages[name].as_uri())
        return page

    yield visiting
    for context in contexts:
        context.close()
    assert complaints == []


def scroll_through(page):
    """Lazy images load when they come into view."""
    page.evaluate(
        """async () => { for (let y = 0; y < document.body.scrollHeight; y += 500) {
             window.scrollTo(0, y); await new Promise(done => setTimeout(done, 20)); } window.scrollTo(0, 0); }"""
    )
    page.wait_for_function("[...document.images].filter(i => i.checkVisibility()).every(i => i.complete)")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["run", "compare"])
def test_every_image_loads_and_nothing_runs_over_the_side(visit, name, width):
    page = visit(name, width)
    scroll_through(page)
    widths = page.evaluate("[...document.images].filter(i => i.checkVisibility()).map(i => i.naturalWidth)")
    assert len(widths) >= 6 and min(widths) > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}-{width}.png", full_page=True)


def test_filters(visit):
    page = visit()
    said, images = page.locator("output"), page.locator(VISIBLE)
    assert images.count() == 24 and said.inner_text() == "24 of 60 shown"
    page.get_by_label("Prediction").select_option("wrong")
    assert images.count() == 12 and said.inner_text() == "12 of 12 shown (60 in all)"
    page.get_by_label("Class").select_option(CLASSES[1])
    page.get_by_label("Source").select_option("there")
    shown = images.evaluate_all(
        "images => images.map(image => [image.dataset.label, image.dataset.right, image.dataset.source])"
    )
    assert shown and all(image == [CLASSES[1], "wrong", "there"] for image in shown)
    page.get_by_label("Predicted as").select_option(CLASSES[1])
    assert images.count() == 0 and said.inner_text() == "0 of 0 shown (60 in all)"
    page.get_by_role("button", name="Show all").click()
    page.wait_for_function("document.querySelector('output').value == '24 of 60 shown'")


def test_a_phone_shows_fewer_at_once(visit):
    assert visit(width=390).locator(VISIBLE).count() == 8


def test_more_images_by_keyboard(visit):
    page = visit()
    more = page.get_by_role("button", name="Show more")
    more.focus()
    page.keyboard.press("Enter")
    assert page.locator(VISIBLE).count() == 48
    assert page.evaluate("[...document.querySelectorAll('.images > li')].indexOf(document.activeElement)") == 24
    more.focus()
    page.keyboard.press("Enter")
    assert page.locator(VISIBLE).count() == 60 and not more.is_visible()


def test_the_keyboard_reaches_every_filter_and_link(visit):
    page = visit()
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.name || document.activeElement.getAttribute('href')"))
    assert {"label", "predicted", "right", "source", "figures/04_confusion.png", "metrics.json", "run.json"} <= reached


def test_without_script_all_images_are_there(visit):
    page = visit(java_script_enabled=False)
    assert page.locator(".images > li").count() == 60 and not page.get_by_label("Prediction").is_visible()


def luminance(page, selector, what):
    colour = page.locator(selector).first.evaluate(f"node => getComputedStyle(node).{what}")
    return sum(map(int, colour.removeprefix("rgb(").rstrip(")").split(",")[:3])) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_follows_the_colour_scheme(visit, scheme):
    page = visit(color_scheme=scheme)
    paper, ink = luminance(page, "body", "backgroundColor"), luminance(page, "body", "color")
    assert (paper < 60 and ink > 180) if scheme == "dark" else (paper > 200 and ink < 60)
    page.screenshot(path=SHOTS / f"run-{scheme}.png")


def test_prints_what_is_shown_without_its_buttons(visit):
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    assert luminance(page, "body", "backgroundColor") == 255
    assert not page.locator("form").is_visible() and page.locator(VISIBLE).first.is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_every_picture_is_described(visit):
    page = visit()
    assert page.evaluate("[...document.images].every(image => image.alt.length >= 5)")
