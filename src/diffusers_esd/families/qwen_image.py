"""Qwen-Image: a transformer in which text and image attend to each other in every block. Experimental.

The text's projections in the attentions count as cross-attention here. `guidance_scale` is the pipeline's
`true_cfg_scale`, with the empty prompt as its negative prompt. The pipeline gives each guided patch the length of the
prediction for the prompt, and so do trajectories.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..groups import JOINT_TEXT_LAYERS
from .base import Conditioning
from .packed import PackedFlowFamily
from .padding import padded, unpadded


class QwenImage(PackedFlowFamily):
    """`QwenImagePipeline`. If all prompts are short, a smaller `max_sequence_length` takes less time."""

    pipelines = ("QwenImagePipeline",)
    component = "transformer"
    text_layers = text_inputs = JOINT_TEXT_LAYERS
    text_states = r"(?!)"  # none: the token states are normalised before the first layer

    def check(self) -> None:
        """Also refuse a model that takes the guidance as an input."""
        super().check()
        if self.denoiser.config.guidance_embeds:
            raise ValueError(
                "The denoiser takes guidance as an input (guidance_embeds is set): a distilled model. Train on the "
                "model that it was distilled from."
            )

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The language model's token states."""
        states, mask = self.pipe.encode_prompt(list(prompts), self.device, max_sequence_length=self.max_sequence_length)
        rows = list(states) if mask is None else unpadded(states, mask)  # no mask: all have the same length
        states, mask = padded(rows, self.max_sequence_length)
        return {"encoder_hidden_states": states.to(self.dtype), "encoder_hidden_states_mask": mask}

    def predict(self, x_t: Tensor, t: Tensor, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """The transformer's velocity; it takes and gives packed latents."""
        n, _, height, width = x_t.shape
        e = self.network(
            hidden_states=self._packed(x_t),
            timestep=t.to(x_t.dtype) / 1000,
            img_shapes=[[(1, height // 2, width // 2)]] * n,
            return_dict=False,
            **conditioning,
        )[0]
        return self._unpacked(e, x_t)

    def guide(self, e_null: Tensor, e: Tensor, guidance_scale: float) -> Tensor:
        """Guided predictions, in which every patch is as long as in `e`."""
        patches, guided = self._packed(e), self._packed(super().guide(e_null, e, guidance_scale))
        lengths = [part.norm(dim=-1, keepdim=True) for part in (patches, guided)]
        return self._unpacked(guided * (lengths[0] / lengths[1]), e)

    def _packed(self, x: Tensor) -> Tensor:
        return self.pipe._pack_latents(x, *x.shape)

    def _unpacked(self, packed: Tensor, like: Tensor) -> Tensor:
        factor = self.pipe.vae_scale_factor
        height, width = (side * factor for side in like.shape[-2:])
        return self.pipe._unpack_latents(packed, height, width, factor)[:, :, 0]
