"""A stranger's first steps: the extras, the address, the first command and ten questions lead where they say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from controls import must_fail

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
INSIDE = {"docs", "dev", "package"}
"""Extras for work on the package itself."""


def test_every_extra_is_named() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    named = {
        name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", row)
    }
    assert named == set(PROJECT["optional-dependencies"]) - INSIDE


def addresses(text: str) -> set[str]:
    """The addresses of the project's repository and site in a text."""
    return set(re.findall(r"(?:github\.com/[\w-]+/diffusers-esd|[\w-]+\.github\.io/[\w-]+)(?![\w-])", text))


def test_the_project_has_one_address() -> None:
    expected = {"github.com/diffusers-esd/diffusers-esd", "diffusers-esd.github.io/diffusers-esd"}
    assert addresses(" ".join(PROJECT["urls"].values())) == expected
    kinds = ("*.md", "*.py", "*.yml", "*.toml", "*.cff", "*.html")
    files = [file for kind in kinds for file in ROOT.rglob(kind) if not {".venv", "build", "site"} & set(file.parts)]
    for file in files:
        if file == Path(__file__):
            continue  # has another address below
        assert addresses(file.read_text(encoding="utf-8")) <= expected, file
    with must_fail("another address"):
        assert addresses("https://github.com/someone/diffusers-esd") <= expected


@pytest.mark.parametrize("name", ["README.md", "docs/install.md", "docs/index.md"])
def test_the_first_command_installs(name: str) -> None:
    assert re.search(r"^pip install diffusers-esd$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)


def slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())


def is_there(target: str) -> bool:
    """Whether a page has an anchor, `page.md#anchor`."""
    name, _, anchor = target.partition("#")
    page = ROOT / "docs" / name
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE) if page.is_file() else []
    return page.is_file() and (not anchor or anchor in map(slug, headings))


def test_ten_questions_have_their_answers() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    answers = re.findall(r"^\| [^|]+\? \| (.*) \|$", text, re.MULTILINE)
    assert len(answers) == 10
    targets = [re.findall(r"\]\(([^)]+)\)", answer) for answer in answers]
    assert all(targets)
    assert [target for found in targets for target in found if not is_there(target)] == []
    with must_fail("a page without this anchor"):
        assert is_there("install.md#nowhere")


def test_the_figure_of_the_speed_has_the_numbers_of_its_table() -> None:
    figure = (ROOT / "docs" / "assets" / "speed.svg").read_text(encoding="utf-8")
    table = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| SD 1\.4 \| `esd-u` \| (.*?) \| .*? \| (.*?) \|", table, re.MULTILINE)
    measured = {way.strip("*"): seconds.strip("*") for way, seconds in rows}
    drawn = dict(re.findall(r">([^<>]+)</text>\n<rect[^>]*>\n<text[^>]*>([\d.]+)<", figure))
    assert len(drawn) == 3
    assert drawn == {way: measured[way] for way in drawn}
