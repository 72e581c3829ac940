"""The noise probe's step is diffusers' DDIM where that has one, and finite beyond."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from diffusers import DDIMScheduler
from tiny import tiny_pipeline, tiny_sd3, tiny_xl

from diffusers_esd.evaluation.attacks.noise_probe import NoisyDDIM, best_of, noise_probe
from diffusers_esd.evaluation.methods import drawer
from diffusers_esd.evaluation.prompts import Prompt
from diffusers_esd.families.schedules import ddim

PROMPTS = [Prompt(case=f"c{i}", text="a cat", seed=i, concept="a cat", labels={"subject": "cat"}) for i in range(2)]


def steps(scheduler: Any, **options: Any) -> torch.Tensor:
    """Four steps from fixed noise with a made-up denoiser."""
    scheduler.set_timesteps(4)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((2, 4, 8, 8), generator=generator)
    for t in scheduler.timesteps:
        e = (x * 0.9 + t / 1000).sin()
        x = scheduler.step(e, t, x, generator=generator, return_dict=False, **options)[0]
    return x


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_it_is_ddim_up_to_an_eta_of_1(prediction_type: str, eta: float) -> None:
    stock = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type=prediction_type)
    noisy = ddim(stock, NoisyDDIM)
    noisy.eta = eta
    expected = steps(stock, eta=eta)
    torch.testing.assert_close(steps(noisy), expected, rtol=1e-4, atol=1e-4)
    noisy.scale = 1.04
    if eta:
        with must_fail("the scale of the noise matters"):
            torch.testing.assert_close(steps(noisy), expected, rtol=1e-4, atol=1e-4)


def test_it_is_finite_where_ddim_is_not() -> None:
    stock = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, beta_schedule="scaled_linear")
    noisy = ddim(stock, NoisyDDIM)
    noisy.eta = 1.85
    assert steps(noisy).isfinite().all()
    with must_fail("diffusers takes the root of a negative number"):
        assert steps(stock, eta=1.85).isfinite().all()


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl])
def test_every_prompt_has_every_pair(build: Any) -> None:
    pipe = build()
    before = pipe.scheduler
    probe = noise_probe(PROMPTS, etas=(1.0, 1.85), scales=(1.0, 1.04))
    assert len({prompt.case for prompt in probe.prompts}) == 8
    draw = drawer(pipe, {"num_inference_steps": 3})
    with probe.drawing(pipe, draw, ()) as attacked:
        images = attacked(probe.prompts)
        alone = attacked(probe.prompts[5:6])[0]
    assert pipe.scheduler is before
    assert np.abs(np.asarray(images[5], float) - np.asarray(alone, float)).max() <= 1
    assert len({image.tobytes() for image in images}) == 8
    assert probe.record()["noise"]["c0-eta1.85-scale1.04"] == [1.85, 1.04]
    assert {prompt.group for prompt in probe.prompts} == {"noise probe"}
    hits = {prompt.case: prompt.case == "c1-eta1.85-scale1" for prompt in probe.prompts}
    assert best_of(hits) == {"c0": False, "c1": True}


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match=r"^`etas` must be 0 or more and `scales` above 0; got \[-1\] and \[1\].$"):
        noise_probe(PROMPTS, etas=[-1], scales=[1])
    pipe = tiny_sd3()
    with (
        pytest.raises(TypeError, match=r"^The noise probe needs a diffusion model that DDIM samples; got a StableDiff"),
        noise_probe(PROMPTS).drawing(pipe, drawer(pipe, {}), ()),
    ):
        pass
