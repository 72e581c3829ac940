"""Kohya's names: those of Stability's own code are read, and a plain LoRA comes back with its alpha folded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import published
import pytest
import torch
from controls import must_fail
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from made import made
from safetensors.torch import save_file
from tiny import tiny_pipeline, tiny_unet

from diffusers_esd import import_erasure
from diffusers_esd.denoiser import base_layers
from diffusers_esd.kohya import from_kohya, sgm_names, to_kohya


def test_sdxl_in_the_names_of_its_first_code_is_read() -> None:
    """sd-scripts writes SDXL's blocks as Stability's own code calls them."""
    denoiser = published.MODELS["SDXL"].build()
    names = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
        ),
        "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_out_0": (
            "mid_block.attentions.0.transformer_blocks.9.attn1.to_out.0"
        ),
        "lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_2": (
            "up_blocks.1.attentions.2.transformer_blocks.1.ff.net.2"
        ),
    }
    names |= {
        "lora_unet_input_blocks_0_0": "conv_in",
        "lora_unet_input_blocks_3_0_op": "down_blocks.0.downsamplers.0.conv",
        "lora_unet_input_blocks_4_0_in_layers_2": "down_blocks.1.resnets.0.conv1",
        "lora_unet_input_blocks_4_0_skip_connection": "down_blocks.1.resnets.0.conv_shortcut",
        "lora_unet_middle_block_2_emb_layers_1": "mid_block.resnets.1.time_emb_proj",
        "lora_unet_output_blocks_2_2_conv": "up_blocks.0.upsamplers.0.conv",
        "lora_unet_time_embed_2": "time_embedding.linear_2",
        "lora_unet_label_emb_0_0": "add_embedding.linear_1",
        "lora_unet_out_2": "conv_out",
    }
    weights = {}
    for i, stem in enumerate(names):
        weights[f"{stem}.lora_down.weight"] = torch.full((1, 2), float(i))
        weights[f"{stem}.lora_up.weight"] = torch.ones(2, 1)
        weights[f"{stem}.alpha"] = torch.tensor(1.0)
    read, unused = from_kohya(weights, base_layers(denoiser))
    expected = {name: float(i) for i, name in enumerate(names.values())}
    assert {layer: a[0, 0].item() for layer, (a, _) in read.items()} == expected
    assert unused == []


def sd1_shaped() -> Any:
    """Blocks as Stable Diffusion 1 has them, twelve in and twelve out, narrow."""
    unet = tiny_unet(
        down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=2,
        sample_size=16,
    )
    return tiny_pipeline(unet=unet)


def ldm_names() -> list[str]:
    """The layers of Stable Diffusion 1 as Stability's own code calls them, written down from that code."""
    resnet = ["in_layers.2", "emb_layers.1", "out_layers.3"]
    block = "transformer_blocks.0"
    sides = [f"{block}.attn{i}.to_{side}" for i in (1, 2) for side in ("q", "k", "v", "out.0")]
    attention = ["proj_in", *sides, f"{block}.ff.net.0.proj", f"{block}.ff.net.2", "proj_out"]
    names = ["time_embed.0", "time_embed.2", "out.2", "input_blocks.0.0"]
    for i in range(1, 12):
        names += [f"input_blocks.{i}.0.op"] if i % 3 == 0 else [f"input_blocks.{i}.0.{layer}" for layer in resnet]
        names += [f"input_blocks.{i}.1.{layer}" for layer in attention if i % 3 and i < 9]
    names += [f"middle_block.{i}.{layer}" for i in (0, 2) for layer in resnet]
    names += [f"middle_block.1.{layer}" for layer in attention]
    for i in range(12):
        names += [f"output_blocks.{i}.0.{layer}" for layer in [*resnet, "skip_connection"]]
        names += [f"output_blocks.{i}.1.{layer}" for layer in attention if i > 2]
        if i in (2, 5, 8):
            names.append(f"output_blocks.{i}.{1 if i == 2 else 2}.conv")
    return [*names, "input_blocks.7.0.skip_connection"]


def converted(names: list[str]) -> dict[str, str]:
    """These names by what diffusers' converter of whole checkpoints calls the layers."""
    checkpoint = {
        f"model.diffusion_model.{name}.{kind}": torch.tensor(i)
        for i, name in enumerate(names)
        for kind in ("weight", "bias")
    }
    state = convert_ldm_unet_checkpoint(checkpoint, {"layers_per_block": 2})
    return {key.removesuffix(".weight"): names[int(value)] for key, value in state.items() if key.endswith(".weight")}


def test_stable_diffusion_1_in_the_names_of_its_first_code_is_read(tmp_path: Path) -> None:
    pipe = sd1_shaped()
    names = sgm_names(base_layers(pipe.unet))
    assert names == converted(ldm_names())
    assert set(names) == set(base_layers(pipe.unet))
    with must_fail("blocks of one layer are counted otherwise"):
        assert sgm_names(base_layers(tiny_pipeline().unet)).items() <= names.items()

    erasure = made(pipe, group="full", rank=2)
    weights = {}
    for layer, (a, b) in erasure.layers().items():
        stem = "lora_unet_" + names[layer].replace(".", "_")
        weights |= {f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b, f"{stem}.alpha": torch.tensor(2.0)}
    assert "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k.alpha" in weights
    assert "lora_unet_input_blocks_10_0_in_layers_2.alpha" in weights
    save_file(weights, tmp_path / "sgm.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = import_erasure(tmp_path / "sgm.safetensors", pipe, concept="a cat")
    assert again.weights.keys() == erasure.weights.keys()
    assert all(torch.equal(value, erasure.weights[key]) for key, value in again.weights.items())


def test_the_error_of_a_file_that_does_not_fit_names_its_contents(tmp_path: Path) -> None:
    save_file({"lora_unet_input_blocks_99_1_proj_in.lora_up.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"full weights that differ. It contains lora_unet_input_blocks_99_1_proj_in"):
        import_erasure(tmp_path / "x.safetensors", sd1_shaped(), concept="a cat")


def test_written_and_read_again_it_is_the_same() -> None:
    pipe = tiny_pipeline()
    layers = made(pipe, group="full", rank=2).layers()
    weights = to_kohya(layers)
    assert len(weights) == 3 * len(layers)
    read, unused = from_kohya({**weights, "lora_te_x.alpha": torch.tensor(1.0)}, base_layers(pipe.unet))
    assert read.keys() == layers.keys()
    assert all(torch.equal(x, y) for name in layers for x, y in zip(read[name], layers[name], strict=True))
    assert unused == ["lora_te_x.alpha"]
    key = next(key for key in weights if key.endswith(".alpha"))
    halved, _ = from_kohya({**weights, key: weights[key] / 2}, base_layers(pipe.unet))
    changed = [name for name in layers if not torch.equal(halved[name][1], layers[name][1])]
    assert len(changed) == 1, "alpha is a factor of its layer"
    torch.testing.assert_close(2 * halved[changed[0]][1], layers[changed[0]][1])


@pytest.mark.parametrize("suffix", ["dora_scale", "lora_mid.weight"])
def test_more_than_a_plain_lora_is_refused(suffix: str) -> None:
    with pytest.raises(ValueError, match=rf"^'lora_unet_conv_in.{suffix}' belongs to a DoRA or a Tucker"):
        from_kohya({f"lora_unet_conv_in.{suffix}": torch.zeros(1)}, ["conv_in"])
