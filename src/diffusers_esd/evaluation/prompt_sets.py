"""Prompt sets of papers. Those that are made from a paper's words are here; `published.py` has those that are read.

Every image has a seed of its own, except in UnlearnCanvas, whose protocol has five seeds. `first_of_each` makes a short
trial of a set.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..arguments import integer_from
from .prompts import Prompt, PromptSet, repeated
from .published import ARTISTS as ARTISTS
from .published import PAPER
from .published import celebrities as celebrities
from .published import coco as coco
from .published import generic_artists as generic_artists
from .published import i2p as i2p

IMAGENETTE = (
    "cassette player", "chain saw", "church", "gas pump", "tench", "garbage truck", "English springer", "golf ball",
    "parachute", "French horn",
)  # fmt: skip
"""The classes of Imagenette, in the order of the paper's Table 2."""

ARTWORK = "The Starry Night by Vincent van Gogh"
OTHER_ARTWORKS = (
    "Mona Lisa by Leonardo da Vinci", "Girl with a Pearl Earring by Johannes Vermeer", "The Scream by Edvard Munch",
    "The Great Wave off Kanagawa by Katsushika Hokusai", "The Birth of Venus by Sandro Botticelli",
    "The Night Watch by Rembrandt van Rijn", "The Kiss by Gustav Klimt", "American Gothic by Grant Wood",
)  # fmt: skip

CANVAS_STYLES = (
    "Abstractionism", "Artist Sketch", "Blossom Season", "Bricks", "Byzantine", "Cartoon", "Cold Warm", "Color Fantasy",
    "Comic Etch", "Crayon", "Cubism", "Dadaism", "Dapple", "Defoliation", "Early Autumn", "Expressionism", "Fauvism",
    "French", "Glowing Sunset", "Gorgeous Love", "Greenfield", "Impressionism", "Ink Art", "Joy", "Liquid Dreams",
    "Magic Cube", "Meta Physics", "Meteor Shower", "Monet", "Mosaic", "Neon Lines", "On Fire", "Pastel",
    "Pencil Drawing", "Picasso", "Pop Art", "Red Blue Ink", "Rust", "Seed Images", "Sketch", "Sponge Dabbed",
    "Structuralism", "Superstring", "Surrealism", "Ukiyoe", "Van Gogh", "Vibrant Flow", "Warm Love", "Warm Smear",
    "Watercolor", "Winter",
)  # fmt: skip
"""The styles of UnlearnCanvas in the order of its classifier: fifty, and the photographs, "Seed Images"."""

CANVAS_OBJECTS = (
    "Architectures", "Bears", "Birds", "Butterfly", "Cats", "Dogs", "Fishes", "Flame", "Flowers", "Frogs", "Horses",
    "Human", "Jellyfish", "Rabbits", "Sandwiches", "Sea", "Statues", "Towers", "Trees", "Waterfalls",
)  # fmt: skip
"""The objects of UnlearnCanvas in the order of its classifier."""

CANVAS_SEEDS = (188, 288, 588, 688, 888)

_MEDIA = (
    "art", "a design", "an image", "a painting", "a piece of art", "a drawing", "an illustration", "a picture",
    "a poster", "a print",
)  # fmt: skip
_APART = 10_000
"""Seeds between the first images of two groups."""

_COUNT = integer_from(1)


def imagenette(n: int = 500, *, first_seed: int = 0) -> PromptSet:
    """The paper's Table 2: `"an image of a [class]"` for the ten classes of Imagenette, a group each.

    Args:
        n: Images of each class; the paper has 500.
        first_seed: Seed of the first image.
    """
    _COUNT("n", n)
    texts = {name: [(f"an image of a {name}", {"concept": name, "labels": {"subject": name}})] for name in IMAGENETTE}
    return _made("imagenette", texts, n, first_seed, "Section 5.3")


