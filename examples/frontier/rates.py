"""Rates of a row, as shares of the base model's, with bootstrap intervals.

An interval is the 2.5 and the 97.5 percentile of 2,000 resamples of the objects that the images name (of the erased
objects, for single erasures): images of one object are not independent. Recipe and base model are resampled together.
Several seeds of training are pooled, so an interval says nothing about the spread among them. Of fewer than eight
objects, classes or styles there is no interval.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import isnan

import numpy as np
from emoji_sd import STYLES
from emoji_sd.vocabulary import Vocabulary

from .recipes import CATEGORIES, Category, Words
from .work import Frontier, result_file

_RESAMPLES, _LEAST = 2000, 8

Found = tuple[str, str, str, str]
"""Of one image: the object and the style that its prompt names, and those that the judge sees."""
Hit = Callable[[Found, Words], bool]
"""Whether something is found in an image."""
Counts = dict[str, tuple[int, int]]
"""By object: in how many images something was found, of how many."""


@dataclass(frozen=True)
class Interval:
    """A rate and its interval of 95 %, which is NaN if there are too few objects."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if isnan(self.low) else f" ({self.low:.2f}-{self.high:.2f})")


@dataclass(frozen=True)
class Row:
    """What a recipe does with n objects.

    Attributes:
        erased: Rate of the erased objects.
        worst: The largest rate of one erased object.
        listed: Rate of the other objects whose words were preserved, as a share of the base model's.
        withheld: The same for those whose words no list had.
        styles: Rate of the styles of the other objects, as a share of the base model's.
        unnamed: Share of images whose prompt names the class alone ("an animal") that show an erased object; for a
            style, of images whose prompt names no style.
        unnamed_of_base: The same, as a share of the base model's.
        siblings: Share of the same images that show another object of the class, as a share of the base model's.
        images: Number of images.
        seeds: Number of seeds of training.
    """

    erased: Interval
    worst: float
    listed: Interval
    withheld: Interval
    styles: Interval
    unnamed: Interval
    unnamed_of_base: Interval
    siblings: Interval
    images: int
    seeds: int


def row(frontier: Frontier, name: str, seeds: Sequence[int], groups: Sequence[Words]) -> Row | None:
    """The row of a recipe; `None` if it was not judged.

    Args:
        frontier: What was measured.
        name: The recipe.
        seeds: Of training; those that were judged count.
        groups: What is erased together. The row is the mean of all groups.
    """

    def is_judged(name: str, seed: int) -> bool:
        return all(result_file(frontier, name, seed, w, c).is_file() for w, c in product(groups, CATEGORIES))

    seeds = [seed for seed in seeds if is_judged(name, seed)]
    if not seeds or not is_judged("base", 0):
        return None

    def counts(categories: Sequence[Category], hit: Hit, *, base: bool = False) -> Counts:
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for seed, words, category in product([0] if base else seeds, groups, categories):
            for found in _read(frontier, "base" if base else name, seed, words, category):
                # The images of one of several groups are resampled together.
                cluster = sums[words[0] if len(groups) > 1 else f"{category} {found[0]}"]
                cluster[0] += hit(found, words)
                cluster[1] += 1
        return {key: (hits, total) for key, (hits, total) in sums.items()}

    def share(hit: Hit, *categories: Category) -> Interval:
        return _interval(counts(categories, hit), counts(categories, hit, base=True))

    gone = counts(["erased"], _is_as_asked)
    return Row(
        erased=_interval(gone),
        worst=max(hits / n for hits, n in gone.values()),
        listed=share(_is_object, "listed"),
        withheld=share(_is_object, "withheld"),
        styles=share(_is_style, "listed", "withheld"),
        unnamed=_interval(counts(["unnamed"], _is_erased)),
        unnamed_of_base=share(_is_erased, "unnamed"),
        siblings=share(partial(_is_sibling, frontier.ground.vocabulary), "unnamed"),
        images=sum(total for _, total in counts(CATEGORIES, _is_object).values()),
        seeds=len(seeds),
    )


def _is_object(found: Found, words: Words) -> bool:
    return found[0] == found[2]


def _is_style(found: Found, words: Words) -> bool:
    return found[1] == found[3]


def _is_as_asked(found: Found, words: Words) -> bool:
    return _is_style(found, words) if words[0] in STYLES else _is_object(found, words)


def _is_erased(found: Found, words: Words) -> bool:
    return found[3 if words[0] in STYLES else 2] in words


def _is_sibling(vocabulary: Vocabulary, found: Found, words: Words) -> bool:
    if words[0] in STYLES:
        return found[3] not in words
    return vocabulary.class_of(found[2]) == found[0] and found[2] not in words


def _read(frontier: Frontier, name: str, seed: int, words: Words, category: Category) -> list[Found]:
    return [tuple(found) for found in json.loads(result_file(frontier, name, seed, words, category).read_text())]


def _interval(counts: Counts, base: Counts | None = None) -> Interval:
    """Of the rate, or of its share of the base model's."""
    keys = sorted(counts)
    of_recipe = np.array([counts[key] for key in keys], float)
    of_base = None if base is None else np.array([base[key] for key in keys], float)

    def rate(chosen: np.ndarray) -> np.ndarray:
        hits, totals = of_recipe[chosen].sum(-2).T
        if of_base is None:
            return hits / totals
        base_hits, base_totals = of_base[chosen].sum(-2).T
        return np.divide(hits * base_totals, totals * base_hits, where=base_hits > 0, out=np.full_like(hits, np.nan))

    value = float(rate(np.arange(len(keys))[None])[0])
    if len(keys) < _LEAST:
        return Interval(value, np.nan, np.nan)
    resamples = np.random.default_rng(0).integers(len(keys), size=(_RESAMPLES, len(keys)))
    low, high = np.nanpercentile(rate(resamples), [2.5, 97.5])
    return Interval(value, float(low), float(high))
