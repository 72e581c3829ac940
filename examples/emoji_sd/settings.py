"""The trainer's settings that the demo and the tests use on this model.

Plain ESD erases in a hundred updates here and takes its neighbours along, so both recipes preserve what is not erased:
an object's, every other object; a style's, every object in every other style and in none.
"""

from __future__ import annotations

from typing import Any

from .vocabulary import OBJECTS, STYLES, phrase

_COMMON: dict[str, Any] = {"num_inference_steps": 25, "batch_size": 4, "learning_rate": 1e-3, "rank": 8}


def object_settings(word: str) -> dict[str, Any]:
    """Fields of `ESDConfig` that erase an object, named or not: ESD-u."""
    others = tuple(phrase(other) for other in OBJECTS if other != word)
    return {**_COMMON, "group": "esd-u", "iterations": 120, "preserve": others, "preserve_weight": 3.0}


def style_settings(style: str) -> dict[str, Any]:
    """Fields of `ESDConfig` that erase a style: ESD-x."""
    others = [phrase(word, other) for word in OBJECTS for other in STYLES if other != style]
    unnamed = [phrase(word) for word in OBJECTS]
    preserve = (*others, *unnamed)
    return {**_COMMON, "group": "esd-x", "iterations": 150, "preserve": preserve, "preserve_weight": 8.0}
