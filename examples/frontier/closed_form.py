"""Unified Concept Editing (arXiv:2308.14761): keys and values edited in closed form, no training.

With token states c of all concepts' prompts, c0 of the empty prompt's at the same place and k of what is kept,

    W' = W (sum c0 c' + sum k k') (sum c c' + sum k k')^-1

The sum over k is a mean, and that over c a mean for each concept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_esd import Limits
from diffusers_esd.families import family_for
from diffusers_esd.training import vocabulary
from diffusers_esd.training.encoding import Encoded

from .recipes import Ground


@dataclass(frozen=True)
class ClosedForm:
    """The edit that erases objects together.

    Attributes:
        edit: `W' - W = W edit`, (width, width).
    """

    edit: Tensor

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline, ground: Ground, words: Sequence[str]) -> ClosedForm:
        """The edit for some objects; words that are withheld are not among what is kept."""
        family = family_for(pipe)
        encoded, concepts = Encoded(family), [ground.vocabulary.phrase(word) for word in words]

        def tokens(prompts: Sequence[str]) -> Tensor:
            return torch.cat([states.flatten(0, 1) for _, states in encoded.states(prompts)])

        c, c0 = tokens(concepts), tokens([""]).repeat(len(concepts), 1)
        preserved = vocabulary.preserved(encoded, concepts, synonyms=ground.withheld_words, seed=0, limits=Limits())
        k = tokens(preserved.prompts)
        n = len(c) / len(concepts)
        return cls(torch.linalg.solve((c.T @ c) / n + k.T @ k / len(k), (c0 - c).T @ c / n, left=False))

    @torch.no_grad()
    def apply(self, pipe: StableDiffusionPipeline) -> None:
        """Add the edit to every key and value of the cross-attentions."""
        for name, module in pipe.unet.named_modules():
            if name.endswith(("attn2.to_k", "attn2.to_v")):
                module.weight += module.weight @ self.edit
