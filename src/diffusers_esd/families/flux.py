"""Flux.1: a transformer in which text and image attend to each other, then share all layers. Experimental.

The text's projections in the attentions of the first blocks (double blocks) count as cross-attention. The later blocks
(single blocks) have one stream for text and image, and count as the rest.

`guidance_scale` is the pipeline's argument of that name. Flux dev is guidance-distilled: the scale is an input of the
denoiser, and its prediction is already guided. Flux schnell ignores the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..groups import JOINT_TEXT_LAYERS
from .base import Conditioning
from .packed import PackedFlowFamily


class Flux(PackedFlowFamily):
    """`FluxPipeline`, dev and schnell.

    Args:
        pipe: The pipeline.
        max_sequence_length: Tokens of T5, as the pipeline's argument; schnell is usually used with 256.
    """

    pipelines = ("FluxPipeline",)
    component = "transformer"
    text_layers = text_inputs = JOINT_TEXT_LAYERS
    text_states = r"context_embedder$"
    shared_layers = r"single_transformer_blocks\.\d+\.(attn|proj)"

    def __init__(self, pipe: Any, *, max_sequence_length: int = 512) -> None:
        super().__init__(pipe, max_sequence_length=max_sequence_length)
        self._image_ids: dict[tuple[Any, ...], Tensor] = {}

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """T5's token states, and CLIP's pooled state."""
        states, pooled, _ = self.pipe.encode_prompt(
            list(prompts), None, device=self.device, max_sequence_length=self.max_sequence_length
        )
        return {"encoder_hidden_states": states.to(self.dtype), "pooled_projections": pooled.to(self.dtype)}

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's velocity; it takes and gives packed latents."""
        n, channels, height, width = x_t.shape
        states = conditioning["encoder_hidden_states"]
        guidance = None
        if self.denoiser.config.guidance_embeds:
            guidance = torch.full((n,), guidance_scale, device=x_t.device, dtype=torch.float32)
        factor = self.pipe.vae_scale_factor
        e = self.network(
            hidden_states=self.pipe._pack_latents(x_t, n, channels, height, width),
            timestep=t.to(x_t.dtype) / 1000,
            guidance=guidance,
            txt_ids=torch.zeros((states.shape[1], 3), device=x_t.device, dtype=x_t.dtype),
            img_ids=self._ids_of(height // 2, width // 2, x_t),
            return_dict=False,
            **conditioning,
        )[0]
        return self.pipe._unpack_latents(e, height * factor, width * factor, factor)

    def _ids_of(self, height: int, width: int, like: Tensor) -> Tensor:
        """The pipeline's image ids. They are kept: a CUDA graph cannot contain their copy from the CPU."""
        key = (height, width, like.device, like.dtype)
        if key not in self._image_ids:
            self._image_ids[key] = self.pipe._prepare_latent_image_ids(1, *key)
        return self._image_ids[key]

    def guide(self, e_null: Tensor, e: Tensor, guidance_scale: float) -> Tensor:
        """`e` itself: the guidance is an input of the denoiser."""
        return e
