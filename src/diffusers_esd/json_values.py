"""Readers of JSON values from files that nobody has checked yet: each returns the value or raises an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

Reader = Callable[[Any], Any]


def text(value: Any) -> str:
    """A string."""
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")
    return value


def number(value: Any) -> float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return value


def count(value: Any) -> int:
    """A whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    if value < 0:
        raise ValueError(f"expected 0 or more, got {value}")
    return value


def flag(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"expected True or False, got {value!r}")
    return value


def literal(choices: Any) -> Reader:
    """A reader of one of a `Literal`'s values."""

    def read(value: Any) -> Any:
        if value not in get_args(choices):
            raise ValueError(f"expected one of {', '.join(map(repr, get_args(choices)))}, got {value!r}")
        return value

    return read


def optional(reader: Reader) -> Reader:
    """A reader of a value or null."""
    return lambda value: None if value is None else reader(value)


def list_of(reader: Reader) -> Reader:
    """A reader of a list, which becomes a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, got {value!r}")
        return tuple(map(reader, value))

    return read


def mapping_to(reader: Reader) -> Reader:
    """A reader of an object with any keys."""

    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, got {value!r}")
        return {text(key): reader(entry) for key, entry in value.items()}

    return read


def pair_of(first: Reader, second: Reader) -> Reader:
    """A reader of a list of two values."""

    def read(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise TypeError(f"expected a pair, got {value!r}")
        return first(value[0]), second(value[1])

    return read
