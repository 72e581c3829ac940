"""Kolors: Stable Diffusion XL's U-Net, which reads a language model through a projection. Experimental."""

from __future__ import annotations

from .schedules import DiffusionFamily
from .stable_diffusion import StableDiffusionXL


class Kolors(StableDiffusionXL):
    """`KolorsPipeline`."""

    pipelines = ("KolorsPipeline",)
    text_states = r"encoder_hid_proj$"
    can_be_captured = False

    def check(self) -> None:
        """There is one text encoder, and no refiner."""
        DiffusionFamily.check(self)
