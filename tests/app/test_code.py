"""Calls as code."""

from __future__ import annotations

from pathlib import Path

import pytest
from controls import must_fail

from diffusers_esd.app.code import PIPE, Name, call, written

VALUES = [1, 0.5, True, None, "a cat", 'a "cat"\n\\ with é, \x00 and ’', [1, "b"], {"a": 1.0, "b": 0.5}, []]


@pytest.mark.parametrize("value", VALUES)
def test_code_is_the_value(value: object) -> None:
    assert eval(written(value)) == value


def test_a_string_cannot_end_itself() -> None:
    mean = '"); raise SystemExit; ("'
    assert eval(call("str", mean)) == mean
    with must_fail("a name is not quoted"):
        assert eval(call("str", Name('"a" + "b"'))) == '"a" + "b"'


def test_names_paths_and_tuples() -> None:
    assert call("preview", PIPE, Path("a", "b"), (1, 2), x=Name("judge()")) == 'preview(pipe, "a/b", [1, 2], x=judge())'


def test_a_long_call_has_a_line_for_each_argument() -> None:
    code = call("dict", **{f"argument_{i}": "some text" for i in range(6)})
    assert code.splitlines()[:2] == ["dict(", '    argument_0="some text",']
    assert code.endswith(",\n)")
    assert eval(code)["argument_5"] == "some text"
