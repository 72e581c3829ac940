"""Wan: a transformer with cross-attention that generates videos from text. Experimental.

States and predictions are (B, C, F, H, W), with F latent frames. Pipelines of two transformers are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .base import Conditioning
from .schedules import FlowFamily


class Wan(FlowFamily):
    """`WanPipeline`: Wan 2.1, and the models of Wan 2.2 with one transformer.

    Args:
        pipe: The pipeline.
        num_frames: Frames of a training video, as the pipeline's argument; 1 trains on single images.
        max_sequence_length: Tokens of a prompt, as the pipeline's argument.
    """

    pipelines = ("WanPipeline",)
    component = "transformer"
    text_states = r"condition_embedder\.text_embedder\.linear_1$"

    def __init__(self, pipe: Any, *, num_frames: int = 81, max_sequence_length: int = 512) -> None:
        super().__init__(pipe)
        self.num_frames, self.max_sequence_length = num_frames, max_sequence_length

    def check(self) -> None:
        """Also refuse a pipeline of two transformers."""
        if self.pipe.components["transformer_2"] is not None:
            raise ValueError(
                "The pipeline has two transformers, each for a part of the timesteps (Wan 2.2). An erasure trains one "
                "denoiser, so the other would still draw the concept. Train on a model with one, such as Wan 2.1."
            )
        super().check()

    @property
    def dtype(self) -> torch.dtype:
        """The type of its inputs; some of its parameters stay in float32."""
        return self.denoiser.patch_embedding.weight.dtype

    @property
    def scale_factor(self) -> int:
        """Pixels per side of a latent."""
        return self.pipe.vae_scale_factor_spatial

    @property
    def patch(self) -> int:
        """Two latents per side are one token."""
        return self.scale_factor * self.denoiser.config.patch_size[1]

    @property
    def default_size(self) -> tuple[int, int]:
        """The pipeline's size."""
        return (480, 832)

    def latent_shape(self, size: int | None) -> tuple[int, ...]:
        """Shape of one latent without its batch dimension, (C, F, H, W); `size` as for images."""
        channels, *sides = super().latent_shape(size)
        return (channels, (self.num_frames - 1) // self.pipe.vae_scale_factor_temporal + 1, *sides)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The text encoder's token states; those of padding are zeros, which the transformer reads."""
        options = {"max_sequence_length": self.max_sequence_length, "device": self.device}
        states, _ = self.pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False, **options)
        return {"encoder_hidden_states": states.to(self.dtype)}

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's velocity."""
        if self.pipe.config.expand_timesteps:  # one for each token, all equal without an image
            t = t[:, None].expand(-1, x_t[0, 0, :, ::2, ::2].numel())
        return self.network(x_t, t, return_dict=False, **conditioning)[0]
