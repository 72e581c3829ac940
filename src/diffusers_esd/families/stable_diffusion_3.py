"""Stable Diffusion 3 and 3.5: a transformer in which text and image attend to each other. Experimental.

It does not have cross-attention. The text's projections in the attentions are closest to it, and count as it here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..groups import JOINT_TEXT_LAYERS
from .base import Conditioning
from .schedules import FlowFamily


class StableDiffusion3(FlowFamily):
    """`StableDiffusion3Pipeline`."""

    pipelines = ("StableDiffusion3Pipeline",)
    component = "transformer"
    text_layers = text_inputs = JOINT_TEXT_LAYERS
    text_states = r"context_embedder$"
    can_be_captured = True

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Token states of all text encoders, and the pooled states of both CLIPs."""
        states, _, pooled, _ = self.pipe.encode_prompt(
            list(prompts), None, None, device=self.device, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": states.to(self.dtype), "pooled_projections": pooled.to(self.dtype)}

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's velocity."""
        return self.network(hidden_states=x_t, timestep=t, return_dict=False, **conditioning)[0]
