"""Checks of arguments: what is allowed passes as Python's own type, everything else is an error that says why."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from controls import must_fail

from diffusers_esd.arguments import check_flag, check_prompt, check_scale, integer_from, number_in, one_of

CHOICES = Literal["pool", "fresh"]
above_0 = number_in("above 0", lambda value: value > 0)


@pytest.mark.parametrize(
    ("value", "expected"), [(1, 1.0), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int64(2), 2.0), (np.float16(0.25), 0.25)]
)
def test_scales(value: Any, expected: float) -> None:
    scale = check_scale("scale", value)
    assert scale == expected
    assert type(scale) in (int, float), "not NumPy's"


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (True, TypeError, "`scale` must be a number, got True of type bool."),
        ("1", TypeError, "`scale` must be a number, got '1' of type str."),
        (None, TypeError, "`scale` must be a number, got None of type NoneType."),
        (np.bool_(True), TypeError, "`scale` must be a number, got "),
        (float("nan"), ValueError, "`scale` must be finite; 1 is the erasure as trained, 0 the base model, got nan."),
        (np.float32("inf"), ValueError, "`scale` must be finite; 1 is the erasure as trained, 0 the base model, got i"),
        (10**400, ValueError, "`scale` must be finite"),
    ],
)
def test_what_is_not_a_scale_is_refused(value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}"):
        check_scale("scale", value)


def test_a_negative_scale_is_warned_about() -> None:
    with pytest.warns(UserWarning, match=r"^`scale` is -1: a negative scale turns an erasure into its inverse") as seen:
        assert check_scale("scale", -1.0) == -1
    assert [warning.filename for warning in seen] == [__file__], "it points to the caller's line"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_scale("scale", 0.0)
        with must_fail("a negative one warns"):
            try:
                check_scale("scale", -1.0)
            except UserWarning as error:
                raise AssertionError from error


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (check_prompt, " a cat ", " a cat "),
        (check_flag, False, False),
        (one_of(CHOICES), "pool", "pool"),
        (integer_from(1), np.int64(1), 1),
        (above_0, np.float32(0.5), 0.5),
        (above_0, 2, 2),
    ],
)
def test_what_is_allowed_passes(check: Callable[[str, Any], Any], value: Any, expected: Any) -> None:
    passed = check("x", value)
    assert passed == expected
    assert type(passed) is type(expected)


@pytest.mark.parametrize(
    ("check", "value", "kind", "message"),
    [
        (check_prompt, 3, TypeError, "`x` must be a string, got 3 of type int."),
        (check_prompt, "", ValueError, "`x` is empty: got ''; give the words of a prompt."),
        (check_prompt, " ", ValueError, "`x` is empty: got ' '; give the words of a prompt."),
        (check_flag, 1, TypeError, "`x` must be True or False, got 1."),
        (one_of(CHOICES), "all", ValueError, "`x` must be one of 'pool', 'fresh', got 'all'."),
        (integer_from(1), 0, ValueError, "`x` must be 1 or more, got 0."),
        (integer_from(1), 1.0, TypeError, "`x` must be a whole number, got 1.0 of type float."),
        (integer_from(0), True, TypeError, "`x` must be a whole number, got True of type bool."),
        (above_0, 0, ValueError, "`x` must be above 0, got 0."),
        (above_0, float("inf"), ValueError, "`x` must be above 0, got inf."),
        (above_0, False, TypeError, "`x` must be a number, got False of type bool."),
    ],
)
def test_what_is_not_allowed_is_refused(
    check: Callable[[str, Any], Any], value: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        check("x", value)
