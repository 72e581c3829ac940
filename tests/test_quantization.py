"""What is known of quantised weights: kind, shape, values and memory, and whether an adapter can train beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import QuantoConfig
from diffusers.quantizers import DiffusersAutoQuantizer
from emoji_sd import load
from quantised import QUANTISED, torchao
from torch import nn
from torch.nn import functional
from torchao.quantization import Int8DynamicActivationInt8WeightConfig

from diffusers_esd import ESDTrainer
from diffusers_esd.base_model import fingerprint, same_weights
from diffusers_esd.denoiser import base_layers, check_denoiser
from diffusers_esd.quantization import (
    check_full_weights,
    compute_dtype,
    dequantised,
    kind_of,
    quantization,
    stored_bytes,
    weight_shape,
)

BYTES = {  # of a number, with the scales of a row of 64 numbers or of a block of 32
    "torchao Int8Tensor": 1 + 5 / 64,  # and a zero point for each row
    "torchao Float8Tensor": 1 + 4 / 64,
    "bitsandbytes int8": 1,
    "bitsandbytes nf4": 0.5,
    "bitsandbytes fp4": 0.5,
    "GGUF Q8_0": 1 + 2 / 32,
    "GGUF Q4_0": 0.5 + 2 / 32,
    "float8_e4m3fn storage": 1,
}
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q"


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_quantised_layer_is_what_it_stands_for(kind: str) -> None:
    pipe: Any = QUANTISED[kind]()
    base: Any = load()
    assert quantization(pipe.unet) == kind
    assert quantization(base.unet) == ""
    assert compute_dtype(pipe.unet) == torch.float32
    assert base_layers(pipe.unet) == base_layers(base.unet)
    assert all(
        weight_shape(pipe.unet.get_submodule(name)) == tuple(base.unet.get_submodule(name).weight.shape)
        for name in base_layers(base.unet)
    )
    layer, own = pipe.unet.get_submodule(LAYER), base.unet.get_submodule(LAYER).weight
    assert kind_of(layer) == kind
    assert stored_bytes(layer.weight) == BYTES[kind] * own.numel()
    assert stored_bytes(own) == 4 * own.numel()
    weight = dequantised(layer)
    assert weight.shape == own.shape
    h = torch.randn((3, own.shape[1]), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        off = 0.05 if kind == "bitsandbytes int8" else 1e-4  # it rounds h too
        torch.testing.assert_close(layer(h), functional.linear(h, weight.float(), layer.bias), rtol=1e-4, atol=off)
        # Without the scales of the first call, which bitsandbytes moves elsewhere.
        assert torch.equal(dequantised(layer), weight)
        assert (weight - own).norm() < 0.15 * own.norm()
        with must_fail("quantising changes weights"):
            torch.testing.assert_close(weight, own, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", QUANTISED)
def test_a_fingerprint_is_that_of_the_dequantised_weights(kind: str) -> None:
    pipe: Any = QUANTISED[kind]()
    numbers = fingerprint(pipe.unet)
    assert numbers
    assert same_weights(numbers, fingerprint(QUANTISED[kind]().unet))
    with must_fail("quantising changes weights"):
        assert same_weights(numbers, fingerprint(load().unet))


def test_a_wrapped_weight_counts_once() -> None:
    layer = QUANTISED["bitsandbytes nf4"]().unet.get_submodule(LAYER)
    wrapped = nn.Sequential(nn.Conv2d(4, 4, 3), layer, nn.Linear(4, 4))
    assert quantization(wrapped) == "bitsandbytes nf4"


def test_full_weights_are_asked_for() -> None:
    with pytest.raises(
        ValueError,
        match=r"^The denoiser is quantised \(bitsandbytes nf4\), and baking needs full weights. Load the pipeline in "
        r"float16 or bfloat16, without quantization_config or layerwise casting. Bake it.$",
    ):
        check_full_weights(QUANTISED["bitsandbytes nf4"]().unet, "baking", "Bake it.")
    check_full_weights(load().unet, "baking", "Bake it.")


def test_what_passes_no_gradient_is_refused() -> None:
    pipe: Any = torchao(Int8DynamicActivationInt8WeightConfig())
    with pytest.raises(ValueError, match=r"quantises its activations \(torchao\), so gradients cannot pass through"):
        ESDTrainer(pipe)
    h = torch.randn(2, 64, requires_grad=True)
    with must_fail("there is no gradient"):
        assert pipe.unet.get_submodule(LAYER)(h).requires_grad


@pytest.mark.filterwarnings("ignore:`QuantoConfig` is deprecated")
def test_other_quantisations_are_refused() -> None:
    pipe: Any = load()
    pipe.unet.to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"^The denoiser's weights are in float8 without layerwise casting"):
        check_denoiser(pipe.unet)
    pipe = load()
    pipe.unet.hf_quantizer = DiffusersAutoQuantizer.from_config(QuantoConfig("int8"))
    with pytest.raises(ValueError, match=r"^The denoiser is quantised with quanto, beside which an adapter cannot"):
        ESDTrainer(pipe)


@pytest.mark.parametrize("is_on", [False, True])
def test_layerwise_casting_with_gradient_checkpointing_is_refused(is_on: bool) -> None:
    pipe: Any = QUANTISED["float8_e4m3fn storage"]()
    if is_on:
        pipe.unet.enable_gradient_checkpointing()
    with pytest.raises(ValueError, match=r"^Gradient checkpointing and layerwise casting do not work together"):
        ESDTrainer(pipe, gradient_checkpointing=not is_on)
