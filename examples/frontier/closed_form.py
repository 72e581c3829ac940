"""Unified Concept Editing (arXiv:2308.14761): keys and values edited in closed form, no training.

With token states c of the concept's prompt, c0 of the empty prompt's at the same place and k of what is kept,

    W' = W (sum c0 c' + sum k k') (sum c c' + sum k k')^-1

Sums are means here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusionPipeline
from emoji_sd import load, phrase
from torch import Tensor

from diffusers_esd import Limits
from diffusers_esd.families import family_for
from diffusers_esd.training import vocabulary
from diffusers_esd.training.encoding import Encoded


@dataclass(frozen=True)
class ClosedForm:
    """The edit that erases one object.

    Attributes:
        edit: `W' - W = W edit`, (width, width).
    """

    edit: Tensor

    @classmethod
    def of(cls, word: str, withheld: Sequence[str]) -> ClosedForm:
        """The edit for an object; words that are withheld are not among what is kept."""
        family = family_for(load())
        encoded, concept = Encoded(family), [phrase(word)]

        def tokens(prompts: Sequence[str]) -> Tensor:
            return torch.cat([states.flatten(0, 1) for _, states in encoded.states(prompts)])

        c, c0 = tokens(concept), tokens([""])
        preserved = vocabulary.preserved(family, concept, synonyms=withheld, seed=0, limits=Limits())
        k = tokens(preserved.prompts)
        cc, kept = c.T @ c / len(c), k.T @ k / len(k)
        return cls(torch.linalg.solve(cc + kept, (c0 - c).T @ c / len(c), left=False))

    @torch.no_grad()
    def apply(self, pipe: StableDiffusionPipeline) -> None:
        """Add the edit, of the original weights, to every key and value of the cross-attentions."""
        for name, module in pipe.unet.named_modules():
            if name.endswith(("attn2.to_k", "attn2.to_v")):
                original = module.__dict__.setdefault("original_weight", module.weight.clone())
                module.weight += original @ self.edit
