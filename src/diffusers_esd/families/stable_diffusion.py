"""Stable Diffusion 1.x and 2.x: one text encoder, a U-Net with cross-attention, noise or v prediction.

Trajectories run on DDIM with the betas, spacing and prediction type of the pipeline's scheduler, whatever its class:
a pool needs a step without memory. The pipeline's own scheduler object is not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from .base import Conditioning, Family

# DDIM's defaults for these differ from what a latent diffusion model means by leaving them out.
_UNLESS_SET = {"clip_sample": False, "set_alpha_to_one": False}


class StableDiffusion(Family):
    """`StableDiffusionPipeline` and its subclasses."""

    name = "Stable Diffusion 1.x and 2.x (StableDiffusionPipeline)"
    component = "unet"

    @classmethod
    def handles(cls, pipe: Any) -> bool:
        """Whether `pipe` is a `StableDiffusionPipeline`."""
        return isinstance(pipe, StableDiffusionPipeline)

    def check(self) -> None:
        """Refuse denoisers with inputs this family does not feed, and schedulers that are not of diffusion."""
        unet, vae = self.pipe.unet.config, self.pipe.vae.config
        if unet.in_channels != vae.latent_channels:
            raise ValueError(
                f"The U-Net takes {unet.in_channels} channels and the autoencoder makes {vae.latent_channels} "
                "(an inpainting or image-conditioned model); train on the text-to-image model it was made from."
            )
        if getattr(unet, "time_cond_proj_dim", None) is not None:
            raise ValueError(
                "The U-Net is a latent consistency model (time_cond_proj_dim is set), which has no unconditional "
                "prediction to erase towards; train on the model it was distilled from."
            )
        config = self.pipe.scheduler.config
        if "beta_schedule" not in config:
            raise ValueError(
                f"The pipeline's {type(self.pipe.scheduler).__name__} has no betas; give the pipeline the scheduler "
                "its model was trained with, such as DDIMScheduler."
            )
        if config.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(
                f"prediction_type={config.prediction_type!r} of the pipeline's scheduler is unknown here; "
                "it must be 'epsilon', 'v_prediction' or 'sample'."
            )

    def latent_shape(self, size: int | None) -> tuple[int, ...]:
        """`(channels, size / factor, size / factor)`."""
        factor = self.pipe.vae_scale_factor
        size = size if size is not None else self.pipe.unet.config.sample_size * factor
        if size % factor:
            near = (max(1, size // factor) * factor, (size // factor + 1) * factor)
            raise ValueError(
                f"size={size} cannot be divided by {factor}, the autoencoder's factor; give {near[0]} or {near[1]}."
            )
        return (self.pipe.unet.config.in_channels, size // factor, size // factor)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The text encoder's token states, (N, tokens, width)."""
        states, _ = self.pipe.encode_prompt(list(prompts), self.device, 1, False)
        return {"encoder_hidden_states": states.to(self.dtype)}

    def set_schedule(self, steps: int) -> None:
        """DDIM's timesteps for the pipeline's noise schedule."""
        # from_config would drop values that equal the other class's defaults, such as its timestep spacing.
        known = signature(DDIMScheduler.__init__).parameters
        config = {key: value for key, value in self.pipe.scheduler.config.items() if key in known}
        scheduler: Any = DDIMScheduler
        self._scheduler = scheduler(**{**_UNLESS_SET, **config})
        self._scheduler.set_timesteps(steps, device=self.device)
        self.timesteps = self._scheduler.timesteps

    def initial(self, noise: Tensor) -> Tensor:
        """Noise at the scheduler's initial sigma."""
        return noise * self._scheduler.init_noise_sigma

    def predict(self, x_t: Tensor, position: Tensor, conditioning: Conditioning) -> Tensor:
        """The U-Net's prediction at the scheduler's timesteps, of inputs the scheduler has scaled."""
        t = self.timesteps[position.to(self.timesteps.device)]
        x_t = self._scheduler.scale_model_input(x_t, t)
        return self.denoiser(x_t, t, return_dict=False, **conditioning)[0]

    def step(self, e: Tensor, position: int, x_t: Tensor) -> Tensor:
        """One DDIM step with no noise added."""
        return self._scheduler.step(e, self.timesteps[position], x_t, return_dict=False)[0]
