"""A real browser for the pages that the package writes: Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
HEIGHT = 844  # of a window, in pixels
MISSING = "These tests need a browser: apt-get install chromium."
SWITCHES = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


def find_chromium() -> str:
    """The path of Chromium. If it is missing, the test is skipped, or fails where `CI` is set."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(MISSING)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser without a window."""
    path = find_chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(SWITCHES))
        yield chromium
        chromium.close()


@contextmanager
def opened(
    browser: Browser, file: Path | str, *, script: str = "", width: int = 1300, **options: Any
) -> Iterator[Page]:
    """A file or an address in a new window, which shares no storage with others.

    An error of the page's script fails the test.

    Args:
        browser: The browser.
        file: The file, or the address.
        script: What runs before the scripts of the page.
        width: Of the window, in pixels.
        options: Others of Playwright's `new_context`, such as `color_scheme`.
    """
    context = browser.new_context(viewport={"width": width, "height": HEIGHT}, **options)
    errors: list[str] = []
    try:
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.add_init_script(script)
        page.goto(file if isinstance(file, str) else file.as_uri())
        yield page
    finally:
        context.close()
    assert errors == []


def requests_of(page: Page) -> list[str]:
    """A list to which every further request of a page is added, without those for data that is in it."""
    urls: list[str] = []
    page.on("request", lambda request: None if request.url.startswith(("data:", "blob:")) else urls.append(request.url))
    return urls


def check_fits(page: Page) -> None:
    """The page cannot be scrolled sideways."""
    width, window = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= window, f"{width} pixels in a window of {window}"
