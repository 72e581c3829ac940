"""What Flux.1, FLUX.2 and Qwen-Image share: two latents per side are packed into one token of the transformer."""

from __future__ import annotations

from typing import Any

import numpy as np

from .schedules import FlowFamily


class PackedFlowFamily(FlowFamily):
    """A flow on packed latents. States and predictions are not packed, (B, C, H, W).

    Args:
        pipe: The pipeline.
        max_sequence_length: Tokens of a prompt, as the pipeline's argument. Every prediction computes as many.
    """

    def __init__(self, pipe: Any, *, max_sequence_length: int = 512) -> None:
        super().__init__(pipe)
        self.max_sequence_length = max_sequence_length

    @property
    def patch(self) -> int:
        """Two latents per side are packed into one token."""
        return 2 * self.pipe.vae_scale_factor

    @property
    def channels(self) -> int:
        """Channels of a latent before packing."""
        return self.denoiser.config.in_channels // 4

    @property
    def default_size(self) -> int:
        """The pipeline's size."""
        return self.pipe.default_sample_size * self.pipe.vae_scale_factor

    def schedule_options(self, steps: int) -> dict[str, Any]:
        """The pipeline's sigmas."""
        if self.pipe.scheduler.config.get("use_flow_sigmas"):
            return {}
        return {"sigmas": np.linspace(1.0, 1 / steps, steps)}
