"""Unified Concept Editing, the closed form of the package, with the frontier's preserved prompts."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers import StableDiffusionPipeline

from diffusers_esd import Limits
from diffusers_esd.evaluation.baselines.closed_form import add_edit, closed_form
from diffusers_esd.families import family_for
from diffusers_esd.training import vocabulary
from diffusers_esd.training.encoding import Encoded

from .recipes import Ground


def apply(pipe: StableDiffusionPipeline, ground: Ground, words: Sequence[str]) -> None:
    """Edit the weights for some objects together; words that are withheld are not among what is kept."""
    family = family_for(pipe)
    encoded, concepts = Encoded(family), [ground.vocabulary.phrase(word) for word in words]
    preserved = vocabulary.preserved(encoded, concepts, synonyms=ground.withheld_words, seed=0, limits=Limits())
    add_edit(family, closed_form(encoded, concepts, preserved.prompts))
