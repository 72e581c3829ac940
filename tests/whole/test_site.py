"""The built documentation in a browser: no page scrolls sideways, no table is cut off, on a phone and on a desk.

It needs the packages of the extra `docs`, which `make docs` installs; without them it is skipped.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from browser import HEIGHT, browser
from controls import must_fail
from playwright.sync_api import Browser, Page

__all__ = ["browser"]

ROOT = Path(__file__).parents[2]
DESK, PHONE = 1300, 390
WIDER = """() => {
    const frame = (table) => table.closest(".md-typeset__scrollwrap") || table.parentElement;
    const wide = [...document.querySelectorAll("article table")].filter(
        (table) => table.scrollWidth > frame(table).clientWidth + 1);
    return wide.map((table) => table.rows[0].innerText);
}"""
STUCK = """() => {
    const scrolls = (element) => element && (["auto", "scroll"].includes(getComputedStyle(element).overflowX) ||
        scrolls(element.parentElement));
    const wide = [...document.querySelectorAll("article table, article pre")].filter(
        (element) => element.getBoundingClientRect().right > innerWidth && !scrolls(element));
    return wide.map((element) => element.innerText.slice(0, 60));
}"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """The address of the built documentation, and its pages."""
    if find_spec("mkdocs") is None or find_spec("material") is None:
        pytest.skip("The documentation needs its own packages: make docs.")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pages = sorted(str(page.parent.relative_to(folder)) for page in folder.rglob("index.html"))
    yield f"http://127.0.0.1:{server.server_port}", pages
    server.shutdown()


def opened(browser: Browser) -> Page:
    return browser.new_page(viewport={"width": DESK, "height": HEIGHT})


def too_wide(page: Page, *, table: bool) -> list[str]:
    """What is wider than the window; with `table`, also the tables that are wider than their frame."""
    faults = page.evaluate(STUCK) + (page.evaluate(WIDER) if table else [])
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        faults.append("the page")
    return faults


@pytest.fixture(scope="module")
def seen(site: tuple[str, list[str]], browser: Browser) -> dict[str, dict[str, Any]]:
    """By page: what is too wide on a desk and on a phone, and the widths of its pictures in pixels."""
    address, pages = site
    window, found = opened(browser), {}
    for name in pages:
        window.goto(f"{address}/{name}/")
        window.wait_for_selector("article")
        images = "[...document.querySelectorAll('article img')].map((image) => [image.src, image.naturalWidth])"
        found[name] = {"images": dict(window.evaluate(images))}
        for width in (PHONE, DESK):
            window.set_viewport_size({"width": width, "height": HEIGHT})
            found[name][width] = too_wide(window, table=width == DESK)
    window.close()
    return found


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_nothing_is_cut_off(width: int, seen: dict[str, dict[str, Any]], browser: Browser) -> None:
    assert len(seen) >= 25
    assert {name: page[width] for name, page in seen.items() if page[width]} == {}
    window = opened(browser)
    window.set_viewport_size({"width": width, "height": HEIGHT})
    cell = '<td style="min-width: 2000px">x</td>'
    window.set_content(f"<article><table><tr>{cell}</tr></table></article>")
    with must_fail("a table that is too wide"):
        assert too_wide(window, table=width == DESK) == []
    window.close()


def test_the_pictures_are_there(seen: dict[str, dict[str, Any]]) -> None:
    pictures = {source: pixels for page in seen.values() for source, pixels in page["images"].items()}
    assert len(pictures) >= 6
    assert all(pictures.values())


def test_the_site_can_be_searched_and_made_dark(site: tuple[str, list[str]], browser: Browser) -> None:
    window = opened(browser)
    window.goto(f"{site[0]}/")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = window.evaluate(colour)
    window.locator("form[data-md-component=palette] label:visible").first.click()
    assert window.evaluate(colour) != light
    window.fill("input[name=query]", "negative_guidance")
    window.wait_for_selector(".md-search-result__item")
    window.close()
