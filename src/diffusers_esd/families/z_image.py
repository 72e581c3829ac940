"""Z-Image: a transformer in which text and image share all layers but the first few. Experimental.

The layers before the shared ones that read text alone count as cross-attention: a projection, and the blocks that
refine the text. All of them see text only, so `"esd-x"` and `"esd-x-strict"` are the same.

The pipeline negates the transformer's output and its time. Its guidance goes beyond the prediction for the prompt,
`e + guidance_scale * (e - e_null)`; `guidance_scale` is the pipeline's argument, and 0 is no guidance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .base import Conditioning
from .padding import padded, unpadded
from .places import Places, image_first, text_first
from .schedules import FlowFamily


class ZImage(FlowFamily):
    """`ZImagePipeline`.

    Args:
        pipe: The pipeline.
        max_sequence_length: Tokens of a prompt, as the pipeline's argument.
    """

    pipelines = ("ZImagePipeline",)
    component = "transformer"
    text = "cap_feats"
    text_layers = text_inputs = r"(cap_embedder|context_refiner)\."
    text_states = r"(?!)"  # none: the token states are normalised before the first layer
    shared_layers = r"layers\..*\.(attention|feed_forward)\."

    def __init__(self, pipe: Any, *, max_sequence_length: int = 512) -> None:
        super().__init__(pipe)
        self.max_sequence_length = max_sequence_length

    @property
    def patch(self) -> int:
        """Two latents per side are one token."""
        return 2 * self.pipe.vae_scale_factor

    @property
    def default_size(self) -> int:
        """The pipeline's size."""
        return 1024

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The language model's token states."""
        options = {"max_sequence_length": self.max_sequence_length, "device": self.device}
        rows, _ = self.pipe.encode_prompt(list(prompts), do_classifier_free_guidance=False, **options)
        states, mask = padded(rows, self.max_sequence_length)
        return {"cap_feats": states.to(self.dtype), "mask": mask}

    def places(self, layer: str, conditioning: Conditioning, length: int) -> Places:
        """In the shared layers the image comes first; the text is padded to a multiple of 32 tokens."""
        is_shared = re.match(self.shared_layers, layer)
        return image_first(conditioning["mask"], length, 32) if is_shared else text_first(conditioning["mask"], length)

    def schedule_options(self, steps: int) -> dict[str, Any]:
        """The pipeline's sigmas."""
        return {"sigmas": np.linspace(1.0, 1 / steps, steps)}

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The negated output of the transformer, which takes lists of images and of prompts of any length."""
        prompts = unpadded(conditioning["cap_feats"], conditioning["mask"])
        images = self.network(list(x_t.unsqueeze(2)), (1000 - t) / 1000, prompts, return_dict=False)[0]
        return -torch.stack(images).squeeze(2)

    def guide(self, e_null: Tensor, e: Tensor, guidance_scale: float) -> Tensor:
        """Guided predictions, by the pipeline's convention."""
        return e + guidance_scale * (e - e_null)
