"""The kinds of pipelines that can be trained."""

from __future__ import annotations

from typing import Any

from .aura_flow import AuraFlow
from .base import Conditioning, Family
from .flux import Flux
from .schedules import DiffusionFamily, FlowFamily
from .stable_diffusion import StableDiffusion, StableDiffusionXL
from .stable_diffusion_3 import StableDiffusion3

FAMILIES: tuple[type[Family], ...] = (StableDiffusion, StableDiffusionXL, StableDiffusion3, Flux, AuraFlow)

__all__ = [
    "FAMILIES",
    "Conditioning",
    "DiffusionFamily",
    "Family",
    "FlowFamily",
    "StableDiffusionXL",
    "family_for",
]


def family_for(pipe: Any) -> Family:
    """The family of a pipeline.

    Args:
        pipe: A diffusers pipeline.

    Raises:
        TypeError: If no family handles it; the message says what would.
    """
    for family in FAMILIES:
        if family.handles(pipe):
            return family(pipe)
    kind = type(pipe).__name__
    # The same model in another pipeline: image to image, inpainting, ControlNet.
    kin = [name for family in FAMILIES for name in family.pipelines if kind.startswith(name.removesuffix("Pipeline"))]
    if kin:
        raise TypeError(
            f"A {kind} makes pictures of more than text. Erase with {max(kin, key=len)}.from_pipe(pipe), which shares "
            "its weights: the erasure is then active in both."
        )
    raise TypeError(
        f"ESDTrainer does not know the denoiser of a {kind}; it knows "
        f"{', '.join(name for family in FAMILIES for name in family.pipelines)}. For another kind of model pass "
        "family=..., a subclass of diffusers_esd.Family."
    )
