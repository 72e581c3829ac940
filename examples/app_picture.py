"""The picture of the app in the README: `python examples/app_picture.py docs/assets/app.png`.

Starts the app with the small model, erases a cat in a browser, and takes a picture of the page. Needs Playwright and
Chromium, as the tests do.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from emoji_sd import load, settings
from playwright.sync_api import Page, expect, sync_playwright

from diffusers_esd.app.desk import Desk
from diffusers_esd.app.job import Jobs
from diffusers_esd.app.server import served

MINUTES = 8 * 60_000  # milliseconds


def erase(page: Page) -> None:
    """Erase a cat, and wait for the end."""
    expect(page.locator("#status")).to_contain_text("Nothing runs yet", timeout=MINUTES)
    page.get_by_label("Concept", exact=True).fill("a cat")
    page.get_by_label("when the prompt names it").check()
    page.get_by_label("Watch these prompts").fill("a cat\na dog")
    page.get_by_role("button", name="Erase", exact=True).click()
    expect(page.locator("#status")).to_contain_text("saved as", timeout=MINUTES)
    expect(page.locator("#curves img")).to_be_visible()


def main(file: Path, width: int) -> None:
    """Write the picture.

    Args:
        file: The picture, PNG.
        width: Of the window, in pixels.
    """
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    file = file.resolve()
    # The code on the page names the folder as a user sees it.
    with TemporaryDirectory() as folder, chdir(folder), sync_playwright() as playwright:
        desk = Desk(Path("app-output"), Jobs(pipe), settings=lambda group, together: settings(group, anchor=together))
        with served(desk, "emoji_sd", host="127.0.0.1", port=None) as address:
            path = shutil.which("chromium") or shutil.which("google-chrome")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page(viewport={"width": width, "height": 1000})
            page.goto(address)
            erase(page)
            page.screenshot(path=file, full_page=True)
            browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1300)
