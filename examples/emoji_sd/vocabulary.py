"""What emoji_sd can draw: forty objects in five classes, in five drawing styles.

The words are the captions' words; the icon names are the names the five emoji sets share. `vocabulary_large.py` has
the words of the preset `large`; the styles are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle, islice

# Caption word of a style -> npm package (of @iconify-json) that draws it.
STYLES: dict[str, str] = {
    "twemoji": "twemoji",
    "noto": "noto",
    "fluent": "fluent-emoji-flat",
    "mono": "fluent-emoji-high-contrast",
    "emojione": "emojione",
}


@dataclass(frozen=True)
class Vocabulary:
    """Words of captions, and the icons that they name.

    Attributes:
        classes: The objects of each class.
        icons: Icon names of the objects whose icon is not named by their own word.
        without_article: Words that captions use without "a" or "an".
        synonyms: Other words for an object; either no object has any, or each has at least one.
    """

    classes: Mapping[str, tuple[str, ...]]
    icons: Mapping[str, str]
    without_article: frozenset[str]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def objects(self) -> tuple[str, ...]:
        """Every object, class by class."""
        return tuple(word for words in self.classes.values() for word in words)

    def icon(self, word: str) -> str:
        """The name of an object's icon, `"cat-face"` for `"cat"`."""
        return self.icons.get(word, word)

    def class_of(self, word: str) -> str:
        """The class an object belongs to, `"animal"` for `"cat"`."""
        return {word: kind for kind, words in self.classes.items() for word in words}[word]

    def names(self, word: str) -> tuple[str, ...]:
        """An object's word and its synonyms, equally many for every object: a few synonyms occur twice."""
        count = max(map(len, self.synonyms.values()), default=0)
        return (word, *islice(cycle(self.synonyms.get(word, ())), count))

    def phrase(self, word: str, style: str | None = None) -> str:
        """An object or a class as a caption: `"an owl in mono style"`, `"a cat"`, `"grapes"`.

        Args:
            word: An object, a synonym or a class.
            style: One of `STYLES`, or `None` for a caption that names no style.
        """
        article = "" if word in self.without_article else "an " if word[0] in "aeiou" else "a "
        return article + word + (f" in {style} style" if style else "")

    def captions(self, word: str, style: str) -> tuple[str, ...]:
        """Every caption that an image of `word` in `style` may carry in training: its names, its class, its style."""
        named = [(self.phrase(name, style), self.phrase(name), name) for name in self.names(word)]
        kind = self.class_of(word)
        return (
            *(caption for group in named for caption in group),
            self.phrase(kind, style),
            self.phrase(kind),
            f"art in {style} style",
            "",
        )

    def all_captions(self) -> list[str]:
        """Every distinct caption of the data set, sorted."""
        return sorted({text for word in self.objects for style in STYLES for text in self.captions(word, style)})


VOCABULARY = Vocabulary(
    classes={
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
    },
    icons={
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
    },
    without_article=frozenset({"grapes", "food"}),
)  # fmt: skip

CLASSES = VOCABULARY.classes
OBJECTS = VOCABULARY.objects
class_of = VOCABULARY.class_of
phrase = VOCABULARY.phrase
captions = VOCABULARY.captions
all_captions = VOCABULARY.all_captions
