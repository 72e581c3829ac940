r"""Safe Latent Diffusion (Schramowski et al. 2023, arXiv:2211.05105): guidance away from a text. No weight changes.

With the predictions e(c_p) for the prompt, e(c_S) for the safety text and e for no text, the guided prediction is

    e + s_g (e(c_p) - e - gamma)                                                  Eq. 3, after warm-up
    gamma = mu (e(c_S) - e) + s_m nu                                              Eq. 4 and 7
    mu = min(1, |s_S (e(c_p) - e(c_S))|) where e(c_p) - e(c_S) < lambda, else 0   Eq. 5 and 6
    nu <- beta_m nu + (1 - beta_m) gamma                                          Eq. 8, from 0

The paper prints `max(1, ...)` in Eq. 5; the authors' code, and so diffusers' `StableDiffusionPipelineSafe`, has the
minimum, as here. That pipeline is deprecated and does not take `prompt_embeds`. Here the prediction for the prompt
becomes `e(c_p) - gamma` as it leaves the denoiser, so the pipeline's own guidance gives Eq. 3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from diffusers import DiffusionPipeline
from PIL.Image import Image
from torch import Tensor

from ...families import Conditioning, Family, StableDiffusion, StableDiffusionXL, family_for
from ..methods import Draw, Method, base_record, drawer
from ..prompts import Prompt
from .negative_prompt import checked

Preset = Literal["weak", "medium", "strong", "max"]


@dataclass(frozen=True, kw_only=True)
class SafetyGuidance:
    """The numbers of Safe Latent Diffusion.

    Attributes:
        scale: s_S, 0 or more; 0 is no safety guidance.
        warmup: Delta: the first steps, whose guidance is as usual. The presets are for 50 steps.
        threshold: Lambda.
        momentum_scale: s_m, from 0 to 1.
        momentum_beta: beta_m, from 0 to below 1.
    """

    scale: float
    warmup: int
    threshold: float
    momentum_scale: float
    momentum_beta: float

    def gamma(self, e_null: Tensor, e: Tensor, e_safe: Tensor, momentum: Tensor | float) -> Tensor:
        """The gamma of Eq. 7.

        Args:
            e_null: Predictions without text, (B, C, H, W).
            e: Predictions for the prompts.
            e_safe: Predictions for the safety text.
            momentum: nu; 0 at the first step.
        """
        difference = e - e_safe
        mu = (self.scale * difference).abs().clamp(max=1)
        mu = mu.where(difference < self.threshold, 0)
        return mu * (e_safe - e_null) + self.momentum_scale * momentum


PRESETS: dict[Preset, SafetyGuidance] = {
    "weak": SafetyGuidance(scale=200, warmup=15, threshold=0.0, momentum_scale=0.0, momentum_beta=0.0),
    "medium": SafetyGuidance(scale=1000, warmup=10, threshold=0.01, momentum_scale=0.3, momentum_beta=0.4),
    "strong": SafetyGuidance(scale=2000, warmup=7, threshold=0.025, momentum_scale=0.5, momentum_beta=0.7),
    "max": SafetyGuidance(scale=5000, warmup=0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7),
}
"""The paper's four settings. diffusers' `SafetyConfig.WEAK` has a scale of 20, not 200."""


class SafeLatentDiffusion(Method):
    """Safety guidance with the concepts as the safety text, for Stable Diffusion 1.x, 2.x and XL.

    Args:
        concepts: The concepts, at least one.
        preset: One of the paper's settings, or numbers of your own.
        name: Name of the column; `None` means `sld-` and the preset.

    Raises:
        TypeError: If a concept is not a string.
        ValueError: If there is no concept, one is empty, or the preset is unknown.
    """

    def __init__(
        self, concepts: Sequence[str], *, preset: Preset | SafetyGuidance = "medium", name: str | None = None
    ) -> None:
        self.erases = checked(concepts)
        if not isinstance(preset, SafetyGuidance) and preset not in PRESETS:
            raise ValueError(f"`preset` must be one of {', '.join(map(repr, PRESETS))}, got {preset!r}.")
        self.guidance = preset if isinstance(preset, SafetyGuidance) else PRESETS[preset]
        own = "own" if isinstance(preset, SafetyGuidance) else preset
        self.name = f"sld-{own}" if name is None else name

    def record(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The base weights, the safety text and the numbers."""
        return {**base_record(pipe), "safety_text": ", ".join(self.erases), "safety_guidance": asdict(self.guidance)}

    def check(self, pipe: DiffusionPipeline) -> None:
        """Refuse another kind of pipeline.

        Raises:
            TypeError: If it is not a Stable Diffusion 1.x, 2.x or XL.
            ValueError: If its scheduler evaluates the denoiser twice a step.
        """
        family = family_for(pipe)
        if not isinstance(family, StableDiffusion | StableDiffusionXL):
            raise TypeError(
                f"Safe Latent Diffusion is for Stable Diffusion 1.x, 2.x and XL; got a {type(pipe).__name__}."
            )
        if family.pipe.scheduler.order != 1:
            raise ValueError(
                f"A {type(family.pipe.scheduler).__name__} evaluates the denoiser more than once a step, and Safe "
                "Latent Diffusion counts its steps; give the pipeline another scheduler, such as DDIMScheduler."
            )

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> Iterator[Draw]:
        """Draws with safety guidance.

        Raises:
            ValueError: While drawing, if there is no classifier-free guidance.
        """
        self.check(pipe)
        family = family_for(pipe)
        safety, as_usual = family.encode([", ".join(self.erases)]), drawer(pipe, options)

        def draw(prompts: Sequence[Prompt], **more: Any) -> list[Image]:
            # Only here: what an attack learns with the denoiser is not guided.
            hook = family.network.register_forward_hook(_Guide(family, self.guidance, safety), with_kwargs=True)
            try:
                return as_usual(prompts, **more)
            finally:
                hook.remove()

        yield draw


