"""Scales: how strongly an adapter acts. 1 is the erasure as trained, 0 the base model."""

from __future__ import annotations

import math
import warnings
from numbers import Real


def check_scale(name: str, value: object) -> float:
    """A scale as Python's own number.

    Args:
        name: Of the caller's argument.
        value: What came in it.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not finite.

    Warns:
        UserWarning: If it is negative.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"`{name}` must be a number, got {value!r} of type {type(value).__name__}.")
    try:
        scale = float(value)
    except OverflowError:
        scale = math.inf
    if not math.isfinite(scale):
        raise ValueError(f"`{name}` must be finite, got {value}; 1 is the erasure as trained, 0 the base model.")
    if scale < 0:
        warnings.warn(
            f"`{name}` is {scale:g}: a negative scale turns an erasure into its inverse, which amplifies the concept.",
            stacklevel=3,
        )
    return scale
