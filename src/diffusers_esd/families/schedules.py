r"""The two kinds of schedules, walked without memory: a pool moves each of its trajectories from where it stands.

A step goes from one timestep of the schedule to any later one, exactly. With `x_0` and `e` the sample and the noise
that a prediction stands for, a state of diffusion and a state of a flow are

    x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) e            DDIM, arXiv:2010.02502, Eq. 12 without noise
    x_t = (1 - sigma_t) x_0 + sigma_t e                      Euler, v = e - x_0

`DDIMScheduler.step` itself takes `t - 1000 // steps` for the next timestep, which is not the next entry of `timesteps`
where these are spaced linearly, or trailing with a number of steps that does not divide 1000.
"""

from __future__ import annotations

from copy import deepcopy
from inspect import signature
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from .base import Family

# DDIM's defaults for these differ from what a latent diffusion model means by leaving them out.
_UNLESS_SET = {"clip_sample": False, "set_alpha_to_one": False}
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")


class DiffusionFamily(Family):
    """Models of noise, v or sample: DDIM with the betas, spacing and prediction type of the pipeline's scheduler.

    The pipeline's own scheduler object is not touched, whatever its class. States have the variance that the model
    was trained on, so they go to the denoiser as they are: a scheduler with sigmas, such as Euler, has them larger by
    `sqrt(sigma^2 + 1)` and divides by that in `scale_model_input`.
    """

    def check(self) -> None:
        """Refuse latent consistency models and schedulers that are not of diffusion, too."""
        super().check()
        if getattr(self.denoiser.config, "time_cond_proj_dim", None) is not None:
            raise ValueError(
                "The denoiser is a latent consistency model (time_cond_proj_dim is set), which has no unconditional "
                "prediction to erase towards; train on the model it was distilled from."
            )
        schedule = self.pipe.scheduler.config
        if "beta_schedule" not in schedule:
            raise ValueError(
                f"The pipeline's {type(self.pipe.scheduler).__name__} has no betas; give the pipeline the scheduler "
                "its model was trained with, such as DDIMScheduler."
            )
        if schedule.beta_schedule not in _BETAS and schedule.get("trained_betas") is None:
            raise ValueError(
                f"beta_schedule={schedule.beta_schedule!r} of the pipeline's scheduler is unknown to DDIM, on which "
                f"training states are made; it must be one of {', '.join(map(repr, _BETAS))}."
            )
        if schedule.get("timestep_type") == "continuous":
            raise ValueError(
                "The pipeline's scheduler has timestep_type='continuous' (EDM): its noise levels are not those of its "
                "betas, from which training states are made. Such a model cannot be trained yet."
            )
        if schedule.get("thresholding"):
            raise ValueError(
                "The pipeline's scheduler has thresholding=True, which is for models of pixels; set it to False."
            )
        if schedule.get("prediction_type", "epsilon") not in ("epsilon", "v_prediction", "sample"):
            raise ValueError(
                f"prediction_type={schedule.prediction_type!r} of the pipeline's scheduler is unknown here; "
                "it must be 'epsilon', 'v_prediction' or 'sample'."
            )

    def set_schedule(self, steps: int, shape: tuple[int, ...]) -> None:
        """DDIM's timesteps for the pipeline's noise schedule."""
        # from_config would drop values that equal the other class's defaults, such as its timestep spacing.
        known = signature(DDIMScheduler.__init__).parameters
        config = {key: value for key, value in self.pipe.scheduler.config.items() if key in known}
        scheduler: Any = DDIMScheduler
        self._scheduler = scheduler(**{**_UNLESS_SET, **config})
        self._scheduler.set_timesteps(steps, device=self.device)
        self.timesteps = self._scheduler.timesteps
        if self.timesteps.max() >= len(self._scheduler.alphas_cumprod):
            raise ValueError(
                f"num_inference_steps={steps} gives the timestep {int(self.timesteps.max())}, and the model knows "
                f"{len(self._scheduler.alphas_cumprod)} of them from 0; give fewer steps."
            )
        alphas = self._scheduler.alphas_cumprod[self.timesteps.to(self._scheduler.alphas_cumprod.device)]
        self._alphas = torch.cat([alphas, self._scheduler.final_alpha_cumprod.to(alphas).reshape(1)])

    def step(self, e: Tensor, x_t: Tensor, position: Tensor, towards: Tensor) -> Tensor:
        """One DDIM step with no noise added, in float32."""
        a, a_next = _at(self._alphas, position, towards, x_t)
        config = self._scheduler.config
        x_0, noise = _sample_and_noise(config.prediction_type, e.float(), x_t.float(), a)
        if config.clip_sample:
            x_0 = x_0.clamp(-config.clip_sample_range, config.clip_sample_range)
        return (a_next.sqrt() * x_0 + (1 - a_next).sqrt() * noise).to(x_t.dtype)


def _sample_and_noise(kind: str, e: Tensor, x_t: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The sample and the noise that a prediction stands for."""
    if kind == "epsilon":
        return (x_t - (1 - a).sqrt() * e) / a.sqrt(), e
    if kind == "sample":
        return e, (x_t - a.sqrt() * e) / (1 - a).sqrt()
    return a.sqrt() * x_t - (1 - a).sqrt() * e, a.sqrt() * e + (1 - a).sqrt() * x_t


class FlowFamily(Family):
    """Models of a flow's velocity: the pipeline's flow-matching Euler schedule, shifted by the size of the picture."""

    def check(self) -> None:
        """Refuse other schedulers, too."""
        super().check()
        if not isinstance(self.pipe.scheduler, FlowMatchEulerDiscreteScheduler):
            raise ValueError(
                f"The pipeline's scheduler is a {type(self.pipe.scheduler).__name__}; give it the one its model was "
                "trained with, FlowMatchEulerDiscreteScheduler."
            )

    def set_schedule(self, steps: int, shape: tuple[int, ...]) -> None:
        """The scheduler's own sigmas."""
        self._set(deepcopy(self.pipe.scheduler), steps, shape)

    def _set(self, scheduler: Any, steps: int, shape: tuple[int, ...], **options: Any) -> None:
        config = scheduler.config
        if config.use_dynamic_shifting:
            from diffusers.pipelines.flux.pipeline_flux import calculate_shift

            tokens = shape[1] * shape[2] * self.pipe.vae_scale_factor**2 // self.patch**2
            options["mu"] = calculate_shift(
                tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
            )
        scheduler.set_timesteps(steps, device=self.device, **options)
        self.timesteps, self._sigmas = scheduler.timesteps, scheduler.sigmas

    def step(self, e: Tensor, x_t: Tensor, position: Tensor, towards: Tensor) -> Tensor:
        """One Euler step: `x_t + (sigma_next - sigma) e`, in float32."""
        sigma, sigma_next = _at(self._sigmas, position, towards, x_t)
        return (x_t.float() + (sigma_next - sigma) * e.float()).to(x_t.dtype)


def _at(values: Tensor, position: Tensor, towards: Tensor, x_t: Tensor) -> Tensor:
    """The values at two positions each, (2, B, 1, 1, 1), in float32."""
    found = values[torch.stack([position, towards]).to(values.device)]
    return found.to(x_t.device, torch.float32).view(2, -1, *[1] * (x_t.dim() - 1))
