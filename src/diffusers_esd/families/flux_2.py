"""FLUX.2 and FLUX.2 Klein: as in Flux.1, text and image attend to each other, then share all layers. Experimental.

FLUX.2 takes `guidance_scale` as an input, and its prediction is already guided. Klein is guided by the prediction for
the empty prompt, unless the pipeline's `is_distilled` is set: then it ignores the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..groups import JOINT_TEXT_LAYERS
from .base import Conditioning
from .packed import PackedFlowFamily


class Flux2(PackedFlowFamily):
    """`Flux2Pipeline` and `Flux2KleinPipeline`."""

    pipelines = ("Flux2Pipeline", "Flux2KleinPipeline")
    component = "transformer"
    text_layers = text_inputs = JOINT_TEXT_LAYERS
    text_states = r"context_embedder$"
    shared_layers = r"single_transformer_blocks\.\d+\.(attn|proj)"

    def __init__(self, pipe: Any, *, max_sequence_length: int = 512) -> None:
        super().__init__(pipe, max_sequence_length=max_sequence_length)
        self._ids: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, which FLUX.2 has in a processor."""
        from transformers import ProcessorMixin

        tokenizer = self.pipe.tokenizer
        return tokenizer.tokenizer if isinstance(tokenizer, ProcessorMixin) else tokenizer

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Token states of several layers of the language model, side by side."""
        states, _ = self.pipe.encode_prompt(list(prompts), self.device, max_sequence_length=self.max_sequence_length)
        return {"encoder_hidden_states": states.to(self.dtype)}

    def shift(self, tokens: int, steps: int) -> float:
        """The pipeline's `mu`, which depends on the number of steps too."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return compute_empirical_mu(tokens, steps)

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's velocity; it takes and gives packed latents."""
        latents = self.pipe._patchify_latents(x_t)
        text_ids, image_ids = self._ids_of(latents, conditioning["encoder_hidden_states"])
        e = self.network(
            hidden_states=self.pipe._pack_latents(latents),
            timestep=t.to(x_t.dtype) / 1000,
            guidance=x_t.new_full((len(x_t),), guidance_scale) if self.denoiser.config.guidance_embeds else None,
            txt_ids=text_ids,
            img_ids=image_ids,
            return_dict=False,
            **conditioning,
        )[0]
        return self.pipe._unpatchify_latents(e.transpose(1, 2).reshape(latents.shape))

    def _ids_of(self, latents: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        """The pipeline's ids of tokens. They are kept: a CUDA graph cannot contain their copy from the CPU."""
        key = (states.shape[1], *latents.shape[2:], latents.device)
        if key not in self._ids:
            ids = self.pipe._prepare_text_ids(states[:1]), self.pipe._prepare_latent_ids(latents[:1])
            self._ids[key] = ids[0].to(latents.device), ids[1].to(latents.device)
        return self._ids[key]

    def guide(self, e_null: Tensor, e: Tensor, guidance_scale: float) -> Tensor:
        """Guided predictions of Klein; `e` itself where guidance is an input, or distilled away."""
        if self.denoiser.config.guidance_embeds or self.pipe.config.get("is_distilled"):
            return e
        return super().guide(e_null, e, guidance_scale)
