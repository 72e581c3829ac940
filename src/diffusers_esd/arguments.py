"""Checks of arguments. An error names the argument, what came, and what is allowed."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, get_args

Check = Callable[[str, Any], Any]
"""Takes the name of an argument and its value, and returns the value to use."""


def check_prompt(name: str, prompt: object) -> str:
    """A prompt: a string with at least one word.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty or blank.
    """
    if not isinstance(prompt, str):
        raise TypeError(f"`{name}` must be a string, got {prompt!r} of type {type(prompt).__name__}.")
    if not prompt.strip():
        raise ValueError(f"`{name}` is empty: got {prompt!r}; give the words of a prompt.")
    return prompt


def check_prompts(name: str, value: object, *, or_else: str = "") -> tuple[str, ...]:
    """A list of prompts, which may be empty.

    Args:
        name: Name of the argument.
        value: Its value.
        or_else: What else the argument may be, for the error: `" or 'vocabulary'"`.

    Raises:
        TypeError: If it is not a list, or a prompt is not a string.
        ValueError: If a prompt is empty or blank.
    """
    if isinstance(value, str):
        comma = "," if or_else else ""
        raise TypeError(f"`{name}` must be a list of prompts, such as [{value!r}]{comma}{or_else}; got {value!r}.")
    if not isinstance(value, Iterable):
        kind = type(value).__name__
        raise TypeError(f"`{name}` must be a list of prompts{or_else}, got {value!r} of type {kind}.")
    return tuple(check_prompt(name, prompt) for prompt in value)


def check_flag(name: str, value: object) -> bool:
    """True or False.

    Raises:
        TypeError: If it is something else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"`{name}` must be True or False, got {value!r}.")
    return value


def check_seeds(value: Any) -> list[int]:
    """One seed or several, each a whole number.

    Raises:
        TypeError: If one is not a whole number.
        ValueError: If there is none.
    """
    seeds = [value] if isinstance(value, Real) else list(value)
    if not seeds:
        raise ValueError("`seeds` is empty; give at least one.")
    checked = []
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, Integral):
            raise TypeError(f"`seeds` must be whole numbers, got {seed!r} of type {type(seed).__name__}.")
        checked.append(int(seed))
    return checked


def check_scale(name: str, value: object, *, warn: bool = True) -> float:
    """The scale of an adapter: 1 is the erasure as trained, 0 the base model.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not finite.

    Warns:
        UserWarning: If it is negative, and `warn` is set.
    """
    scale = number_in("finite; 1 is the erasure as trained, 0 the base model", lambda value: True)(name, value)
    if warn and scale < 0:
        warn_user(
            f"`{name}` is {scale:g}: a negative scale turns an erasure into its inverse, which amplifies the concept."
        )
    return scale


def warn_user(message: str) -> None:
    """Warn, and point to the line outside of this package that called it, however deep the caller is."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "diffusers_esd":
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def one_of(choices: Any) -> Check:
    """A check that a value is one of a `Literal`'s."""

    def check(name: str, value: Any) -> Any:
        if value not in get_args(choices):
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}.")
        return value

    return check


def integer_from(least: int) -> Check:
    """A check that a value is a whole number, `least` or more."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"`{name}` must be a whole number, got {value!r} of type {type(value).__name__}.")
        if value < least:
            raise ValueError(f"`{name}` must be {least} or more, got {value}.")
        return int(value)

    return check


def number_in(allowed: str, test: Callable[[float], bool]) -> Check:
    """A check that a value is a finite number in a range.

    Args:
        allowed: The range in words, such as `"0 or more"`.
        test: Whether a number is in it.
    """

    def check(name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"`{name}` must be a number, got {value!r} of type {type(value).__name__}.")
        try:
            number = value if isinstance(value, int) and math.isfinite(value) else float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or not test(number):
            raise ValueError(f"`{name}` must be {allowed}, got {value}.")
        return number

    return check
