"""The messages that docs/troubleshooting.md quotes are those of the code."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from controls import must_fail

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = re.compile(r"^```error\n(.*?)\n```$", re.MULTILINE | re.DOTALL)


def quoted(text: str) -> list[str]:
    return QUOTED.findall(text)


@cache
def raised() -> set[str]:
    """All texts of the code, with `…` for what is filled in."""
    nodes = [
        node
        for file in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    ]
    return {re.sub("…+", "…", text) for node in nodes if len(text := text_of(node)) > 20}


def text_of(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)


def in_code(message: str, texts: set[str]) -> bool:
    return any(message in text for text in texts)


@pytest.mark.parametrize("message", quoted(PAGE.read_text(encoding="utf-8")))
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    assert in_code(message, raised())


def test_there_are_messages_and_a_false_one_is_seen() -> None:
    assert len(quoted(PAGE.read_text(encoding="utf-8"))) >= 20
    with must_fail("this message is not in the code"):
        assert in_code("The pipeline is … years old", raised())
