r"""The two kinds of schedules: diffusion (DDIM) and flow (Euler), each with the family that makes it.

A step goes from one timestep of the schedule to any later one, exactly. With `x_0` and `e` the sample and the noise
that a prediction stands for, the states of a diffusion and of a flow are

    x_t = sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) e            DDIM, arXiv:2010.02502, Eq. 12 without noise
    x_t = (1 - sigma_t) x_0 + sigma_t e                      Euler, v = e - x_0

`DDIMScheduler.step` itself takes `t - 1000 // steps` as the next timestep. That is not the next entry of `timesteps`
for linear spacing, or for trailing spacing with a number of steps that does not divide 1000.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from .base import Family, Schedule

# DDIM's defaults for these differ from what a latent diffusion model means if it does not set them.
_UNLESS_SET = {"clip_sample": False, "set_alpha_to_one": False}
_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
_PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, kw_only=True, eq=False)
class DiffusionSchedule(Schedule):
    """DDIM without noise.

    Attributes:
        alphas: Cumulative alphas at the timesteps, and that of the finished latent, (steps + 1,).
        prediction_type: What the denoiser predicts: `"epsilon"`, `"v_prediction"` or `"sample"`.
        clip: Samples are clipped to this absolute value; `None` does not clip.
    """

    alphas: Tensor
    prediction_type: str
    clip: float | None = None

    def noised(self, x_0: Tensor, e: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """`sqrt(alpha) x_0 + sqrt(1 - alpha) e`, in float32, and e, v or x_0."""
        a, _ = _values_at(self.alphas, position, position, x_0)
        x_0, e = x_0.float(), e.float()
        predictions = {"epsilon": e, "sample": x_0, "v_prediction": a.sqrt() * e - (1 - a).sqrt() * x_0}
        return a.sqrt() * x_0 + (1 - a).sqrt() * e, predictions[self.prediction_type]

    def step(self, e: Tensor, x_t: Tensor, position: Tensor, towards: Tensor) -> Tensor:
        """One DDIM step, in float32."""
        a, a_next = _values_at(self.alphas, position, towards, x_t)
        x_0, noise = _sample_and_noise(self.prediction_type, e.float(), x_t.float(), a)
        if self.clip is not None:
            x_0 = x_0.clamp(-self.clip, self.clip)
        return (a_next.sqrt() * x_0 + (1 - a_next).sqrt() * noise).to(x_t.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowSchedule(Schedule):
    """Flow-matching Euler.

    Attributes:
        sigmas: Noise levels at the timesteps, and 0 for the finished latent, (steps + 1,).
    """

    sigmas: Tensor

    def noised(self, x_0: Tensor, e: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """`(1 - sigma) x_0 + sigma e`, in float32, and `e - x_0`."""
        sigma, _ = _values_at(self.sigmas, position, position, x_0)
        x_0, e = x_0.float(), e.float()
        return (1 - sigma) * x_0 + sigma * e, e - x_0

    def step(self, e: Tensor, x_t: Tensor, position: Tensor, towards: Tensor) -> Tensor:
        """One Euler step: `x_t + (sigma_next - sigma) e`, in float32."""
        sigma, sigma_next = _values_at(self.sigmas, position, towards, x_t)
        return (x_t.float() + (sigma_next - sigma) * e.float()).to(x_t.dtype)


class DiffusionFamily(Family):
    """Models of noise, v or sample: DDIM with the betas, spacing and prediction type of the pipeline's scheduler.

    The pipeline's own scheduler is not changed, whatever its class. States have the variance that the model was trained
    on, so the denoiser takes them as they are. A scheduler with sigmas, such as Euler, has states that are larger by
    `sqrt(sigma^2 + 1)`, and divides by that in `scale_model_input`.
    """

    def check(self) -> None:
        """Also refuse latent consistency models, and schedulers whose noise levels DDIM cannot reproduce."""
        super().check()
        if getattr(self.denoiser.config, "time_cond_proj_dim", None) is not None:
            raise ValueError(
                "The denoiser is a latent consistency model (time_cond_proj_dim is set). It does not have an "
                "unconditional prediction to erase towards; train on the model that it was distilled from."
            )
        name, config = type(self.pipe.scheduler).__name__, self.pipe.scheduler.config
        if "beta_schedule" not in config:
            raise ValueError(
                f"The pipeline's {name} does not have betas; give the pipeline the scheduler that its model was "
                "trained with, such as DDIMScheduler."
            )
        if config.beta_schedule not in _BETAS and config.get("trained_betas") is None:
            raise ValueError(
                f"beta_schedule={config.beta_schedule!r} of the pipeline's scheduler is unknown to DDIM, which makes "
                f"the training states; it must be one of {', '.join(map(repr, _BETAS))}."
            )
        if config.get("timestep_type") == "continuous":
            raise ValueError(
                "The pipeline's scheduler has timestep_type='continuous' (EDM). Its noise levels are not those of its "
                "betas, from which training states are made, so such a model cannot be trained yet."
            )
        if config.get("thresholding"):
            raise ValueError("The pipeline's scheduler has thresholding=True, for models of pixels; set it to False.")
        if config.get("prediction_type", "epsilon") not in _PREDICTIONS:
            raise ValueError(
                f"prediction_type={config.prediction_type!r} of the pipeline's scheduler is unknown; it must be one of "
                f"{', '.join(map(repr, _PREDICTIONS))}."
            )

    def schedule(self, steps: int, shape: tuple[int, ...], guidance_scale: float) -> DiffusionSchedule:
        """DDIM's timesteps and alphas, computed from the configuration of the pipeline's scheduler."""
        scheduler = ddim(self.pipe.scheduler)
        scheduler.set_timesteps(steps, device=self.device)
        timesteps, alphas = scheduler.timesteps, scheduler.alphas_cumprod
        if timesteps.max() >= len(alphas):
            raise ValueError(
                f"`num_inference_steps`={steps} gives the timestep {int(timesteps.max())}, but the model only has "
                f"those from 0 to {len(alphas) - 1}; give fewer steps."
            )
        at_timesteps = alphas[timesteps.to(alphas.device)]
        return DiffusionSchedule(
            family=self,
            shape=shape,
            guidance_scale=guidance_scale,
            timesteps=timesteps,
            alphas=torch.cat([at_timesteps, scheduler.final_alpha_cumprod.to(at_timesteps).reshape(1)]),
            prediction_type=scheduler.config.prediction_type,
            clip=scheduler.config.clip_sample_range if scheduler.config.clip_sample else None,
        )


class FlowFamily(Family):
    """Models of a flow's velocity: Euler steps on the noise levels of the pipeline's scheduler.

    That is the flow-matching Euler scheduler, shifted by the size of the image, or a solver of a higher order with
    `use_flow_sigmas`, such as DPM-Solver and UniPC: it samples the same flow in another way.
    """

    def check(self) -> None:
        """Also refuse other schedulers."""
        super().check()
        scheduler = self.pipe.scheduler
        if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler) and not _samples_a_flow(scheduler):
            raise ValueError(
                f"The pipeline's scheduler is a {type(scheduler).__name__}; give the pipeline the one that "
                "its model was trained with, FlowMatchEulerDiscreteScheduler, or one with use_flow_sigmas=True and "
                "prediction_type='flow_prediction'."
            )

    def schedule_options(self, steps: int) -> dict[str, Any]:
        """Further arguments of the scheduler's `set_timesteps`, if the pipeline gives any."""
        return {}

    def shift(self, tokens: int, steps: int) -> float:
        """How far a scheduler with dynamic shifting moves its noise levels, its `mu`.

        Args:
            tokens: Patches of the image.
            steps: Denoising steps.
        """
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift

        config = self.pipe.scheduler.config
        return calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )

    def schedule(self, steps: int, shape: tuple[int, ...], guidance_scale: float) -> FlowSchedule:
        """The scheduler's own timesteps and sigmas."""
        scheduler = deepcopy(self.pipe.scheduler)
        options = self.schedule_options(steps)
        if scheduler.config.get("use_dynamic_shifting"):
            tokens = shape[-2] * shape[-1] * self.scale_factor**2 // self.patch**2
            options["mu"] = self.shift(tokens, steps)
        scheduler.set_timesteps(steps, device=self.device, **options)
        return FlowSchedule(
            family=self,
            shape=shape,
            guidance_scale=guidance_scale,
            timesteps=scheduler.timesteps,
            sigmas=scheduler.sigmas,
        )


