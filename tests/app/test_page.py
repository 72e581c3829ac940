"""The app in a browser, as a visitor sees it. All tests share one app, and each has a browser profile of its own."""

from __future__ import annotations

import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import check_fits, opened, requests_of
from controls import must_fail
from emoji_sd import load
from playwright.sync_api import Browser, Locator, Page, expect

from diffusers_esd.app.desk import Desk
from diffusers_esd.app.folder import DOWNLOADS
from diffusers_esd.app.job import Jobs
from diffusers_esd.app.judge import JudgeChoice
from diffusers_esd.app.server import served

from .conftest import quick

WAIT = 60_000  # milliseconds, at most
expect.set_options(timeout=WAIT)


class App:
    """An app that runs.

    Attributes:
        address: Its address.
        output: Its folder.
    """

    def __init__(self, address: str, output: Path) -> None:
        self.address, self.output = address, output


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    output = tmp_path_factory.mktemp("app")
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    desk = Desk(output, Jobs(pipe), "pipe = load()", quick, JudgeChoice("emoji_sd.recogniser:EmojiJudge"))
    with served(desk, "emoji_sd", host="127.0.0.1", port=None) as address:
        yield App(address, output)
    assert "GRADIO_TEMP_DIR" not in os.environ


@contextmanager
def visiting(browser: Browser, app: App, **options: int) -> Iterator[Page]:
    """The page of a new visitor."""
    with opened(browser, app.address, **options) as page:
        page.set_default_timeout(WAIT)
        expect(status(page)).to_contain_text("Nothing runs yet")
        yield page


def status(page: Page) -> Locator:
    return page.locator("#status")


def erase(page: Page, concept: str, iterations: int) -> None:
    """Fill in the first form, and press the button."""
    page.get_by_role("tab", name="Erase").click()
    page.get_by_label("Concept", exact=True).fill(concept)
    page.get_by_label("when the prompt names it").check()
    if not page.get_by_label("Iterations").is_visible():
        page.get_by_text("Advanced").click()
    page.get_by_label("Iterations").fill(str(iterations))
    page.get_by_role("button", name="Erase", exact=True).click()


def done(page: Page, words: str) -> None:
    expect(status(page)).to_contain_text(words)


@pytest.mark.parametrize("width", [390, 1300])
def test_it_needs_no_network_and_fits(width: int, app: App, browser: Browser) -> None:
    with visiting(browser, app, width=width) as page:
        requests = requests_of(page)
        page.reload(wait_until="load")
        expect(status(page)).to_contain_text("Nothing runs yet")
        for tab in ("Stack", "Measure", "Share", "Erase"):
            page.get_by_role("tab", name=tab).click()
            check_fits(page)
        assert requests
        assert [url for url in requests if not url.startswith(app.address)] == []
        assert page.evaluate("document.fonts.size") == 0 or not page.evaluate(
            "[...document.fonts].some(font => font.status === 'error')"
        )


def test_erase_stack_compare_export_and_load_again(app: App, browser: Browser, tmp_path: Path) -> None:
    with visiting(browser, app, width=390) as page:
        page.get_by_label("Watch these prompts").fill("a cat\na dog")
        erase(page, "a cat", 2)
        done(page, "saved as no-a-cat")
        expect(page.locator("#picture img")).to_be_visible()
        expect(page.locator("#curves img")).to_be_visible()
        expect(page.locator("#code")).to_contain_text('.erase("a cat", name="no-a-cat")')
        check_fits(page)

        page.reload()
        done(page, "saved as no-a-cat")
        expect(page.locator("#picture img")).to_be_visible()

        erase(page, "a dog", 2)
        done(page, "saved as no-a-dog")
        page.get_by_role("tab", name="Stack").click()
        page.get_by_label("number input for no-a-cat").fill("0.5")
        page.get_by_label("number input for no-a-dog").fill("0")
        page.get_by_label("Prompts", exact=True).fill("a cat")
        page.get_by_label("Denoising steps").first.fill("2")
        page.get_by_role("button", name="Compare").click()
        done(page, "drawn")
        expect(page.locator("#code")).to_contain_text('no-a-cat": 0.5}')
        page.get_by_role("button", name="Calibrate").click()
        done(page, "leaves it intact: there is nothing to calibrate")

        page.get_by_role("tab", name="Share").click()
        page.get_by_label("Name", exact=True).fill("mine")
        page.get_by_role("button", name="Export", exact=True).click()
        done(page, "mine.comfyui.safetensors")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download mine.comfyui.safetensors").click()
        download.value.save_as(tmp_path / "mine.safetensors")
        (written,) = app.output.glob("*/exports/mine.comfyui.safetensors")
        assert (tmp_path / "mine.safetensors").read_bytes() == written.read_bytes()

        page.reload()
        page.get_by_role("tab", name="Stack").click()
        expect(page.get_by_label("number input for no-a-cat")).to_have_value("0.5")
        expect(page.get_by_label("number input for no-a-dog")).to_have_value("0")


