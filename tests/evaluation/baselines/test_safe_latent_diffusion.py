"""Safe Latent Diffusion against a naive loop, and against diffusers' own pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler, StableDiffusionPipelineSafe
from PIL.Image import Image
from pipelines import prediction
from tiny import BETAS, tiny_pipeline, tiny_sd3, tiny_xl
from torch import Tensor

from diffusers_esd.evaluation.baselines.safe_latent_diffusion import PRESETS, SafeLatentDiffusion, SafetyGuidance
from diffusers_esd.evaluation.methods import Base
from diffusers_esd.evaluation.prompts import Prompt

OPTIONS = {"num_inference_steps": 4, "guidance_scale": 5.0}
PROMPTS = (Prompt(case="a", text="a dog", seed=1), Prompt(case="b", text="a bus", seed=2))
STRONG = SafetyGuidance(scale=2000, warmup=1, threshold=0.02, momentum_scale=0.5, momentum_beta=0.7)


def drawn(method: Any, pipe: Any, **options: Any) -> list[Image]:
    with method.drawing(pipe, {**OPTIONS, **options}) as draw:
        return draw(PROMPTS)


def difference(a: list[Image], b: list[Image]) -> float:
    """Largest of a pixel, from 0 to 255."""
    return max(float(np.abs(np.asarray(x, float) - np.asarray(y, float)).max()) for x, y in zip(a, b, strict=True))


@torch.no_grad()
def naive(pipe: Any, prompt: Prompt, text: str, g: SafetyGuidance) -> Tensor:
    """Eq. 3 to 8 as the paper numbers them, one image, three evaluations a step, pixel by pixel."""
    scheduler, unet = pipe.scheduler, pipe.unet
    states = {p: pipe.encode_prompt(p, "cpu", 1, False)[0] for p in (prompt.text, text, "")}
    x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(prompt.seed)) * scheduler.init_noise_sigma
    scheduler.set_timesteps(OPTIONS["num_inference_steps"])
    nu = torch.zeros_like(x)
    for i, t in enumerate(scheduler.timesteps):
        inputs = scheduler.scale_model_input(x, t)
        e_p, e_s, e_0 = (unet(inputs, t, states[p]).sample for p in (prompt.text, text, ""))
        gamma = []
        for p, s, zero, old in zip(*(part.flatten().tolist() for part in (e_p, e_s, e_0, nu)), strict=True):
            mu = min(1.0, abs(g.scale * (p - s))) if p - s < g.threshold else 0.0
            gamma.append(mu * (s - zero) + g.momentum_scale * old)
        gamma = torch.tensor(gamma).view_as(x)
        nu = g.momentum_beta * nu + (1 - g.momentum_beta) * gamma
        e = e_0 + OPTIONS["guidance_scale"] * (e_p - e_0 - (gamma if i >= g.warmup else 0))
        x = scheduler.step(e, t, x).prev_sample
    return x


@pytest.mark.parametrize(("guidance", "euler"), [(STRONG, False), (PRESETS["max"], True)], ids=["strong", "max"])
def test_it_is_the_papers_formula(guidance: SafetyGuidance, euler: bool) -> None:
    pipe = tiny_pipeline()
    if euler:
        pipe.scheduler = EulerDiscreteScheduler(**BETAS)
    latents: list[Tensor] = []
    with SafeLatentDiffusion(["a cat"], preset=guidance).drawing(pipe, {**OPTIONS, "output_type": "latent"}) as draw:
        latents += [x[None] for x in draw(PROMPTS)]
        latents += [x[None] for x in draw(PROMPTS[:1])]  # the momentum starts anew
    reference = [naive(pipe, prompt, "a cat", guidance) for prompt in (*PROMPTS, PROMPTS[0])]
    for x, expected in zip(latents, reference, strict=True):
        # Where the difference is at the threshold, rounding decides.
        assert ((x - expected).abs() < 1e-3).float().mean() > 0.98
    with must_fail("the formula matters"):
        assert ((latents[0] - naive(pipe, PROMPTS[0], "a train", guidance)).abs() < 1e-3).float().mean() > 0.98


def test_it_draws_as_diffusers_own_pipeline() -> None:
    pipe = tiny_pipeline()
    safe = StableDiffusionPipelineSafe(**pipe.components, requires_safety_checker=False)
    safe.set_progress_bar_config(disable=True)
    safe.safety_concept = "a cat"
    numbers = {
        "sld_guidance_scale": STRONG.scale, "sld_warmup_steps": STRONG.warmup, "sld_threshold": STRONG.threshold,
        "sld_momentum_scale": STRONG.momentum_scale, "sld_mom_beta": STRONG.momentum_beta,
    }  # fmt: skip
    generators = [torch.Generator().manual_seed(prompt.seed) for prompt in PROMPTS]
    expected = safe([p.text for p in PROMPTS], generator=generators, **OPTIONS, **numbers).images
    ours = drawn(SafeLatentDiffusion(["a cat"], preset=STRONG), pipe)
    assert difference(ours, expected) <= 2
    with must_fail("safety guidance does something"):
        assert difference(drawn(Base(), pipe), expected) <= 2


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl])
def test_without_scale_it_is_plain_guidance_bit_for_bit(build: Any) -> None:
    pipe = build()
    off = SafetyGuidance(scale=0, warmup=0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7)
    late = SafetyGuidance(scale=5000, warmup=4, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7)
    plain = drawn(Base(), pipe)
    assert difference(drawn(SafeLatentDiffusion(["a cat"], preset=off), pipe), plain) == 0
    assert difference(drawn(SafeLatentDiffusion(["a cat"], preset=late), pipe), plain) == 0
    with must_fail("the strongest preset does something"):
        assert difference(drawn(SafeLatentDiffusion(["a cat"], preset="max"), pipe), plain) == 0
    assert difference(drawn(Base(), pipe), plain) == 0, "nothing is left behind"


def test_outside_of_drawing_the_denoiser_is_as_it_was() -> None:
    pipe = tiny_pipeline()
    before = prediction(pipe)
    with SafeLatentDiffusion(["a cat"], preset="max").drawing(pipe, OPTIONS) as draw:
        assert torch.equal(prediction(pipe), before)
        draw(PROMPTS)
        assert torch.equal(prediction(pipe), before)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"^`preset` must be one of 'weak', 'medium', 'strong', 'max', got 'huge'.$"):
        SafeLatentDiffusion(["a cat"], preset="huge")  # type: ignore[arg-type]
    method, pipe = SafeLatentDiffusion(["a cat"]), tiny_pipeline()
    assert method.name == "sld-medium"
    assert method.record(pipe)["safety_guidance"]["scale"] == 1000
    with pytest.raises(TypeError, match=r"^Safe Latent Diffusion is for .* XL; got a StableDiffusion3Pipeline.$"):
        drawn(method, tiny_sd3())
    with pytest.raises(ValueError, match=r"^Safe Latent Diffusion needs classifier-free guidance; give a"):
        drawn(method, pipe, guidance_scale=1.0)
    pipe.scheduler = HeunDiscreteScheduler(**BETAS)
    with pytest.raises(ValueError, match=r"^A HeunDiscreteScheduler evaluates the denoiser more than once a step"):
        drawn(method, pipe)