def ddim(scheduler: Any, kind: Any = DDIMScheduler) -> Any:
    """DDIM with the betas, spacing and prediction type of another scheduler.

    Args:
        scheduler: Any scheduler with betas.
        kind: `DDIMScheduler` or a subclass.
    """
    # from_config would drop values that equal the other class's defaults, such as its timestep spacing.
    known = signature(DDIMScheduler.__init__).parameters
    options = {key: value for key, value in scheduler.config.items() if key in known}
    return kind(**{**_UNLESS_SET, **options})


def _samples_a_flow(scheduler: Any) -> bool:
    """Whether a solver for several kinds of models is set to a flow."""
    config = scheduler.config
    return bool(config.get("use_flow_sigmas")) and config.get("prediction_type") == "flow_prediction"


def _sample_and_noise(prediction_type: str, e: Tensor, x_t: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """The sample and the noise that a prediction stands for."""
    if prediction_type == "epsilon":
        return (x_t - (1 - a).sqrt() * e) / a.sqrt(), e
    if prediction_type == "sample":
        return e, (x_t - a.sqrt() * e) / (1 - a).sqrt()
    return a.sqrt() * x_t - (1 - a).sqrt() * e, a.sqrt() * e + (1 - a).sqrt() * x_t


def _values_at(values: Tensor, position: Tensor, towards: Tensor, x_t: Tensor) -> Tensor:
    """The values at two positions of each state, (2, B, 1, 1, 1), in float32."""
    pairs = values[torch.stack([position, towards]).to(values.device)]
    return pairs.to(x_t.device, torch.float32).view(2, -1, *[1] * (x_t.dim() - 1))
