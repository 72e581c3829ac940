"""Readers of JSON values: what is right comes back, what is wrong raises an error that shows it."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from diffusers_esd.json_values import Reader, count, flag, list_of, literal, mapping_to, number, optional, pair_of, text


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        (text, "a cat", "a cat"),
        (number, 0.5, 0.5),
        (number, -3, -3),
        (count, 0, 0),
        (flag, False, False),
        (literal(Literal["a", "b"]), "b", "b"),
        (optional(number), None, None),
        (list_of(count), [1, 2], (1, 2)),
        (mapping_to(list_of(text)), {"why": ["x"]}, {"why": ("x",)}),
        (pair_of(text, number), ["x", 1], ("x", 1)),
    ],
)
def test_right_values(reader: Reader, value: Any, expected: Any) -> None:
    assert reader(value) == expected
    with pytest.raises((TypeError, ValueError)):
        reader(object())


@pytest.mark.parametrize(
    ("reader", "value", "kind", "message"),
    [
        (text, 3, TypeError, "expected a string, got 3"),
        (number, True, TypeError, "expected a number, got True"),
        (count, 1.0, TypeError, "expected a whole number, got 1.0"),
        (count, -1, ValueError, "expected 0 or more, got -1"),
        (flag, 1, TypeError, "expected True or False, got 1"),
        (literal(Literal["a", "b"]), "c", ValueError, "expected one of 'a', 'b', got 'c'"),
        (list_of(count), "12", TypeError, "expected a list, got '12'"),
        (list_of(count), [1, "2"], TypeError, "expected a whole number, got '2'"),
        (mapping_to(text), [], TypeError, "expected an object, got []"),
        (pair_of(text, number), ["x"], TypeError, "expected a pair, got ['x']"),
    ],
)
def test_wrong_values(reader: Reader, value: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        reader(value)
    assert str(caught.value) == message
