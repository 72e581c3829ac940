"""The page in a browser: it needs nothing else, escapes every text, and fits a phone."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from browser import check_fits, opened, requests_of
from controls import must_fail
from evaluated import a_report
from PIL import Image
from playwright.sync_api import Browser

from diffusers_esd.evaluation.page.page import (
    Gallery,
    Section,
    data_uri,
    facts_of,
    page,
    rows_of,
    tiles_of,
)
from diffusers_esd.evaluation.page.view import curves_of, matrix_of
from diffusers_esd.report import Report
from diffusers_esd.report_rows import Column, Estimate

MEAN = '<b onclick="x()">&\'"</b>'
LONG = "a concept with a very long name, such as the_title_of_a_painting_that_nobody_can_remember_in_one_piece"


def full(report: Report, text: str = "Text.") -> str:
    """A page with everything that one can have."""
    image = data_uri(Image.new("RGB", (64, 64), "red"))
    labels = tuple(f"named\n{text} {i}" for i in range(12))
    section = Section(
        title=text,
        text=(text,),
        tiles=tiles_of(report),
        galleries=(Gallery(text, labels, (("base", (image,) * 12), (text, (image,) * 12))),),
        hidden=text,
        matrices=(matrix_of(report, text, {"no-a-cat": "a cat"}),),
        rows=rows_of(report),
        curves=curves_of(text, [(1.0, 1.0), (0.5, 0.0)], 1.0),
        facts=facts_of(report),
    )
    return page(text, [section], lead=[text], command=f"diffusers-esd evaluate {text}", created="2026-01-31")


def named(text: str) -> Report:
    """A report in which every name is a text."""
    report = a_report(notes=(text,), groups={"named": text}, options={"x": text}, versions={text: text})
    columns = (report.columns[0], Column("no-a-cat", (text,), {text: text}))
    return replace(report, columns=columns, rows=(replace(report.rows[0], concept=text, label=text), report.rows[1]))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "report.html"
    file.write_text(full(named(LONG), LONG), encoding="utf-8")
    return file


def test_every_text_is_escaped() -> None:
    html = full(named(MEAN), MEAN)
    assert "<b onclick" not in html
    assert html.count("&lt;b onclick=&#34;x()&#34;&gt;&amp;") > 15
    with must_fail("a tag in the page would be seen"):
        assert "<b>" not in html


def test_nothing_else_is_needed(file: Path, browser: Browser) -> None:
    html = file.read_text(encoding="utf-8")
    assert "<script" not in html
    assert set(re.findall(r'(?:src|href)="([a-z]+):', html)) == {"data"}
    assert not re.search(r"url\(|@import|<link|<iframe", html)
    with opened(browser, file, java_script_enabled=False) as shown:
        requests = requests_of(shown)
        shown.reload(wait_until="networkidle")
        assert requests == [file.as_uri()]


@pytest.mark.parametrize("width", [390, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_a_desk(width: int, scheme: str, file: Path, browser: Browser) -> None:
    with opened(browser, file, width=width, color_scheme=scheme) as shown:
        shown.locator("summary").click()
        check_fits(shown)
        assert shown.locator("h1").inner_text() == LONG
        assert shown.locator("img").count() == 24
        for bar in shown.locator(".bar").all():
            assert bar.bounding_box()["width"] <= width
        fills = [box.bounding_box()["width"] for box in shown.locator(".track").first.locator("xpath=.").all()]
        assert min(fills) > 100, "bars have room"
        colours = shown.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        dark = [sum(map(int, re.findall(r"\d+", colour)[:3])) < 384 for colour in colours]
        assert dark == ([True, False] if scheme == "light" else [False, True])
    with must_fail("what is wider is seen"), opened(browser, file, width=width) as shown:
        shown.evaluate("document.body.style.width = '2000px'")
        check_fits(shown)


def test_bars_are_as_long_as_their_figures(file: Path, browser: Browser) -> None:
    with opened(browser, file) as shown:
        row = shown.locator(".row").first
        track, first, second = (
            row.locator(which).nth(i).bounding_box()["width"]
            for which, i in ((".track", 0), (".fill", 0), (".fill", 1))
        )
        assert (first / track, second / track) == pytest.approx((0.75, 0.25), abs=0.01)
        whisker = row.locator(".whisker").first.bounding_box()["width"]
        assert whisker / track == pytest.approx(0.65, abs=0.01)


def test_pictures_are_small() -> None:
    for size, expected in (((64, 48), (64, 48)), ((1024, 512), (256, 128))):
        uri = data_uri(Image.new("RGBA", size, "blue"))
        head, _, content = uri.partition(",")
        assert head == "data:image/webp;base64"
        image = Image.open(io.BytesIO(base64.b64decode(content)))
        assert (image.size, image.mode) == (expected, "RGB")


def test_tiles_compare_with_the_base_model() -> None:
    report = a_report()
    (tile,) = tiles_of(report)
    assert (tile.method, tile.figures) == ("no-a-cat", (("named: a cat", "0.75 → 0.25"),))
    score = replace(report.rows[1], group="named", concept="a cat", figures={"base": Estimate(9, None, None, 4, 4)})
    assert tiles_of(replace(report, rows=(report.rows[0], score))) == (tile,), (
        "a score of the same prompts is not a rate"
    )


def test_facts_are_everything_that_is_needed_to_repeat_it() -> None:
    facts = dict(facts_of(a_report()))
    assert list(facts) == [
        "Groups of prompts", "Notes", "Prompts", "Images", "Method: base", "Method: no-a-cat", "Judge: a judge",
        "Versions",
    ]  # fmt: skip
    assert facts["Groups of prompts"] == (("named", "The prompt names it."),)
    assert facts["Judge: a judge"] == (("weights", "2" * 64),)
