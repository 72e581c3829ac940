"""Every Python block of README and docs runs, in order, one namespace a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from controls import must_fail

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(text: str, name: str) -> None:
    """Run the blocks of a page."""
    namespace: dict[str, object] = {"__name__": "page"}
    assert text.count("```python") == len(BLOCK.findall(text)), "a block is not closed"
    for block in BLOCK.finditer(text):
        above = "\n" * text.count("\n", 0, block.start(1))  # So that an error names the page's line.
        exec(compile(above + block[1], name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page.read_text(encoding="utf-8"), str(page))


@pytest.mark.parametrize(
    "text",
    ["```python\nx = 1\n```\nText.\n```python\nassert x == 2\n```\n", "```python\nx = 1\n"],
    ids=["a false block", "not closed"],
)
def test_a_page_that_is_wrong_is_seen(text: str) -> None:
    with must_fail("a page must run"):
        run(text, "page")


def test_there_are_blocks_to_run() -> None:
    assert sum(len(BLOCK.findall(page.read_text(encoding="utf-8"))) for page in PAGES) >= 3
