"""The page in a real browser: Debian's chromium, driven by playwright, opened from disk."""

import json
import shutil
from contextlib import contextmanager

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
from report_page.hostile import HOSTILE  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")
PATIENCE = 120_000  # milliseconds; machines of tests are busy


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(browser, page_file, *, width=1280, height=900, **options):
    """The page; at the end it must have been silent, and have asked for nothing beyond itself."""
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    harmed = page.evaluate("window.harmed")
    context.close()
    assert not said
    assert all(url.startswith(("file:", "data:")) for url in asked)
    assert sum(url.startswith("file:") for url in asked) == 1
    assert harmed is None


def draw_all(page):
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function("!document.querySelector('[data-figure]:not([data-drawn])')")


def point_on_screen(page, trace=1, place=0):
    """Where a point of the first panel is, in pixels of the window, and the item that it stands for."""
    return page.evaluate(
        """([trace, place]) => {
            const chart = document.querySelector("#map-panels [data-figure]");
            const { x, y, customdata } = chart.data[trace], { xaxis, yaxis } = chart._fullLayout;
            const box = chart.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.c2p(x[place]), box.top + yaxis._offset + yaxis.c2p(y[place]),
                    customdata[place]];
        }""",
        [trace, place],
    )


def items_of(page):
    return json.loads(page.locator("#data").text_content())["items"]


def test_pictures_show_hover_tells_and_titles_stay_text(browser, hostile_page):
    with opened(browser, hostile_page) as page:
        draw_all(page)
        pictures = page.locator("img[data-picture]")
        assert pictures.count() > 20
        assert pictures.evaluate_all("images => images.every(i => i.complete && i.naturalWidth > 0)")
        assert page.locator(".main-svg").count() >= 7

        page.locator("#map-panels").scroll_into_view_if_needed()
        x, y, _ = point_on_screen(page)
        page.mouse.move(x - 3, y - 3)
        page.mouse.move(x, y)
        page.locator("#map-card").wait_for(state="visible")
        # Points may lie on one another; it tells of one of them.
        title = page.locator("#card-title").text_content()
        assert title in [one["title"] for one in items_of(page)]
        assert any(title.startswith(text) for text in HOSTILE)
        assert page.locator("#card-picture, #card-none").first.evaluate("e => !e.hidden || e.nextElementSibling")
        assert page.locator(".marks circle").count() >= 2

        heading = page.locator("article.query h3").first.text_content()
        assert any(text in heading for text in HOSTILE)
        assert "<b>ids</b>" in page.locator("#head-tail .legendtext").first.text_content()


@pytest.mark.slow
def test_the_keyboard_goes_through_the_items(browser, hostile_page):
    with opened(browser, hostile_page) as page:
        draw_all(page)
        card = page.locator("#map-card")
        page.locator("#map-panels").focus()
        page.keyboard.press("ArrowRight")
        card.wait_for(state="visible")
        first = page.locator("#card-id").text_content()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("first => document.getElementById('card-id').textContent !== first", arg=first)
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("first => document.getElementById('card-id').textContent === first", arg=first)
        page.keyboard.press("Escape")
        card.wait_for(state="hidden")


@pytest.mark.slow
def test_everything_is_reached_by_tab_and_shows_its_focus(browser, hostile_page):
    with opened(browser, hostile_page) as page:
        reached = set()
        for _ in range(80):
            page.keyboard.press("Tab")
            name, outline = page.evaluate(
                """() => { const e = document.activeElement;
                    return [e.id || e.getAttribute("href") || e.dataset.zoom || e.tagName,
                            getComputedStyle(e).outlineStyle]; }"""
            )
            if name == "BODY":
                break
            assert outline != "none", name
            reached.add(name)
        assert {"#main", "#results", "#map", "map-search", "map-panels", "0.6", "SUMMARY"} <= reached


@pytest.mark.slow
def test_the_switch_shows_the_most_conflicting_alone(browser, hostile_page):
    with opened(browser, hostile_page) as page:
        draw_all(page)
        conflicting = json.loads(page.locator("#data").text_content())["map"]["conflicting"]
        page.locator("[name=map-view][value=conflicting]").check()
        page.wait_for_function(
            """items => { const chart = document.querySelector("#map-panels [data-figure]");
                return new Set(chart.data[0].customdata).size === items.length; }""",
            arg=conflicting,
        )
        page.locator("#map-panels").focus()
        page.keyboard.press("Home")
        assert page.locator("#card-id").text_content() == items_of(page)[conflicting[0]]["id"]


@pytest.mark.slow
def test_search_finds_an_item_and_points_at_it(browser, hostile_page):
    with opened(browser, hostile_page) as page:
        wanted = items_of(page)[0]
        page.locator("#map-search").fill(wanted["id"])
        page.locator("#map-found button").first.focus()
        page.locator("#map-card").wait_for(state="visible")
        assert page.locator("#card-id").text_content() == wanted["id"]


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_a_narrow_screen_scrolls_no_page_sideways(browser, hostile_page, scheme):
    with opened(browser, hostile_page, width=360, height=780, color_scheme=scheme, has_touch=True) as page:
        draw_all(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        tables = page.locator(".scroll").first
        assert tables.evaluate("e => e.scrollWidth > e.clientWidth && getComputedStyle(e).overflowX === 'auto'")
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == (scheme == "dark")
