"""What a pipeline predicts, what it is, and what it must be with erasures: references for the tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from diffusers_esd import Erasure
from diffusers_esd.objective import projections


@torch.no_grad()
def prediction(pipe: StableDiffusionPipeline) -> Tensor:
    """The denoiser's prediction for fixed noise and a fixed prompt."""
    x_t = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    states = pipe.encode_prompt("a cat", "cpu", 1, False)[0]
    return pipe.unet(x_t, 500, states).sample


def state_of(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """Everything of a pipeline that an erasure must not change, by name without PEFT's wrapping."""
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
    """Assert that two states are equal, bit for bit."""
    assert before["modes"] == after["modes"]
    assert before["styled"] == after["styled"]
    assert before["scheduler"] == after["scheduler"]
    assert before["parameters"].keys() == after["parameters"].keys()
    for name, (value, requires_grad) in before["parameters"].items():
        assert torch.equal(after["parameters"][name][0], value), name
        assert after["parameters"][name][1] == requires_grad, name


def with_deltas(pipe: StableDiffusionPipeline, scales: Mapping[Erasure, float]) -> StableDiffusionPipeline:
    """The pipeline with dense differences of weights, added one by one in float64."""
    for erasure, scale in scales.items():
        for key, a in erasure.weights.items():
            if key.endswith("lora_A.weight"):
                b = erasure.weights[key.replace("lora_A", "lora_B")]
                weight = pipe.unet.get_submodule(key.removeprefix("unet.").removesuffix(".lora_A.weight")).weight
                delta = torch.einsum("or,ri->oi", b.flatten(1).double(), a.flatten(1).double())
                weight.data += (scale * delta).view_as(weight).float()
    return pipe


def alignment(*predictions: Tensor) -> Tensor:
    """The ratio of both sums, over all states."""
    along, length = projections(*predictions)
    return along.sum() / length.sum()
