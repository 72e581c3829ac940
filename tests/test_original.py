"""The names of Wan's own code, as diffusers' converter of whole checkpoints knows them, and back through diffusers."""

from __future__ import annotations

import warnings
from pathlib import Path

import published
import pytest
import torch
from controls import must_fail
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers
from made import made
from safetensors.torch import load_file
from tiny_language import tiny_wan

from diffusers_esd import export
from diffusers_esd.denoiser import base_layers
from diffusers_esd.original import original_name, to_original


def test_the_names_are_those_of_the_models_own_code() -> None:
    layers = base_layers(published.MODELS["Wan 2.1 1.3B"].build())
    names = [original_name(layer) for layer in layers]
    assert names[:2] == ["time_embedding.0", "time_embedding.2"]
    assert {"blocks.0.self_attn.q", "blocks.29.cross_attn.o", "blocks.3.ffn.2", "head.head"} <= set(names)
    checkpoint = {f"{name}.weight": torch.tensor(i) for i, name in enumerate(names)}
    converted = convert_wan_transformer_to_diffusers(checkpoint)
    assert {key.removesuffix(".weight"): int(value) for key, value in converted.items()} == {
        layer: i for i, layer in enumerate(layers)
    }
    with must_fail("a name that is left as it is, is noticed"):
        assert "blocks.0.attn1.to_q" in names


def test_what_is_written_for_comfyui_comes_back_through_diffusers(tmp_path: Path) -> None:
    erasure = made(tiny_wan(), group="full", rank=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        file = export(erasure, tmp_path / "no-cat.safetensors", tool="comfyui")
    keys = load_file(file).keys()
    assert keys == to_original(erasure.layers()).keys()
    assert "diffusion_model.blocks.0.cross_attn.k.lora_B.weight" in keys
    assert file.read_bytes() == export(erasure, tmp_path / "any.safetensors").read_bytes()
    state = type(tiny_wan()).lora_state_dict(str(file))
    assert state.keys() == erasure.weights.keys()
    assert all(torch.equal(state[key], value) for key, value in erasure.weights.items())


def test_invokeai_reads_the_file_with_diffusers_names(tmp_path: Path) -> None:
    erasure = made(tiny_wan(), group="full", rank=2)
    with pytest.warns(UserWarning, match=r"^InvokeAI does not find 6 of the \d+ layers of no-a-cat, with \d+.\d\d%"):
        file = export(erasure, tmp_path / "no-cat.safetensors", tool="invokeai")
    assert load_file(file).keys() == erasure.weights.keys()
