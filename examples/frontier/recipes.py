"""What is compared: objects, recipes, and the images of a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from emoji_sd import CLASSES, OBJECTS, STYLES, class_of, phrase, plain, settings

from diffusers_esd.config import Group

ERASED = (
    "dog", "pizza", "rocket", "guitar", "church", "frog", "apple", "bus",
    "penguin", "banana", "tulip", "clock", "rabbit", "tree", "umbrella", "train",
)  # fmt: skip
"""The first n of them are erased."""
WITHHELD = ("cat", "owl", "panda", "strawberry", "doughnut", "car", "sailboat", "cactus", "key", "lamp")
"""A quarter of the objects: no list of preserved prompts has their words."""
LISTED = tuple(word for word in OBJECTS if word not in (*ERASED, *WITHHELD))
"""The objects that are never erased, and preserved by name."""

Words = tuple[str, ...]
"""What is erased together: objects, or one style."""
ROWS: dict[str, list[Words]] = {
    "1": [(word,) for word in ERASED],
    "a style": [(style,) for style in STYLES],
    **{str(n): [ERASED[:n]] for n in (4, 8, 16)},
}
"""The rows of the table: all that is erased in turn, each judged by itself."""

Kind = Literal["base", "stack", "calibrated", "refined", "joint", "closed form"]
Category = Literal["erased", "listed", "withheld", "unnamed"]
CATEGORIES: tuple[Category, ...] = ("erased", "listed", "withheld", "unnamed")


@dataclass(frozen=True)
class Recipe:
    """One way to erase several objects.

    Attributes:
        kind: `"stack"`: one erasure for each object, all at scale 1. `"calibrated"`: the same erasures at the scales of
            `calibrate`. `"refined"`: their sum, trained on. `"joint"`: one adapter for all objects. `"closed form"`:
            UCE.
        of: Name of the recipe whose erasures are used; `""` means its own.
        fields: Fields of `ESDConfig` of an erasure.
    """

    kind: Kind
    of: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


def _recipes() -> dict[str, Recipe]:
    found = {"base": Recipe("base"), "UCE, closed form": Recipe("closed form")}
    groups: tuple[Group, ...] = ("esd-x", "esd-u")
    for group in groups:
        found |= {
            f"{group}, paper": Recipe("stack", fields=plain(group)),
            # In a stack a small learning rate keeps more than a large one.
            f"{group}, default": Recipe("stack", fields={**settings(group), "learning_rate": 1e-3}),
            f"{group}, anchor": Recipe("stack", fields=settings(group, anchor=True)),
            f"{group}, calibrated": Recipe("calibrated", of=f"{group}, anchor"),
            f"{group}, refined": Recipe("refined", of=f"{group}, anchor"),
            f"{group}, one adapter": Recipe("joint", fields={**settings(group, anchor=True), "rank": 16}),
        }
    return found


RECIPES = _recipes()

Picture = tuple[str, str, str]
"""A prompt, and the object (or class) and the style that it names; `""` if it does not."""


def pictures(category: Category, words: Words) -> list[Picture]:
    """The images of a category: 400 in all for several objects, about 100 for one or a style.

    Args:
        category: `"erased"`: what is erased. `"listed"` and `"withheld"`: other objects. `"unnamed"`: the classes of
            the objects; for a style, objects without a style.
        words: What is erased.
    """
    several, style = len(words) > 1, words[0] in STYLES
    if category == "unnamed":
        if style:
            return [(phrase(word), word, "") for word in OBJECTS]
        classes = list(CLASSES) if several else [class_of(words[0])]
        return [(phrase(name), name, "") for name in classes for _ in range(16 if several else 24)]
    if category == "erased":
        objects, styles = (OBJECTS, list(words)) if style else (words, list(STYLES))
        pairs = [(word, name) for word in objects for name in styles]
        pairs *= 1 if style else max(1, 80 // len(pairs)) if several else 2
    else:
        others = [word for word in (LISTED if category == "listed" else WITHHELD) if word not in words]
        styles = [name for name in STYLES if name not in words]
        n = len(styles)
        pairs = [(word, styles[(i + 2 * k) % n]) for i, word in enumerate(others) for k in range(n if several else 2)]
        pairs *= 2 if several else 1
    return [(phrase(word, name), word, name) for word, name in pairs]


STEPS = 16
"""Denoising steps of an image."""
SEEDS: dict[Category, int] = {"erased": 700_000, "listed": 710_000, "withheld": 720_000, "unnamed": 730_000}
"""Of the first image of each category; no training uses them."""
