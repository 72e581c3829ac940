"""Stable Diffusion 1.x, 2.x and XL: U-Nets with cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Conditioning
from .schedules import DiffusionFamily


class StableDiffusion(DiffusionFamily):
    """Stable Diffusion 1.x and 2.x: one text encoder; noise or v prediction."""

    pipelines = ("StableDiffusionPipeline",)
    component = "unet"
    can_be_captured = True

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The text encoder's token states."""
        states, _ = self.pipe.encode_prompt(list(prompts), self.device, 1, False)
        return {"encoder_hidden_states": states.to(self.dtype)}

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The U-Net's prediction."""
        return self.network(x_t, t, return_dict=False, **conditioning)[0]


class StableDiffusionXL(DiffusionFamily):
    """Stable Diffusion XL: two text encoders, a pooled embedding, and the sizes of the image as conditions.

    Args:
        pipe: The pipeline.
        original_size: The `original_size` condition, height and width in pixels; `None` means the image's own.
        crops_coords_top_left: The `crops_coords_top_left` condition.
    """

    pipelines = ("StableDiffusionXLPipeline",)
    component = "unet"
    can_be_captured = True

    def __init__(
        self,
        pipe: Any,
        *,
        original_size: tuple[int, int] | None = None,
        crops_coords_top_left: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(pipe)
        self.original_size = original_size
        self.crops_coords_top_left = crops_coords_top_left

    def check(self) -> None:
        """Also refuse a refiner."""
        super().check()
        # Without both, prompts come encoded from a checkpoint.
        if self.pipe.text_encoder is None and self.pipe.text_encoder_2 is not None:
            raise ValueError(
                "The pipeline has one text encoder: an SDXL refiner, which only finishes the images of a base model. "
                "Erase from the base model."
            )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Token states of both text encoders, and the pooled state of the second."""
        states, _, pooled, _ = self.pipe.encode_prompt(
            list(prompts), device=self.device, do_classifier_free_guidance=False
        )
        if self.pipe.config.force_zeros_for_empty_prompt:
            is_text = torch.tensor([prompt != "" for prompt in prompts], device=states.device)
            states, pooled = states * is_text[:, None, None], pooled * is_text[:, None]
        return {"encoder_hidden_states": states.to(self.dtype), "text_embeds": pooled.to(self.dtype)}

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The U-Net's prediction."""
        height, width = (side * self.pipe.vae_scale_factor for side in x_t.shape[-2:])
        sizes = (*(self.original_size or (height, width)), *self.crops_coords_top_left, height, width)
        # Made on the device: a CUDA graph cannot contain a copy from the CPU.
        time_ids = torch.cat([x_t.new_full((len(x_t), 1), size) for size in sizes], dim=1)
        added = {"text_embeds": conditioning["text_embeds"], "time_ids": time_ids}
        states = conditioning["encoder_hidden_states"]
        return self.network(x_t, t, states, added_cond_kwargs=added, return_dict=False)[0]
