"""Rates: how often the judge recognises in an image what its prompt names.

The demo, the tests and the benchmarks use these rates: of the erased concept, of the other objects and of the styles.
The base model is measured on the same prompts and seeds. Chance is 1 in 40 for an object (1 in 200 with the preset
`large`) and 1 in 5 for a style.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from .judge import Judge, Probabilities
from .vocabulary import OBJECTS, STYLES

Pair = tuple[str, str]
"""An object and a style; one image is generated for each pair."""

ALL_PAIRS: tuple[Pair, ...] = tuple(product(OBJECTS, STYLES))
# Judged images have their own seeds. No training uses them, and every comparison uses the same.
HELD_OUT_SEED = 100_000


def some_pairs(styles_each: int, objects: Sequence[str] = OBJECTS) -> tuple[Pair, ...]:
    """Every object in so many styles, every style equally often."""
    names = list(STYLES)
    return tuple((word, names[(i + 2 * k) % len(names)]) for i, word in enumerate(objects) for k in range(styles_each))


def draw(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    *,
    seed: int = HELD_OUT_SEED,
    steps: int = 25,
    guidance_scale: float = 4.0,
    batch_size: int = 40,
) -> Tensor:
    """One image of each prompt, (N, 3, 64, 64) in [-1, 1].

    Args:
        pipe: The pipeline, with the adapters that are active.
        prompts: N prompts.
        seed: Image i starts from seed + i, in any batch.
        steps: Denoising steps.
        guidance_scale: Classifier-free guidance.
        batch_size: Images at a time.
    """
    pictures = []
    pipe.set_progress_bar_config(disable=True)
    try:
        for start in range(0, len(prompts), batch_size):
            part = list(prompts[start : start + batch_size])
            seeds = range(seed + start, seed + start + len(part))
            generators = [torch.Generator().manual_seed(s) for s in seeds]
            output = pipe(
                part,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=generators,
                output_type="pt",
            )
            pictures.append(output.images.cpu() * 2 - 1)
    finally:
        pipe.set_progress_bar_config(disable=False)
    return torch.cat(pictures)


@dataclass(frozen=True)
class Rates:
    """What the judge recognised.

    Attributes:
        pairs: The object and the style that each prompt names.
        object_found: Whether the most probable object is the one that the prompt names, (N,).
        style_found: Whether the most probable style is the one that the prompt names, (N,).
    """

    pairs: tuple[Pair, ...]
    object_found: Tensor
    style_found: Tensor

    def _mean(self, found: Tensor, keep: Sequence[bool]) -> float:
        return found[torch.tensor(keep)].float().mean().item()

    def object(self, *words: str) -> float:
        """Rate of these objects, or of all."""
        return self._mean(self.object_found, [not words or word in words for word, _ in self.pairs])

    def other_objects(self, *words: str) -> float:
        """Rate of all objects but these."""
        return self._mean(self.object_found, [word not in words for word, _ in self.pairs])

    def style(self, name: str) -> float:
        """Rate of a style."""
        return self._mean(self.style_found, [style == name for _, style in self.pairs])

    def other_styles(self, name: str | None = None, *, without: Sequence[str] = ()) -> float:
        """Rate of all styles but one, on the objects that are not in `without`."""
        return self._mean(self.style_found, [s != name and word not in without for word, s in self.pairs])


def rates(
    pipe: StableDiffusionPipeline,
    judge: Judge,
    pairs: Sequence[Pair] | None = None,
    *,
    seed: int = HELD_OUT_SEED,
    steps: int = 25,
    guidance_scale: float = 4.0,
) -> Rates:
    """Generate `"a cat in mono style"` for each pair, and judge the images.

    Args:
        pipe: The pipeline as it is.
        judge: The judge.
        pairs: Objects and styles; a pair that occurs twice gets two seeds. Without pairs, every object in every style.
        seed: Image i starts from seed + i: the same seeds for every pipeline compared.
        steps: Denoising steps.
        guidance_scale: Classifier-free guidance.
    """
    words, styles = list(judge.vocabulary.objects), list(STYLES)
    pairs = tuple(product(words, styles)) if pairs is None else tuple(pairs)
    prompts = [judge.vocabulary.phrase(word, style) for word, style in pairs]
    seen = judge(draw(pipe, prompts, seed=seed, steps=steps, guidance_scale=guidance_scale))
    return Rates(
        pairs,
        seen.objects.argmax(1) == torch.tensor([words.index(word) for word, _ in pairs]),
        seen.styles.argmax(1) == torch.tensor([styles.index(style) for _, style in pairs]),
    )


def unnamed(pipe: StableDiffusionPipeline, judge: Judge, prompt: str = "an animal", n: int = 120) -> dict[str, float]:
    """The share of each object in n images of a prompt that does not name an object."""
    seen: Probabilities = judge(draw(pipe, [prompt] * n))
    return {
        word: (seen.objects.argmax(1) == i).float().mean().item() for i, word in enumerate(judge.vocabulary.objects)
    }
