"""Against the real pipeline and against the naive loop: states and updates are the same, number by number."""

from __future__ import annotations

import copy

import pytest
import torch
from controls import must_fail
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
)
from peft import LoraConfig, get_peft_model_state_dict
from tiny import BETAS, not_captured, tiny_pipeline

from diffusers_esd import ESDTrainer
from diffusers_esd.adapter import Adapter
from diffusers_esd.denoiser import base_layers
from diffusers_esd.families import DiffusionSchedule, family_for
from diffusers_esd.groups import select
from diffusers_esd.streams import stream
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.networks import Networks
from diffusers_esd.training.trajectory import FreshTrajectory

STEPS, GUIDANCE, SEED = 5, 4.0, 7  # 5 divides 1000
SHAPE = (4, 8, 8)


def fresh(pipe: StableDiffusionPipeline, name: str = "ours") -> FreshTrajectory:
    family = family_for(pipe)
    modules = [module for module, _ in pipe.unet.named_modules()]
    selection = select(base_layers(pipe.unet), modules, "esd-x")
    adapter = Adapter(pipe.unet, name, selection, rank=2, lora_alpha=2, seed=0)
    encoded = Encoded(family)
    encoded.add(["", "a cat"])
    return FreshTrajectory(
        Networks(family.schedule(STEPS, SHAPE, GUIDANCE), adapter, encoded, not_captured()),
        ["a cat"],
        purpose="erase",
        seed=SEED,
        batch_size=1,
        rollout="student",
        states=4,
    )


def first_of(state: int) -> tuple[int, torch.Tensor]:
    """Position and noise of a state of `FreshTrajectory`, from its stream."""
    generator = stream(SEED, "erase", state)
    position = int(torch.randint(STEPS, (), generator=generator))
    return position, torch.randn((1, *SHAPE), generator=generator)


def callback_latents(pipe: StableDiffusionPipeline, noise: torch.Tensor) -> list[torch.Tensor]:
    states = [noise * pipe.scheduler.init_noise_sigma]

    def keep(pipe: object, i: int, t: int, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        states.append(tensors["latents"])
        return tensors

    pipe(
        "a cat",
        latents=noise,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        output_type="latent",
        callback_on_step_end=keep,
    )
    return states


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_fresh_states_are_the_pipelines_own(prediction_type: str, spacing: str) -> None:
    """Spacings at which the pipeline's DDIM steps to its next timestep; test_schedules.py has the others."""
    pipe = tiny_pipeline(prediction_type)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    trajectory = fresh(pipe)
    for state in range(4):
        _, noise = first_of(state)
        states = trajectory.draw()
        expected = callback_latents(pipe, noise)
        position = int(states.position)
        assert torch.equal(trajectory.networks.schedule.timesteps, pipe.scheduler.timesteps)
        torch.testing.assert_close(states.x_t, expected[position], rtol=1e-4, atol=1e-4)
        if position:
            with must_fail("states do move"):
                torch.testing.assert_close(states.x_t, expected[position - 1], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("scheduler", [PNDMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler])
def test_any_scheduler_trains_on_ddim_of_its_configuration(scheduler: type) -> None:
    pipe = tiny_pipeline()
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    schedule = family_for(pipe).schedule(STEPS, SHAPE, GUIDANCE)
    assert isinstance(pipe.scheduler, scheduler)
    assert isinstance(schedule, DiffusionSchedule)
    assert schedule.clip is None
    theirs = pipe.scheduler.config
    ddim = DDIMScheduler(**{key: theirs[key] for key in BETAS}, prediction_type=theirs.prediction_type)
    ddim.set_timesteps(STEPS)
    assert schedule.prediction_type == ddim.config.prediction_type
    assert torch.equal(schedule.timesteps, ddim.timesteps)
    assert torch.equal(schedule.alphas[:-1], ddim.alphas_cumprod[ddim.timesteps])
    with must_fail("other betas give other alphas"):
        linear = DDIMScheduler(**{**BETAS, "beta_schedule": "linear"})
        assert torch.equal(schedule.alphas[:-1], linear.alphas_cumprod[ddim.timesteps])


def naive(
    pipe: StableDiffusionPipeline, iterations: int, eta: float, rate: float, anchor: str
) -> list[dict[str, torch.Tensor]]:
    """Two networks and a plain loop: the published algorithm, with the frozen copy's unconditional in the guidance."""
    teacher, student = copy.deepcopy(pipe.unet), pipe.unet
    modules = [module for module, _ in student.named_modules()]
    pattern = select(base_layers(student), modules, "esd-u").pattern
    student.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=pattern), adapter_name="naive")
    for path, layer in student.named_modules():
        if "naive" in getattr(layer, "lora_A", {}):
            weight = layer.lora_A["naive"].weight
            torch.nn.init.kaiming_uniform_(weight, a=5**0.5, generator=stream(SEED, "adapter", path))
    parameters = [p for name, p in student.named_parameters() if "lora_" in name]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(STEPS)
    null, cond, towards = (pipe.encode_prompt(p, "cpu", 1, False)[0].detach() for p in ("", "a cat", anchor))
    history = []
    for iteration in range(iterations):
        k, x_t = first_of(iteration)
        with torch.no_grad():
            for t in scheduler.timesteps[:k]:
                e_null = teacher(x_t, t, null).sample
                e_student = student(x_t, t, cond).sample
                x_t = scheduler.step(e_null + GUIDANCE * (e_student - e_null), t, x_t).prev_sample
            t = scheduler.timesteps[k]
            e_a, e_cond = teacher(x_t, t, towards).sample, teacher(x_t, t, cond).sample
        loss = (student(x_t, t, cond).sample - (e_a - eta * (e_cond - e_a))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({k: v.clone() for k, v in get_peft_model_state_dict(student, adapter_name="naive").items()})
    return history


@pytest.mark.parametrize(
    ("prediction_type", "anchor"), [("epsilon", ""), ("v_prediction", ""), ("epsilon", "an animal")]
)
def test_a_training_equals_the_naive_reference_update_by_update(prediction_type: str, anchor: str) -> None:
    iterations, eta, rate = 6, 1.5, 1e-3
    expected = naive(tiny_pipeline(prediction_type), iterations, eta, rate, anchor)
    pipe, updates = tiny_pipeline(prediction_type), []

    def keep(progress: object) -> None:
        state = get_peft_model_state_dict(pipe.unet, adapter_name="no-cat")
        updates.append({key: value.clone() for key, value in state.items()})

    ESDTrainer(
        pipe,
        group="esd-u",
        preserve=(),
        eta=eta,
        anchor=anchor,
        guidance_scale=GUIDANCE,
        num_inference_steps=STEPS,
        iterations=iterations,
        learning_rate=rate,
        rank=2,
        lora_alpha=4,
        trajectory="fresh",
        seed=SEED,
    ).erase("a cat", name="no-cat", callback=keep)
    assert len(updates) == iterations
    for ours, theirs in zip(updates, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours:
            torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=rate / 20)
    moved = max((updates[-1][k] - updates[0][k]).abs().max().item() for k in updates[0])
    with must_fail("the weights moved far more than the tolerance"):
        assert moved < 3 * rate