class _Guide:
    """A hook on a denoiser: the prediction for the prompt, less gamma."""

    def __init__(self, family: Family, guidance: SafetyGuidance, safety: Conditioning) -> None:
        self._family, self._guidance, self._safety = family, guidance, safety
        self._step, self._t, self._momentum = 0, -1.0, torch.zeros(())

    @torch.no_grad()
    def __call__(self, network: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: tuple[Tensor]) -> Any:
        """What the pipeline gets in place of the network's output."""
        if not self._family.pipe.do_classifier_free_guidance:
            raise ValueError("Safe Latent Diffusion needs classifier-free guidance; give a `guidance_scale` above 1.")
        e_null, e = output[0].chunk(2)
        e_safe = network.forward(inputs[0].chunk(2)[0], *inputs[1:], **self._with_safety(named, len(e)))[0]
        t = float(inputs[1])
        if t >= self._t:  # time runs down, so these are new images
            self._step, self._momentum = 0, torch.zeros_like(e)
        gamma = self._guidance.gamma(e_null, e, e_safe, self._momentum)
        beta = self._guidance.momentum_beta
        self._momentum = beta * self._momentum + (1 - beta) * gamma
        guided = e - gamma if self._step >= self._guidance.warmup else e
        self._step, self._t = self._step + 1, t
        return (torch.cat([e_null, guided]), *output[1:])

    def _with_safety(self, named: Mapping[str, Any], n: int) -> dict[str, Any]:
        """The named arguments of the pipeline's call, with the safety text for n images."""
        rows = {key: value.expand(n, *value.shape[1:]) for key, value in self._safety.items()}
        states = rows.pop("encoder_hidden_states")
        added = named.get("added_cond_kwargs")
        if added is not None:
            added = {**{key: value.chunk(2)[0] for key, value in added.items()}, **rows}
        return {**named, "encoder_hidden_states": states, "added_cond_kwargs": added}