def test_a_training_is_cancelled_and_outlives_its_page(app: App, browser: Browser) -> None:
    with visiting(browser, app) as page:
        erase(page, "gore", 100_000)
        expect(status(page)).to_contain_text("iteration")
        expect(status(page)).to_contain_text("Pictures are not drawn, because a concept or a prompt is explicit")
        assert page.locator("#picture img").count() == 0
        page.reload()
        expect(status(page)).to_contain_text("iteration")
        with visiting(browser, app) as other:
            assert "gore" not in other.content()
            other.get_by_label("Concept", exact=True).fill("a cat")
            other.get_by_role("button", name="What is protected?").click()
            done(other, "jobs of others before it: 1")
            page.get_by_role("button", name="Cancel").click()
            done(page, "saved as no-gore")
            done(other, "planned")
        expect(status(page)).to_contain_text("Cancelled")
        page.get_by_role("tab", name="Stack").click()
        page.get_by_label("Prompts", exact=True).fill("a person")
        page.get_by_role("button", name="Compare").click()
        expect(page.get_by_text("No pictures: a concept of the stack or a prompt is explicit")).to_be_visible()
        assert page.locator("#picture img").count() == 0


def test_errors_are_readable(app: App, browser: Browser) -> None:
    with visiting(browser, app) as page:
        page.get_by_role("button", name="Erase", exact=True).click()
        expect(page.get_by_text("`concept` is empty")).to_be_visible()
        assert "Traceback" not in page.content()
        page.get_by_label("Concept", exact=True).fill("a cat")
        page.get_by_text("Advanced").click()
        page.get_by_label("Iterations").fill("many")
        page.get_by_role("button", name="Erase", exact=True).click()
        expect(page.get_by_text("must be a number, or empty for the default")).to_be_visible()


def test_files_elsewhere_are_not_sent(app: App, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret", encoding="utf-8")
    inside = app.output / ("a" * 32) / "erasures" / "x.txt"
    inside.parent.mkdir(parents=True)
    inside.write_text("secret", encoding="utf-8")
    sent = app.output / DOWNLOADS / ("b" * 32) / "x.txt"
    sent.parent.mkdir(parents=True)
    sent.write_text("sent", encoding="utf-8")
    paths = [secret, inside, Path(__file__).resolve(), Path("/etc/passwd"), sent.parent / ".." / ".." / ".." / "x"]
    for path in [*map(str, paths), f"{sent.parent}/../../../{secret.name}", "pyproject.toml", "../../etc/passwd"]:
        assert fetched(app, path) in (403, 404), path
    assert fetched(app, str(sent)) == 200
    with must_fail("what is sent is found"):
        assert fetched(app, str(sent)) == 404


def fetched(app: App, path: str) -> int:
    """The answer to a request for a file."""
    try:
        with urllib.request.urlopen(f"{app.address}gradio_api/file={path}") as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def test_uploads_are_refused(app: App) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n' + b"0" * 5000 + b"\r\n--x--\r\n"
    request = urllib.request.Request(
        f"{app.address}gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    with pytest.raises(urllib.error.HTTPError, match=re.compile("4..")):
        urllib.request.urlopen(request)
