"""What is compared: the model, objects, recipes, and the images of a row."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal

from emoji_sd import STYLES, plain, settings
from emoji_sd.preset import PRESETS, PresetName
from emoji_sd.vocabulary import Vocabulary

from diffusers_esd.config import Group

Words = tuple[str, ...]
"""What is erased together: objects, or one style."""


@dataclass(frozen=True)
class Ground:
    """A model, and which of its objects are erased.

    Attributes:
        preset: The model.
        erased: Objects; the first n of them are erased together.
        withheld: Objects whose words no list of preserved prompts has.
        sizes: How many are erased together.
    """

    preset: PresetName
    erased: Words
    withheld: Words
    sizes: tuple[int, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The words of the model."""
        return PRESETS[self.preset].vocabulary

    @property
    def listed(self) -> Words:
        """The objects that are never erased, and preserved by name."""
        return tuple(word for word in self.vocabulary.objects if word not in (*self.erased, *self.withheld))

    @property
    def withheld_words(self) -> Words:
        """The words of the withheld objects, synonyms among them."""
        return tuple(dict.fromkeys(name for word in self.withheld for name in self.vocabulary.names(word)))

    @property
    def rows(self) -> dict[str, list[Words]]:
        """The rows of the table: all that is erased in turn, each judged by itself."""
        return {
            "1": [(word,) for word in self.erased],
            "a style": [(style,) for style in STYLES],
            **{str(n): [self.erased[:n]] for n in self.sizes},
        }


def _turns(vocabulary: Vocabulary) -> Words:
    """Every object; the classes take turns."""
    objects = [word for turn in zip_longest(*vocabulary.classes.values()) for word in turn]
    return tuple(word for word in objects if word is not None)


GROUNDS: dict[str, Ground] = {
    "small": Ground(
        preset="small",
        erased=(
            "dog", "pizza", "rocket", "guitar", "church", "frog", "apple", "bus",
            "penguin", "banana", "tulip", "clock", "rabbit", "tree", "umbrella", "train",
        ),
        withheld=("cat", "owl", "panda", "strawberry", "doughnut", "car", "sailboat", "cactus", "key", "lamp"),
        sizes=(4, 8, 16),
    ),
    "large": Ground(
        preset="large",
        erased=_turns(PRESETS["large"].vocabulary)[:64],
        withheld=_turns(PRESETS["large"].vocabulary)[64:164],
        sizes=(16, 32, 64),
    ),
}  # fmt: skip
"""A quarter of the small model's objects are withheld, and half of the large one's."""

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


def pictures(ground: Ground, category: Category, words: Words) -> list[Picture]:
    """The images of a category: 400 in all for several objects, about 100 for one or a style.

    Args:
        ground: The model and its objects.
        category: `"erased"`: what is erased. `"listed"` and `"withheld"`: other objects. `"unnamed"`: the classes of
            the objects; for a style, objects without a style.
        words: What is erased.
    """
    vocabulary = ground.vocabulary
    several, style = len(words) > 1, words[0] in STYLES
    if category == "unnamed":
        if style:
            return [(vocabulary.phrase(word), word, "") for word in vocabulary.objects]
        classes = list(vocabulary.classes) if several else [vocabulary.class_of(words[0])]
        return [
            (vocabulary.phrase(name), name, "")
            for name in classes
            for _ in range(80 // len(classes) if several else 24)
        ]
    if category == "erased":
        objects, styles = (vocabulary.objects, list(words)) if style else (words, list(STYLES))
        pairs = [(word, name) for word in objects for name in styles]
        if several and len(pairs) > 80:
            pairs = _in_styles(objects, styles, 2)
        pairs *= 1 if style else max(1, 80 // len(pairs)) if several else 2
    else:
        others = [word for word in (ground.listed if category == "listed" else ground.withheld) if word not in words]
        styles = [name for name in STYLES if name not in words]
        each = min(len(styles), max(1, 140 // len(others))) if several else 2
        pairs = _in_styles(others, styles, each) * (2 if several and each == len(styles) else 1)
    return [(vocabulary.phrase(word, name), word, name) for word, name in pairs]


def _in_styles(words: Words | list[str], styles: list[str], each: int) -> list[tuple[str, str]]:
    """Each word in so many styles, every style equally often."""
    return [(word, styles[(i + 2 * k) % len(styles)]) for i, word in enumerate(words) for k in range(each)]


STEPS = 16
"""Denoising steps of an image."""
SEEDS: dict[Category, int] = {"erased": 700_000, "listed": 710_000, "withheld": 720_000, "unnamed": 730_000}
"""Of the first image of each category; no training uses them."""
