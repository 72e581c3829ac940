"""Which prompts are near a concept, and which name what it is without naming it.

Near are prompts of the text encoder's vocabulary: by text, the cosine of their token states; and by score, the mean
square of the differences of the denoiser's predictions (`training.anchors`). An erasure changes these first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from diffusers import DiffusionPipeline

from ..config import ESDConfig
from ..families import family_for
from ..limits import Limits
from ..training.anchors import distances
from ..training.encoding import Encoded
from ..training.vocabulary import generic, neighbours
from .spelling import key

_CANDIDATES = 24


@dataclass(frozen=True)
class Surroundings:
    """What is around a concept.

    Attributes:
        by_text: The nearest prompts in the text encoder, nearest first.
        by_score: The nearest in the denoiser's predictions, of those near by text; none is in `by_text`.
        unnamed: Prompts that can show the concept without its words: the nearest general prompt, and the empty one.
    """

    by_text: tuple[str, ...]
    by_score: tuple[str, ...]
    unnamed: tuple[str, ...]


def surroundings(
    pipe: DiffusionPipeline,
    concept: str,
    concepts: Collection[str],
    config: ESDConfig | None,
    n: int,
    allowed: Callable[[str], bool],
) -> Surroundings:
    """What is around a concept.

    Args:
        pipe: The pipeline, without the erasure.
        concept: The concept.
        concepts: All that are erased; none of them is a neighbour.
        config: The configuration of the erasure; `None` means the defaults.
        n: Number of prompts by text, and by score.
        allowed: Whether a prompt may be used: a judge must know it.
    """
    family, config, limits = family_for(pipe), config or ESDConfig(), Limits()
    encoded, named = Encoded(family), [*config.synonyms, *concepts]
    near = neighbours(encoded, [concept], limits.neighbours, synonyms=named, limits=limits)
    erased = {key(text) for text in named}
    near = [prompt for prompt in near if key(prompt) not in erased and allowed(prompt)][:_CANDIDATES]
    rest = near[n:]
    encoded.add(["", concept, *rest])
    apart, _ = distances(family, config, concept, rest, encoded, family.latent_shape(config.size))
    general = generic(encoded, [concept], named, limits)[:1]
    by_score = sorted(rest, key=lambda prompt: apart[prompt])[:n]
    return Surroundings(tuple(near[:n]), tuple(by_score), (*general, ""))
