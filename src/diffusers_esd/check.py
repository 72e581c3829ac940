"""`check`: a first look at an erasure, on fixed seeds. (`pictures.preview` compares scales on prompts of your choice.)

The alignments where the prompt names the concept and where it is empty are those of a `Probe`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from . import adapter
from .arguments import check_prompt, check_seeds, integer_from
from .config import ESDConfig
from .denoiser import check_denoiser, switched_off
from .families import Family, checked_family
from .limits import Limits
from .pictures.draw import draw
from .pictures.grid import beside
from .probe import Probe, ensure_loaded, questions
from .provenance import Provenance
from .streams import stream
from .training.encoding import Encoded
from .training.surroundings import own_settings
from .training.vocabulary import neighbours

_NEIGHBOURS = 2  # words in the picture, if the user does not give prompts
_SIDE = 192  # pixels of an image in the picture


@dataclass(frozen=True, eq=False)
class Check:
    """What `Erasure.check` returns.

    Attributes:
        picture: A row for each prompt; for each seed the image of the base model and that of the erased model.
        named: Alignment of each concept where the prompt names it: 1 is intact, `-eta` the target. For an erasure with
            `erase_from` it is measured from that prompt: 0 is intact, `-eta` the target.
        unnamed: The same where the prompt is empty: 0 is the base model, and below 0 the concept is avoided unasked.
    """

    picture: Image
    named: Mapping[str, float]
    unnamed: Mapping[str, float]

    def __str__(self) -> str:
        """A line for each concept."""
        return "\n".join(
            f"{concept}: alignment {self.named[concept]:.2f} where it is named, {self.unnamed[concept]:.2f} where it "
            "is not"
            for concept in self.named
        )

    def _repr_png_(self) -> bytes | None:
        return self.picture._repr_png_()


def check(
    pipe: Any,
    weights: Mapping[str, Tensor],
    name: str,
    config: ESDConfig | None,
    provenance: Provenance,
    *,
    prompts: str | Sequence[str] | None,
    seeds: int | Sequence[int],
    num_inference_steps: int,
    family: Family | None,
    **options: Any,
) -> Check:
    """`Erasure.check`, for the parts of an erasure."""
    seeds = check_seeds(seeds)
    steps = integer_from(1)("num_inference_steps", num_inference_steps)
    prompts = [check_prompt("prompts", prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts or ())]
    family = checked_family(pipe, family)
    config = config or ESDConfig()
    denoiser = family.denoiser
    check_denoiser(denoiser)
    with adapter.as_found(denoiser), own_settings(family.device):
        name, copies = ensure_loaded(denoiser, weights, name, provenance.component)
        schedule = family.schedule(steps, family.latent_shape(config.size), config.guidance_scale)
        encoded = Encoded(family)
        asked = questions(config, provenance)
        encoded.add([prompt for question in asked for prompt in question.prompts])
        noise = torch.cat([schedule.noise(stream(seed, "check")) for seed in seeds])
        with switched_off(denoiser, copies):
            with switched_off(denoiser, [name]):
                probes = {question.concept: Probe(schedule, encoded, question, noise) for question in asked}
            named = {concept: probe.named() for concept, probe in probes.items()}
            unnamed = {concept: probe.unnamed() for concept, probe in probes.items()}
            shown = prompts or _shown(encoded, config, provenance.concepts)
            size = {} if config.size is None else {"height": config.size, "width": config.size}
            options = {"num_inference_steps": steps, **size, **options}
            with switched_off(denoiser, [name]):
                base = draw(pipe, shown, seeds, **options)
            erased = draw(pipe, shown, seeds, **options)
    return Check(beside(shown, seeds, base, erased, "erased", _SIDE), named, unnamed)


def _shown(encoded: Encoded, config: ESDConfig, concepts: Sequence[str]) -> list[str]:
    """Prompts of the picture: what the student was trained on, the concepts, and a few that should look the same."""
    trained = list(dict.fromkeys([*([config.erase_from] if config.erase_from else []), *concepts]))
    if isinstance(config.preserve, str) or not config.preserve:
        return [*trained, *neighbours(encoded, trained, _NEIGHBOURS, synonyms=config.synonyms, limits=Limits())]
    return [*trained, *config.preserve[:_NEIGHBOURS]]
