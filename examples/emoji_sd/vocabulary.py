"""What emoji_sd can draw: forty objects in five classes, in five drawing styles.

The words are the captions' words; the icon names are the names the five emoji sets share.
"""

from __future__ import annotations

CLASSES: dict[str, tuple[str, ...]] = {
    "animal": (
        "cat", "dog", "frog", "panda", "pig", "rabbit",
        "owl", "penguin", "turtle", "butterfly", "octopus", "fish",
    ),
    "food": (
        "pizza", "hamburger", "strawberry", "banana", "watermelon", "doughnut", "apple", "grapes",
    ),
    "vehicle": ("car", "bus", "rocket", "sailboat", "bicycle", "train"),
    "plant": ("cactus", "sunflower", "tulip", "tree", "mushroom"),
    "thing": ("house", "church", "umbrella", "guitar", "key", "lamp", "ball", "clock", "crown"),
}  # fmt: skip

OBJECTS: tuple[str, ...] = tuple(word for words in CLASSES.values() for word in words)

# Caption word of a style -> npm package (of @iconify-json) that draws it.
STYLES: dict[str, str] = {
    "twemoji": "twemoji",
    "noto": "noto",
    "fluent": "fluent-emoji-flat",
    "mono": "fluent-emoji-high-contrast",
    "emojione": "emojione",
}

# Objects whose icon is not named by their own word.
ICON_NAMES: dict[str, str] = {
    "cat": "cat-face",
    "dog": "dog-face",
    "pig": "pig-face",
    "rabbit": "rabbit-face",
    "fish": "tropical-fish",
    "apple": "red-apple",
    "car": "automobile",
    "train": "locomotive",
    "tree": "evergreen-tree",
    "lamp": "light-bulb",
    "ball": "soccer-ball",
    "clock": "alarm-clock",
}

_CLASS_OF: dict[str, str] = {word: name for name, words in CLASSES.items() for word in words}


def class_of(word: str) -> str:
    """The class an object belongs to, `"animal"` for `"cat"`."""
    return _CLASS_OF[word]


def phrase(word: str, style: str | None = None) -> str:
    """An object or a class as a caption: `"an owl in mono style"`, `"a cat"`, `"grapes"`.

    Args:
        word: An object or a class.
        style: One of `STYLES`, or `None` for a caption that names no style.
    """
    article = "" if word in ("grapes", "food") else "an " if word[0] in "aeiou" else "a "
    return article + word + (f" in {style} style" if style else "")


def captions(word: str, style: str) -> tuple[str, ...]:
    """Every caption that an image of `word` in `style` may carry in training, most specific first."""
    kind = class_of(word)
    return (
        phrase(word, style),
        phrase(word),
        word,
        phrase(kind, style),
        phrase(kind),
        f"art in {style} style",
        "",
    )


def all_captions() -> list[str]:
    """Every distinct caption of the data set, sorted."""
    return sorted({text for word in OBJECTS for style in STYLES for text in captions(word, style)})
