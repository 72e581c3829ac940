"""AuraFlow: text and image attend to each other in the first blocks, then share all layers. Experimental."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..groups import JOINT_TEXT_LAYERS
from .base import Conditioning
from .places import Places, text_first
from .schedules import FlowFamily


class AuraFlow(FlowFamily):
    """`AuraFlowPipeline`."""

    pipelines = ("AuraFlowPipeline",)
    component = "transformer"
    text_layers = text_inputs = JOINT_TEXT_LAYERS
    text_states = r"context_embedder$"
    shared_layers = r"single_transformer_blocks\..*\.(attn|ff)\."

    @property
    def default_size(self) -> int:
        """The pipeline's size; its configuration has another."""
        return 1024

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The text encoder's token states; those of padding are zeros."""
        states, *_ = self.pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False, device=self.device)
        return {"encoder_hidden_states": states.to(self.dtype)}

    def places(self, layer: str, conditioning: Conditioning, length: int) -> Places:
        """The text is between the transformer's registers and the image; padding is zeros."""
        return text_first(conditioning[self.text].any(-1), length, before=self.denoiser.register_tokens.shape[1])

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's velocity, at times from 1 to 0."""
        return self.network(x_t, timestep=(t / 1000).to(x_t.dtype), return_dict=False, **conditioning)[0]