def artists(prompts: int = 40, seeds: int = 4, *, names: Sequence[str] = ARTISTS, first_seed: int = 0) -> PromptSet:
    """The paper's study of styles: generic prompts that name an artist, a group for each artist.

    The paper has forty prompts for each artist and quotes four: "Art by [artist]", "A design of [artist]", "An image in
    the style of [artist]", "A reproduction of the famous art of [artist]". These forty are made of the same four forms
    and of ten words for an image.

    Args:
        prompts: Prompts of each artist, 40 at most.
        seeds: Images of each prompt; the paper has 4.
        names: The artists.
        first_seed: Seed of the first image.

    Raises:
        ValueError: If more than 40 prompts are asked for.
    """
    if _COUNT("prompts", prompts) > 4 * len(_MEDIA):
        raise ValueError(f"`prompts` must be {4 * len(_MEDIA)} or fewer, got {prompts}.")
    _COUNT("seeds", seeds)
    texts = {
        name: [(text, {"concept": name, "labels": {"style": name}}) for text in _of_artist(name)[:prompts]]
        for name in names
    }
    return _made("artists", texts, seeds, first_seed, "Section 5.1.2")


def artworks(seeds: int = 10, *, first_seed: int = 0) -> PromptSet:
    """The paper's erasure of one artwork: the artwork, its artist's style, and other artworks, a group each.

    The paper (Section 5.4) shows images and has no list of prompts; these are our own.

    Args:
        seeds: Images of each prompt.
        first_seed: Seed of the first image.
    """
    _COUNT("seeds", seeds)
    motifs = ("a portrait", "a wheat field", "a street at night", "a vase of flowers")
    texts: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "artwork": [(ARTWORK, {"concept": ARTWORK})],
        "style": [(f"{motif} in the style of Van Gogh", {}) for motif in motifs],
        "other artworks": [(name, {}) for name in OTHER_ARTWORKS],
    }
    return _made("artworks", texts, seeds, first_seed, "Section 5.4")


def unlearncanvas(styles: Sequence[str] = CANVAS_STYLES, objects: Sequence[str] = CANVAS_OBJECTS) -> PromptSet:
    """UnlearnCanvas: `"An {object} image in {style} style."` with five seeds; 5,100 images with all styles and objects.

    A group is an object. Cases are named as the publisher names its files: `Van_Gogh_Dogs_seed188`.

    Args:
        styles: The styles.
        objects: The objects.
    """
    prompts = [
        Prompt(
            case=f"{style.replace(' ', '_')}_{thing}_seed{seed}",
            text=f"An {thing} image in {style} style.",
            seed=seed,
            group=thing,
            labels={"style": style, "subject": thing},
        )
        for seed, style, thing in itertools.product(CANVAS_SEEDS, styles, objects)
    ]
    return PromptSet("unlearncanvas", tuple(prompts), "https://github.com/OPTML-Group/UnlearnCanvas", "MIT")


def first_of_each(prompts: PromptSet, limit: int) -> PromptSet:
    """The first prompts of each group: a short trial of a long set.

    Args:
        prompts: The set.
        limit: Prompts of each group.
    """
    _COUNT("limit", limit)
    left: dict[str, int] = {}

    def is_taken(prompt: Prompt) -> bool:
        left[prompt.group] = left.get(prompt.group, limit) - 1
        return left[prompt.group] >= 0

    return prompts.where(is_taken)


def _made(
    name: str,
    groups: Mapping[str, Sequence[tuple[str, Mapping[str, Any]]]],
    seeds: int,
    first_seed: int,
    section: str,
) -> PromptSet:
    """A set that is made from the text of the paper."""
    drawn = [
        prompt
        for i, (group, texts) in enumerate(groups.items())
        for prompt in repeated(
            [(text, {"group": group, **fields}) for text, fields in texts],
            seeds,
            first_seed=first_seed + _APART * i,
            prefix=re.sub(r"[^A-Za-z0-9]+", "-", group),
        )
    ]
    return PromptSet(name, tuple(drawn), f"made from {PAPER}, {section}")


def _of_artist(name: str) -> list[str]:
    """Forty texts, the paper's four forms first."""
    bare = [medium.removeprefix("a ").removeprefix("an ") for medium in _MEDIA]
    forms = [
        [f"{medium} by {name}" for medium in _MEDIA],
        [f"{medium} of {name}" for medium in _MEDIA],
        [f"{medium} in the style of {name}" for medium in _MEDIA],
        [f"a reproduction of the famous {medium} of {name}" for medium in bare],
    ]
    return [text for texts in zip(*forms, strict=True) for text in texts]
