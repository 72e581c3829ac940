"""`ConceptInversion` (Pham et al. 2023, arXiv:2308.01508): learn to say the concept again, through the erased weights.

The denoiser and the text encoders are fixed. From the base model's images of the concept the attack learns

    mode="token"          the embedding of one token in a prompt, as in the paper
    mode="prompt_embeds"  the whole conditioning: every token state, so a stronger attack

If images show the concept again, the weights still draw it. One token that finds nothing is no proof: the second mode
can draw what no token can.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from PIL import ImageOps
from PIL.Image import Image

from ...families import Family, family_for
from ..judges.base import Picture
from ..methods import Draw
from ..prompts import Prompt, repeated
from .base import Attack
from .learning import Budget, check_autoencoder, latents_of, learn
from .soft import Soft, SoftPrompt, SoftToken, pipeline_arguments

Mode = Literal["token", "prompt_embeds"]

BUDGETS: dict[Mode, Budget] = {
    "token": Budget(steps=120, learning_rate=5e-2, batch_size=8),
    "prompt_embeds": Budget(steps=120, learning_rate=2e-2, batch_size=8),
}
"""How much each mode learns if nothing else is said."""


@dataclass(frozen=True, kw_only=True)
class ConceptInversion(Attack):
    """Concept Inversion. `concept_inversion` makes one for a concept.

    Attributes:
        name: What it is called in a report; the group of its prompts.
        prompts: What is drawn. In mode `"token"`, `start` stands in each prompt.
        targets: The cases whose images, drawn by the base model, it learns from; at least one.
        mode: `"token"` or `"prompt_embeds"`.
        start: In mode `"token"`, the word, one token, whose place the learned token takes; else the prompt whose
            conditioning is the first.
        budget: How much it learns.
        inverted: Learn from the negatives of the images, and judge the negatives of what is drawn: a control.
    """

    name: str
    prompts: tuple[Prompt, ...]
    targets: tuple[str, ...]
    mode: Mode
    start: str
    budget: Budget
    inverted: bool = False

    def __post_init__(self) -> None:
        if not self.targets:
            raise ValueError("`targets` is empty; Concept Inversion needs cases of the concept to learn from.")
        if self.mode not in BUDGETS:
            raise ValueError(f"`mode` must be one of {', '.join(map(repr, BUDGETS))}, got {self.mode!r}.")
        without = [prompt.text for prompt in self.prompts if self.start not in prompt.text.split()]
        if self.mode == "token" and without:
            raise ValueError(f"{self.start!r}, whose place the token takes, is not in the prompt {without[0]!r}.")

    def record(self) -> dict[str, Any]:
        """Mode, start, budget, and the targets."""
        facts = {"attack": "concept inversion", "mode": self.mode, "start": self.start, "inverted": self.inverted}
        return {**facts, **asdict(self.budget), "targets": list(self.targets)}

    def check(self, pipe: DiffusionPipeline) -> None:
        """Refuse a pipeline with another autoencoder, or one that does not draw from token states alone.

        Raises:
            TypeError: If it is one of these, or of an unknown kind.
        """
        family = family_for(pipe)
        check_autoencoder(family)
        pipeline_arguments(family, family.encode([self.start]))

    def learn(self, pipe: DiffusionPipeline, targets: Sequence[Picture]) -> Soft:
        """What is learned from the images.

        Args:
            pipe: The pipeline, with the method active on it.
            targets: The base model's images of `self.targets`.

        Raises:
            TypeError: If the pipeline or its autoencoder is of an unknown kind.
            ValueError: If there is no image, or the family's text encoder cannot learn a token.
        """
        family = family_for(pipe)
        soft: Soft = (SoftToken if self.mode == "token" else SoftPrompt)(family, self.start)
        texts = list(dict.fromkeys(prompt.text for prompt in self.prompts))
        images = [self._turned(picture.image) for picture in targets]
        learn(family, soft, latents_of(family, images), texts, self.budget)
        return soft

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, draw: Draw, targets: Sequence[Picture]) -> Iterator[Draw]:
        """Learn, and yield the function that draws with what was learned."""
        family, soft = family_for(pipe), self.learn(pipe, targets)

        def attacked(prompts: Sequence[Prompt], **more: Any) -> list[Image]:
            images = draw(prompts, **more, **_arguments(family, soft, prompts))
            return [self._turned(image) for image in images]

        yield attacked

    def _turned(self, image: Image) -> Image:
        return ImageOps.invert(image.convert("RGB")) if self.inverted else image


@torch.no_grad()
def _arguments(family: Family, soft: Soft, prompts: Sequence[Prompt]) -> dict[str, Any]:
    return pipeline_arguments(family, soft.rows([prompt.text for prompt in prompts]))


def concept_inversion(
    concept: str,
    targets: Sequence[str],
    *,
    mode: Mode = "prompt_embeds",
    labels: Mapping[str, str],
    images: int = 40,
    first_seed: int = 900_000,
    start: str | None = None,
    template: str = "a {}",
    budget: Budget | None = None,
) -> ConceptInversion:
    """Concept Inversion of one concept.

    Args:
        concept: The erased concept.
        targets: Cases of the concept whose images, drawn by the base model, it learns from; 10 to 50 are usual.
        mode: `"token"` learns one token's embedding, `"prompt_embeds"` the whole conditioning.
        labels: What a judge looks for, by question: `{"subject": "cat"}`.
        images: How many are drawn.
        first_seed: Seed of the first.
        start: See `ConceptInversion`; `None` means `"art"` for a token, as published, and the concept's own prompt for
            a conditioning.
        template: The prompt in which a token stands, at `{}`.
        budget: How much it learns; `None` means `BUDGETS[mode]`.
    """
    start = ("art" if mode == "token" else concept) if start is None else start
    text = template.format(start) if mode == "token" else start
    name = f"concept inversion, {'one token' if mode == 'token' else 'whole conditioning'}"
    fields = {"group": name, "concept": concept, "labels": dict(labels)}
    prefix = f"inversion-{mode.replace('_', '-')}-{_short(concept)}"
    prompts = tuple(repeated([(text, fields)], images, first_seed=first_seed, prefix=prefix))
    return ConceptInversion(
        name=name, prompts=prompts, targets=tuple(targets), mode=mode, start=start, budget=budget or BUDGETS[mode]
    )


def _short(concept: str) -> str:
    """A concept as a part of a case, with a digest where that leaves something out."""
    short = re.sub(r"[^A-Za-z0-9]+", "-", concept).strip("-")[:40]
    return (
        short
        if short == "-".join(concept.split())
        else f"{short}-{hashlib.sha256(concept.encode()).hexdigest()[:8]}".strip("-")
    )
