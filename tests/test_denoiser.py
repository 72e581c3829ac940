"""The user's pipeline is left as it was found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from pipelines import same, state_of
from tiny import latents, style_adapter, tiny_pipeline

from diffusers_esd import ESDTrainer, Progress
from diffusers_esd.adapter import Adapter
from diffusers_esd.denoiser import base_layers, tuner_layers
from diffusers_esd.groups import select

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 12, "rank": 2, "learning_rate": 1e-2, "preserve": ()}


@pytest.mark.parametrize("group", ["esd-x", "esd-u"])
@pytest.mark.parametrize("training", [False, True])
def test_an_erasure_changes_ours_and_nothing_of_the_users(group: str, training: bool) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    pipe.unet.train(training)
    pipe.unet.requires_grad_(training)
    pipe.scheduler.set_timesteps(7)
    scheduler, timesteps, before = pipe.scheduler, pipe.scheduler.timesteps.clone(), state_of(pipe)
    randomness = torch.random.get_rng_state()
    erasure = ESDTrainer(pipe, group=group, **QUICK).erase("a cat")

    same(before, state_of(pipe))
    assert pipe.scheduler is scheduler
    assert torch.equal(scheduler.timesteps, timesteps)
    assert torch.equal(torch.random.get_rng_state(), randomness)
    assert pipe.get_active_adapters() == ["style", "no-a-cat"]
    reference = tiny_pipeline()
    modules = [module for module, _ in reference.unet.named_modules()]
    selection = select(base_layers(reference.unet), modules, group)
    Adapter(reference.unet, "no-a-cat", selection, rank=2, lora_alpha=2, seed=0)
    initial = get_peft_model_state_dict(reference.unet, adapter_name="no-a-cat")
    assert len(initial) == len(erasure.weights) == 2 * erasure.provenance.layers
    for key, value in initial.items():
        assert not torch.equal(value, erasure.weights[f"unet.{key}"]), f"{key} has not moved"


def test_an_exception_leaves_no_trace() -> None:
    def fail(progress: Progress) -> None:
        raise RuntimeError("out of disk")

    for style in (False, True):
        pipe = tiny_pipeline()
        if style:
            style_adapter(pipe)
        before, picture = state_of(pipe), latents(pipe)
        with pytest.raises(RuntimeError, match="out of disk"):
            ESDTrainer(pipe, **QUICK).erase("a cat", callback=fail)
        same(before, state_of(pipe))
        assert len(tuner_layers(pipe.unet)) == len(before["styled"])
        assert torch.equal(latents(pipe), picture)
        ESDTrainer(pipe, **QUICK).erase("a cat")


def test_ctrl_c_returns_what_was_reached() -> None:
    def interrupt(progress: Progress) -> None:
        if progress.iteration == 5:
            raise KeyboardInterrupt

    pipe = tiny_pipeline()
    erasure = ESDTrainer(pipe, **QUICK).erase("a cat", callback=interrupt)
    assert not erasure.provenance.complete
    assert erasure.provenance.iterations == 5
    assert len(erasure.provenance.history) == 5
    assert ESDTrainer(pipe, **QUICK).erase("a dog").provenance.complete
