"""One denoiser, two networks: the teacher is exact, and the user's pipeline is left as it was found."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from peft import get_peft_model_state_dict
from tiny import latents, style_adapter, tiny_pipeline
from torch import Tensor

from diffusers_esd import ESDTrainer, Progress
from diffusers_esd.adapter import Adapter
from diffusers_esd.denoiser import base_layers, tuner_layers
from diffusers_esd.groups import select

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 12, "rank": 2, "learning_rate": 1e-2, "preserve": ()}


@torch.no_grad()
def prediction(pipe: StableDiffusionPipeline) -> Tensor:
    x_t = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    states = pipe.encode_prompt("a cat", "cpu", 1, False)[0]
    return pipe.unet(x_t, 500, states).sample


def attach(pipe: StableDiffusionPipeline, group: Any, name: str = "ours", rank: int = 2) -> Adapter:
    modules = [module for module, _ in pipe.unet.named_modules()]
    selection = select(base_layers(pipe.unet), modules, group)
    return Adapter(pipe.unet, name, selection, rank=rank, lora_alpha=rank, seed=0)


@pytest.mark.parametrize("group", ["esd-x", "esd-x-strict", "esd-u", "full"])
@pytest.mark.parametrize("style", [False, True])
def test_the_teacher_is_the_pipeline_before_attaching(group: str, style: bool) -> None:
    pipe = tiny_pipeline()
    if style:
        plain = prediction(pipe)
        style_adapter(pipe)
        with must_fail("the style does something"):
            assert torch.equal(prediction(pipe), plain)
    before = prediction(pipe)
    adapter = attach(pipe, group)
    assert torch.equal(prediction(pipe), before), "a new adapter is the identity"
    with torch.no_grad():
        for parameter in adapter.parameters:
            parameter.add_(0.1)
    with must_fail("the student differs"):
        assert torch.equal(prediction(pipe), before)
    with adapter.off():
        assert torch.equal(prediction(pipe), before)
    with pytest.raises(KeyError), adapter.off():
        raise KeyError
    assert not torch.equal(prediction(pipe), before), "switched on again after an error"


def state_of(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """Everything of a pipeline that an erasure must leave alone, by name without PEFT's wrapping."""
    unet = pipe.unet
    parameters = {
        name.replace(".base_layer", ""): (p.detach().clone(), p.requires_grad)
        for name, p in unet.named_parameters()
        if ".no-" not in name
    }
    modes = {
        name.replace(".base_layer", ""): module.training
        for name, module in unet.named_modules()
        if "lora" not in name and not hasattr(module, "base_layer")
    }
    styled = {
        name: (layer.scaling["style"], [a for a in layer.active_adapters if a == "style"])
        for name, layer in unet.named_modules()
        if "style" in getattr(layer, "scaling", {})
    }
    public = {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    return {"parameters": parameters, "modes": modes, "styled": styled, "scheduler": public}


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before["modes"] == after["modes"]
    assert before["styled"] == after["styled"]
    assert before["scheduler"] == after["scheduler"]
    assert before["parameters"].keys() == after["parameters"].keys()
    for name, (value, requires_grad) in before["parameters"].items():
        assert torch.equal(after["parameters"][name][0], value), name
        assert after["parameters"][name][1] == requires_grad, name


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
    attach(reference, group, "no-a-cat")
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


def test_a_half_precision_base_gets_float32_weights() -> None:
    pipe = tiny_pipeline().to(torch.bfloat16)
    erasure = ESDTrainer(pipe, **QUICK).erase("a cat")
    assert {value.dtype for value in erasure.weights.values()} == {torch.float32}
    assert {p.dtype for name, p in pipe.unet.named_parameters() if "lora_" in name} == {torch.float32}
    assert {p.dtype for name, p in pipe.unet.named_parameters() if "lora_" not in name} == {torch.bfloat16}
    assert all(torch.isfinite(value).all() for value in erasure.weights.values())


def test_a_second_erasure_is_trained_on_top_of_the_first() -> None:
    pipe = tiny_pipeline()
    first = ESDTrainer(pipe, group="esd-x", **QUICK).erase("a cat")
    ESDTrainer(pipe, group="esd-u", **QUICK).erase("a dog")
    assert pipe.get_active_adapters() == ["no-a-cat", "no-a-dog"]
    state = get_peft_model_state_dict(pipe.unet, adapter_name="no-a-cat")
    assert all(torch.equal(first.weights[f"unet.{key}"], value) for key, value in state.items())


@pytest.mark.parametrize("name", ["0", "conv", "attn2", "base_layer"])
def test_a_name_that_layers_have_too_trains_no_base_weight(name: str) -> None:
    pipe = tiny_pipeline()
    base = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    picture = latents(pipe)
    erasure = ESDTrainer(pipe, **QUICK).erase("a cat", name=name)
    trained = latents(pipe)
    with must_fail("the erasure does something"):
        assert torch.equal(trained, picture)
    erasure.remove(pipe)
    assert pipe.unet.state_dict().keys() == base.keys()
    assert all(torch.equal(value, base[key]) for key, value in pipe.unet.state_dict().items())
    erasure.apply(pipe)
    assert torch.equal(latents(pipe), trained)


@pytest.mark.parametrize("name", ["0", "attn1"])
def test_a_users_name_that_layers_have_too_costs_no_weights(name: str) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe, name)
    styled = latents(pipe)
    erasure = ESDTrainer(pipe, **QUICK).erase("a cat")
    trained = latents(pipe)
    assert len(erasure.weights) == 2 * erasure.provenance.layers
    erasure.remove(pipe)
    assert torch.equal(latents(pipe), styled)
    erasure.apply(pipe)
    assert torch.equal(latents(pipe), trained)


def test_the_tiny_pipeline_tells_prompts_apart() -> None:
    """The control of every test here: a concept has a direction to erase."""
    pipe = tiny_pipeline()
    x_t = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        e_cond, e_null = (
            pipe.unet(x_t, 500, pipe.encode_prompt(prompt, "cpu", 1, False)[0]).sample for prompt in ("a cat", "")
        )
    assert (e_cond - e_null).std() > 0.1 * e_cond.std()
