"""The kinds of pipelines that can be trained."""

from __future__ import annotations

import re
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.loaders.lora_base import LoraBaseMixin

from .aura_flow import AuraFlow
from .base import Conditioning, Family, Schedule
from .flux import Flux
from .flux_2 import Flux2
from .kolors import Kolors
from .qwen_image import QwenImage
from .sana import Sana
from .schedules import DiffusionFamily, DiffusionSchedule, FlowFamily, FlowSchedule
from .stable_diffusion import StableDiffusion, StableDiffusionXL
from .stable_diffusion_3 import StableDiffusion3
from .wan import Wan
from .z_image import ZImage

FAMILIES: tuple[type[Family], ...] = (
    StableDiffusion,
    StableDiffusionXL,
    StableDiffusion3,
    Flux,
    AuraFlow,
    Sana,
    QwenImage,
    ZImage,
    Flux2,
    Kolors,
    Wan,
)

__all__ = [
    "FAMILIES",
    "AuraFlow",
    "Conditioning",
    "DiffusionFamily",
    "DiffusionSchedule",
    "Family",
    "FlowFamily",
    "FlowSchedule",
    "Flux",
    "Flux2",
    "Kolors",
    "QwenImage",
    "Sana",
    "Schedule",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "Wan",
    "ZImage",
    "checked_family",
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
    for name in (name for family in FAMILIES for name in family.pipelines):
        if re.fullmatch(name.removesuffix("Pipeline") + r"(Img2Img|Inpaint|ControlNet\w*|PAG\w*)Pipeline", kind):
            raise TypeError(
                f"A {kind} generates images from more than text. Erase with {name}.from_pipe(pipe, dtype=pipe.dtype), "
                "which shares its weights: the erasure is then active in both."
            )
    if isinstance(pipe, DiffusionPipeline) and not isinstance(pipe, LoraBaseMixin):
        raise TypeError(
            f"diffusers cannot load LoRA weights into a {kind}, which does not have load_lora_weights: nobody could "
            "load its erasure."
        )
    raise TypeError(
        f"Unknown pipeline {kind}; expected one of "
        f"{', '.join(name for family in FAMILIES for name in family.pipelines)}. For another kind of model pass "
        "family=..., a subclass of diffusers_esd.Family."
    )


def checked_family(pipe: Any, family: Family | None) -> Family:
    """The family of a pipeline that can be trained.

    Args:
        pipe: A diffusers pipeline.
        family: The family to use; `None` finds it by the pipeline's class.

    Raises:
        TypeError: If no family handles the pipeline.
        ValueError: If the family belongs to another pipeline, or the pipeline cannot be trained.
    """
    family = family_for(pipe) if family is None else family
    if family.pipe is not pipe:
        raise ValueError("`family` belongs to another pipeline; create it from this one, as Mine(pipe).")
    family.check()
    return family
