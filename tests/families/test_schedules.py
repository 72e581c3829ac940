"""States and timesteps belong together, however timesteps are spaced and however far a step goes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from tiny import BETAS, tiny_flux, tiny_pipeline, tiny_sd3, tiny_xl
from torch import Tensor

from diffusers_esd import ESDTrainer
from diffusers_esd.families import FlowSchedule, Schedule, family_for

SHAPE = (4, 8, 8)
STEPS = (4, 6, 10, 20, 25, 28, 30, 50)
SPACINGS = ("leading", "trailing", "linspace")


def walked(schedule: Schedule, prediction: Any, noise: Tensor, stride: int) -> list[tuple[int, Tensor]]:
    """Positions and states of a trajectory that goes several positions at a time."""
    position, x_t, states = 0, noise, [(0, noise)]
    while position < len(schedule.timesteps) - 1:
        towards = min(position + stride, len(schedule.timesteps) - 1)
        x_t = schedule.step(prediction(x_t, position), x_t, torch.tensor([position]), torch.tensor([towards]))
        position = towards
        states.append((position, x_t))
    return states


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("stride", [1, 3])
def test_every_state_has_the_signal_that_its_timestep_says(spacing: str, prediction_type: str, stride: int) -> None:
    """With x_0 and e fixed, the state at t is sqrt(alpha_t) x_0 + sqrt(1 - alpha_t) e, exactly."""
    pipe = tiny_pipeline(prediction_type)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    family = family_for(pipe)
    alphas = pipe.scheduler.alphas_cumprod
    x_0, e = torch.randn((2, 1, *SHAPE), generator=torch.Generator().manual_seed(0))
    for steps in STEPS:
        schedule = family.schedule(steps, SHAPE, 3.0)
        at_timesteps = alphas[schedule.timesteps]

        def prediction(x_t: Tensor, position: int, at_timesteps: Tensor = at_timesteps) -> Tensor:
            a = at_timesteps[position]
            return {"epsilon": e, "sample": x_0, "v_prediction": a.sqrt() * e - (1 - a).sqrt() * x_0}[prediction_type]

        first = at_timesteps[0].sqrt() * x_0 + (1 - at_timesteps[0]).sqrt() * e
        for position, x_t in walked(schedule, prediction, first, stride):
            a = at_timesteps[position]
            torch.testing.assert_close(x_t, a.sqrt() * x_0 + (1 - a).sqrt() * e, rtol=2e-4, atol=2e-4)
            noised, predicted = schedule.noised(x_0, e, torch.tensor([position]))
            torch.testing.assert_close(noised, x_t, rtol=2e-4, atol=2e-4)
            torch.testing.assert_close(predicted, prediction(x_t, position))


def test_a_step_by_the_schedulers_own_rule_misses_where_timesteps_are_spaced_linearly() -> None:
    """The control of the test above: `DDIMScheduler.step` goes to t - 1000 // N."""
    x_0, e = torch.randn((2, 1, *SHAPE), generator=torch.Generator().manual_seed(0))
    for spacing, steps in (("linspace", 6), ("linspace", 50), ("trailing", 28)):
        scheduler = DDIMScheduler(**{**BETAS, "timestep_spacing": spacing}, clip_sample=False, set_alpha_to_one=False)
        scheduler.set_timesteps(steps)
        alphas = scheduler.alphas_cumprod[scheduler.timesteps]
        x_t = alphas[0].sqrt() * x_0 + (1 - alphas[0]).sqrt() * e
        with must_fail(f"{spacing} {steps}"):
            for i, t in enumerate(scheduler.timesteps[:-1]):
                x_t = scheduler.step(e, t, x_t).prev_sample
                expected = alphas[i + 1].sqrt() * x_0 + (1 - alphas[i + 1]).sqrt() * e
                torch.testing.assert_close(x_t, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("build", [tiny_sd3, tiny_flux])
@pytest.mark.parametrize("stride", [1, 3])
def test_every_state_of_a_flow_lies_between_noise_and_sample(build: Any, stride: int) -> None:
    family = family_for(build())
    x_0, e = torch.randn((2, 1, *SHAPE), generator=torch.Generator().manual_seed(0))
    for steps in STEPS:
        schedule = family.schedule(steps, SHAPE, 3.0)
        assert isinstance(schedule, FlowSchedule)
        sigmas = schedule.sigmas
        assert torch.allclose(sigmas[:-1] * 1000, schedule.timesteps), "the denoiser gets the state's own timestep"
        first = (1 - sigmas[0]) * x_0 + sigmas[0] * e
        for position, x_t in walked(schedule, lambda x_t, position: e - x_0, first, stride):
            expected = (1 - sigmas[position]) * x_0 + sigmas[position] * e
            torch.testing.assert_close(x_t, expected, rtol=1e-4, atol=1e-4)
            noised, predicted = schedule.noised(x_0, e, torch.tensor([position]))
            torch.testing.assert_close(noised, x_t, rtol=1e-4, atol=1e-4)
            assert torch.equal(predicted, e - x_0)


def test_positions_of_a_batch_may_differ() -> None:
    schedule = family_for(tiny_pipeline()).schedule(10, SHAPE, 3.0)
    x_t, e = torch.randn((2, 3, *SHAPE), generator=torch.Generator().manual_seed(0))
    together = schedule.step(e, x_t, torch.tensor([0, 4, 9]), torch.tensor([3, 5, 10]))
    for i, (position, towards) in enumerate([(0, 3), (4, 5), (9, 10)]):
        one = schedule.step(e[i : i + 1], x_t[i : i + 1], torch.tensor([position]), torch.tensor([towards]))
        torch.testing.assert_close(together[i : i + 1], one, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timestep_type": "continuous"}, r"timestep_type='continuous' \(EDM\)"),
        ({"beta_schedule": "sigmoid"}, r"beta_schedule='sigmoid' of the pipeline's scheduler is unknown to DDIM"),
        ({"beta_schedule": "laplace"}, r"beta_schedule='laplace' .* must be one of 'linear', 'scaled_linear'"),
        ({"thresholding": True}, r"thresholding=True, for models of pixels"),
    ],
)
def test_schedules_that_ddim_cannot_make_are_refused_by_name(changes: dict[str, Any], message: str) -> None:
    pipe = tiny_xl()
    pipe.scheduler = EulerDiscreteScheduler(**BETAS)
    ESDTrainer(pipe)  # the control: trained as it is
    pipe.scheduler.register_to_config(**changes)
    with pytest.raises(ValueError, match=message):
        ESDTrainer(pipe)


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_flux])
def test_a_schedule_is_a_value(build: Any) -> None:
    """A second schedule of a family does not change the first one."""
    family = family_for(build())
    schedule = family.schedule(10, SHAPE, 3.0)
    timesteps = schedule.timesteps.clone()
    other = family.schedule(4, SHAPE, 1.0)
    assert torch.equal(schedule.timesteps, timesteps)
    assert (schedule.guidance_scale, other.guidance_scale) == (3.0, 1.0)
    with must_fail("the second one has other timesteps"):
        assert torch.equal(other.timesteps, timesteps)
    with pytest.raises(FrozenInstanceError):
        schedule.timesteps = other.timesteps  # type: ignore[misc]


def test_first_noise_does_not_depend_on_the_default_type() -> None:
    schedule = family_for(tiny_pipeline()).schedule(4, SHAPE, 3.0)
    expected = torch.randn((2, *SHAPE), generator=torch.Generator().manual_seed(3))
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(schedule.noise(torch.Generator().manual_seed(3), 2), expected)
    finally:
        torch.set_default_dtype(torch.float32)
