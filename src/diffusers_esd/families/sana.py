"""Sana: a transformer with cross-attention, which reads the text through a projection. Experimental.

The pipeline puts an instruction for the language model before a prompt, and none before the empty one.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from .base import Conditioning
from .padding import padded, unpadded
from .schedules import FlowFamily


class Sana(FlowFamily):
    """`SanaPipeline`.

    Args:
        pipe: The pipeline.
        max_sequence_length: Tokens of a prompt, as the pipeline's argument.
    """

    pipelines = ("SanaPipeline",)
    component = "transformer"
    text_states = r"caption_projection\.linear_1$"

    def __init__(self, pipe: Any, *, max_sequence_length: int = 300) -> None:
        super().__init__(pipe)
        self.max_sequence_length = max_sequence_length

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The language model's token states."""
        instruction = signature(self.pipe.__call__).parameters["complex_human_instruction"].default
        texts = [prompt for prompt in prompts if prompt]
        rows = iter(self._rows(texts, instruction) if texts else [])
        (empty,) = self._rows([""], None)
        states, mask = padded([next(rows) if prompt else empty for prompt in prompts], self.max_sequence_length)
        return {"encoder_hidden_states": states.to(self.dtype), "encoder_attention_mask": mask}

    def _rows(self, prompts: list[str], instruction: list[str] | None) -> list[Tensor]:
        states, mask, *_ = self.pipe.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=self.max_sequence_length,
            complex_human_instruction=instruction,
        )
        return unpadded(states, mask)

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's velocity, without the variance that some predict as well."""
        timestep = t * self.denoiser.config.timestep_scale
        return self.network(x_t, timestep=timestep, return_dict=False, **conditioning)[0][:, : self.channels]
