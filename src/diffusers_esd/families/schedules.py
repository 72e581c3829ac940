"""The two kinds of schedules, walked without memory: a pool moves each of its trajectories from where it stands."""

from __future__ import annotations

from copy import deepcopy
from inspect import signature
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from .base import Family

# DDIM's defaults for these differ from what a latent diffusion model means by leaving them out.
_UNLESS_SET = {"clip_sample": False, "set_alpha_to_one": False}


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

    def step(self, e: Tensor, position: int, x_t: Tensor) -> Tensor:
        """One DDIM step with no noise added."""
        return self._scheduler.step(e, self.timesteps[position], x_t, return_dict=False)[0]


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

    def step(self, e: Tensor, position: int, x_t: Tensor) -> Tensor:
        """One Euler step: `x_t + (sigma_next - sigma) e`, in float32."""
        dt = self._sigmas[position + 1] - self._sigmas[position]
        return (x_t.float() + dt * e.float()).to(x_t.dtype)
