"""One denoiser, two networks: the teacher is exact, whatever the names of adapters and layers are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from peft import get_peft_model_state_dict
from pipelines import prediction
from tiny import latents, style_adapter, tiny_pipeline

from diffusers_esd import ESDTrainer
from diffusers_esd.adapter import Adapter
from diffusers_esd.denoiser import base_layers
from diffusers_esd.groups import select

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 12, "rank": 2, "learning_rate": 1e-2, "preserve": ()}


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
