"""The kinds of pipelines that can be trained."""

from __future__ import annotations

from typing import Any

from .base import Conditioning, Family
from .stable_diffusion import StableDiffusion

FAMILIES: tuple[type[Family], ...] = (StableDiffusion,)

__all__ = ["FAMILIES", "Conditioning", "Family", "StableDiffusion", "family_for"]


def family_for(pipe: Any) -> Family:
    """The family of a pipeline.

    Args:
        pipe: A diffusers pipeline.

    Raises:
        TypeError: If no family handles it; the message lists them.
    """
    for family in FAMILIES:
        if family.handles(pipe):
            return family(pipe)
    raise TypeError(
        f"ESDTrainer does not know the denoiser of a {type(pipe).__name__}; it knows "
        f"{', '.join(family.name for family in FAMILIES)}. From an image-to-image, inpainting or ControlNet pipeline "
        "of such a model, make one with StableDiffusionPipeline.from_pipe(pipe); for another kind of model pass "
        "family=..., a subclass of diffusers_esd.Family."
    )
