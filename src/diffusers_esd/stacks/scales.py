"""One way to name several erasures and their scales: a single source, a list, or a mapping to scales."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..arguments import check_scale


def with_scales(erasures: Any) -> list[tuple[Any, float]]:
    """Sources and their scales.

    Args:
        erasures: One source, a list of sources, or a mapping of sources to scales. Without a mapping the scale is 1.

    Raises:
        TypeError: If a scale is not a number.
        ValueError: If there is no source, or a scale is not finite.

    Warns:
        UserWarning: If a scale is negative.
    """
    if isinstance(erasures, Mapping):
        pairs = list(erasures.items())
    else:
        is_single = isinstance(erasures, str | os.PathLike) or not isinstance(erasures, Iterable)
        pairs = [(source, 1.0) for source in ([erasures] if is_single else erasures)]
    if not pairs:
        raise ValueError("`erasures` is empty; give at least one erasure.")
    return [(source, check_scale("scale", scale)) for source, scale in pairs]
