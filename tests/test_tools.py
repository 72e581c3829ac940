"""What other tools find in our files: patterns against each tool's own way of finding a layer, and pinned counts."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any, get_args

import published
import pytest
import torch
from controls import must_fail

from diffusers_esd.kohya import sgm_names, to_kohya
from diffusers_esd.portable import to_portable
from diffusers_esd.tools import READINGS, TITLES, File, Tool, check_tool, file_for, loaded_layers

UNETS = ("SD 1.4", "SD 2.1", "SDXL")


@cache
def denoiser(model: str) -> Any:
    return published.MODELS[model].build()


def layers(model: str, group: Any = "full") -> tuple[str, ...]:
    """The layers that a group trains in a published model."""
    return published.MODELS[model].selection(denoiser(model), group).names


def written(model: str, file: File) -> set[str]:
    """The keys of a file with all layers of a U-Net, without `_down`, `_A` and `.alpha`."""
    pairs = {layer: (torch.zeros(1, 1), torch.zeros(1, 1)) for layer in layers(model)}
    weights = to_kohya(pairs) if file == "kohya" else to_portable(pairs, "unet", 1)
    return {key for key in weights if key.endswith((".lora_up.weight", ".lora_B.weight"))}


# How tools find a layer of a U-Net: each returns the key's layer in Stability's own code, or None.


def comfyui(names: dict[str, str]) -> Callable[[str], str | None]:
    """A table of the keys that it looks for, from the names of diffusers."""
    table = {}
    for layer, name in names.items():
        table[f"lora_unet_{layer.replace('.', '_')}.lora_up.weight"] = name
        old = layer.replace(".to_", ".processor.to_").removesuffix(".0" if layer.endswith(".to_out.0") else "")
        table[f"unet.{old}.lora_B.weight"] = name
    return table.get


def a1111(names: dict[str, str]) -> Callable[[str], str | None]:
    """Rules that rewrite what stands before the first dot; a name that no module has is not found."""
    modules = {name.replace(".", "_"): name for name in names.values()}
    inside = {"conv1": "in_layers_2", "conv2": "out_layers_3", "time_emb_proj": "emb_layers_1"}
    inside["conv_shortcut"] = "skip_connection"

    def place(match: re.Match[str]) -> str:
        side, block, kind, index, rest = match.groups()
        place = 3 * int(block) + int(index) + (side == "down")
        rest = inside.get(rest, rest) if kind == "resnets" else rest
        return f"{'in' if side == 'down' else 'out'}put_blocks_{place}_{int(kind == 'attentions')}_{rest}"

    def middle(match: re.Match[str]) -> str:
        kind, index, rest = match.groups()
        return f"middle_block_{1 if kind == 'attentions' else 2 * int(index)}_" + (
            inside.get(rest, rest) if kind == "resnets" else rest
        )

    rules: tuple[tuple[str, Any], ...] = (
        (r"conv_in", "input_blocks_0_0"),
        (r"conv_out", "out_2"),
        (r"time_embedding_linear_(\d)", lambda match: f"time_embed_{2 * int(match[1]) - 2}"),
        (r"(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", place),
        (r"mid_block_(attentions|resnets)_(\d+)_(.+)", middle),
        (r"down_blocks_(\d+)_downsamplers_0_conv", lambda match: f"input_blocks_{3 * int(match[1]) + 3}_0_op"),
        (
            r"up_blocks_(\d+)_upsamplers_0_conv",
            lambda match: f"output_blocks_{3 * int(match[1]) + 2}_{1 + (match[1] > '0')}_conv",
        ),
    )

    def find(key: str) -> str | None:
        stem = key.partition(".")[0]
        if not stem.startswith("lora_unet_"):
            return None
        stem = stem.removeprefix("lora_unet_")
        for pattern, replacement in rules:
            if re.fullmatch(pattern, stem):
                return modules.get(re.sub(pattern, replacement, stem))
        return modules.get(stem)

    return find


def stable_diffusion_cpp(names: dict[str, str]) -> Callable[[str], str | None]:
    """The suffix moves behind `weight`; underscores that belong to no known word become dots; prefixes are replaced."""
    words = (
        *("to_k", "to_q", "to_v", "to_out", "down_blocks", "mid_block", "up_block", "proj_in", "proj_out"),
        *("transformer_blocks", "conv_in", "conv_out", "lora_up", "time_emb_proj", "conv_shortcut", "time_embedding"),
    )
    blocks, resnets = {}, {"conv1": "in_layers.2", "conv2": "out_layers.3", "time_emb_proj": "emb_layers.1"}
    resnets["conv_shortcut"] = "skip_connection"
    whole = {"conv_in.weight": "input_blocks.0.0.weight", "conv_out.weight": "out.2.weight"}
    for i in range(4):
        for j in range(3):
            for kind, inner in (("resnets", 0), ("attentions", 1)):
                blocks[f"down_blocks.{i}.{kind}.{j}."] = f"input_blocks.{3 * i + j + 1}.{inner}."
                blocks[f"up_blocks.{i}.{kind}.{j}."] = f"output_blocks.{3 * i + j}.{inner}."
        blocks[f"down_blocks.{i}.downsamplers.0.conv."] = f"input_blocks.{3 * i + 3}.0.op."
        blocks[f"up_blocks.{i}.upsamplers.0."] = f"output_blocks.{3 * i + 2}.{1 if i == 0 else 2}."
    blocks |= {"mid_block.attentions.0.": "middle_block.1."}
    blocks |= {f"mid_block.resnets.{j}.": f"middle_block.{2 * j}." for j in range(2)}
    tensors = {f"{name}.weight.lora_up": name for name in names.values()}
    if "add_embedding.linear_1" in names:
        blocks["output_blocks.2.1.conv."] = "output_blocks.2.2.conv."

    def find(key: str) -> str | None:
        name = key.removeprefix("lora_").replace(".lora_up.weight", ".weight.lora_up")
        name = name.replace(".lora_B.weight", ".weight.lora_up")
        kept = {m.start() + i for w in words for m in re.finditer(w, name) for i, x in enumerate(w) if x == "_"}
        name = "".join("." if letter == "_" and i not in kept else letter for i, letter in enumerate(name))
        name = name.removeprefix("unet.")
        name = whole.get(name, name)  # never: the name ends in lora_up
        if "resnets" in name:
            for old, new in resnets.items():
                name = name.replace(old, new)
        for old, new in blocks.items():
            name = name.replace(old, new)
        return tensors.get(name)

    return find


TOOLS: dict[Tool, Callable[[dict[str, str]], Callable[[str], str | None]]] = {
    "comfyui": comfyui,
    "forge": comfyui,
    "a1111": a1111,
    "stable-diffusion.cpp": stable_diffusion_cpp,
}


@pytest.mark.parametrize("model", UNETS)
@pytest.mark.parametrize("tool", TOOLS)
def test_the_patterns_are_what_a_tools_own_rules_find(tool: Tool, model: str) -> None:
    names = sgm_names(layers(model))
    find = TOOLS[tool](names)
    family = published.MODELS[model].family
    file: File
    for file in ("kohya", "erasure"):
        places = [name for name in map(find, written(model, file)) if name is not None]
        targets = set(places)
        assert len(targets) == len(places), "no two layers go to the same place"
        expected = {layer for layer, name in names.items() if name in targets}
        assert loaded_layers(tool, family, file, layers(model)) == expected
    with must_fail("no tool finds all layers under diffusers' names"):
        assert loaded_layers(tool, family, "erasure", layers(model)) == set(layers(model))


# Layers of `full` that are found in the tool's best file, of all.
COUNTS: dict[str, dict[Tool, tuple[File, int, int]]] = {
    "SD 1.4": {
        "comfyui": ("kohya", 282, 282),
        "forge": ("kohya", 282, 282),
        "a1111": ("kohya", 282, 282),
        "invokeai": ("kohya", 282, 282),
        "stable-diffusion.cpp": ("kohya", 278, 282),
    },
    "SD 2.1": {
        "comfyui": ("kohya", 282, 282),
        "forge": ("kohya", 282, 282),
        "a1111": ("kohya", 282, 282),
        "invokeai": ("kohya", 282, 282),
        "stable-diffusion.cpp": ("kohya", 278, 282),
    },
    "SDXL": {
        "comfyui": ("kohya", 794, 794),
        "forge": ("kohya", 794, 794),
        "a1111": ("kohya", 791, 794),
        "invokeai": ("kohya", 794, 794),
        "stable-diffusion.cpp": ("kohya", 788, 794),
    },
    "SD3 medium": {"comfyui": ("erasure", 341, 341), "stable-diffusion.cpp": ("erasure", 339, 341)},
    "Flux.1 dev": {
        "comfyui": ("erasure", 504, 504),
        "forge": ("erasure", 504, 504),
        "invokeai": ("erasure", 0, 504),
        "stable-diffusion.cpp": ("erasure", 503, 504),
    },
    "Qwen-Image": {
        "comfyui": ("erasure", 846, 846),
        "invokeai": ("erasure", 846, 846),
        "stable-diffusion.cpp": ("erasure", 846, 846),
    },
    "Z-Image": {
        "comfyui": ("erasure", 276, 276),
        "invokeai": ("erasure", 276, 276),
        "stable-diffusion.cpp": ("erasure", 276, 276),
    },
    "FLUX.2 dev": {"comfyui": ("erasure", 196, 203)},
    "FLUX.2 Klein 4B": {"comfyui": ("erasure", 104, 109)},
    "Wan 2.1 1.3B": {
        "comfyui": ("original", 306, 306),
        "invokeai": ("erasure", 300, 306),
        "stable-diffusion.cpp": ("original", 306, 306),
    },
}


@pytest.mark.parametrize("model", published.MODELS)
def test_the_layers_of_published_models_that_tools_find(model: str) -> None:
    family = published.MODELS[model].family
    counts = {}
    for tool in get_args(Tool):
        if READINGS[tool].get(family):
            file = file_for(tool, family)
            counts[tool] = (file, len(loaded_layers(tool, family, file, layers(model))), len(layers(model)))
    assert counts == COUNTS.get(model, {})


def lost(tool: Tool, model: str, group: str, file: File | None = None) -> tuple[int, list[str]]:
    """How many layers of a group a tool does not find, and the first three."""
    names, family = layers(model, group), published.MODELS[model].family
    loaded = loaded_layers(tool, family, file or file_for(tool, family), names)
    missing = [name for name in names if name not in loaded]
    return len(missing), missing[:3]


def test_layers_that_a_tool_does_not_find() -> None:
    upsampler, embeddings = "up_blocks.0.upsamplers.0.conv", ["add_embedding.linear_1", "add_embedding.linear_2"]
    assert lost("a1111", "SDXL", "esd-u") == (3, [*embeddings, upsampler])
    assert lost("a1111", "SDXL", "esd-x") == (0, [])
    assert lost("stable-diffusion.cpp", "SDXL", "esd-x") == (0, [])
    assert lost("stable-diffusion.cpp", "SD3 medium", "esd-u") == (
        2, ["transformer_blocks.23.norm1_context.linear", "norm_out.linear"],
    )  # fmt: skip
    assert lost("comfyui", "SD 1.4", "esd-x", "erasure")[0] == 64, "it looks for attn2.processor.to_q"
    assert lost("comfyui", "SD 1.4", "esd-u", "erasure")[0] == 64, "those of the self-attentions"
    assert lost("invokeai", "SD 1.4", "esd-u")[0] == 218, "without cross-attentions it takes the file for SDXL"
    assert lost("invokeai", "Wan 2.1 1.3B", "esd-x") == (0, [])


def test_parts_of_a_joined_weight_are_found_together_only() -> None:
    tool: Tool = "stable-diffusion.cpp"
    for model in ("SD3 medium", "Flux.1 dev"):
        assert lost(tool, model, "esd-x") == (0, [])
        keys_and_values = [layer for layer in layers(model, "esd-x") if layer.endswith(("add_k_proj", "add_v_proj"))]
        family = published.MODELS[model].family
        assert loaded_layers(tool, family, "erasure", keys_and_values) == set(), "without the queries, none is found"
        assert loaded_layers("comfyui", family, "erasure", keys_and_values) == set(keys_and_values), (
            "it adds each to its part of the weight"
        )
    block = "single_transformer_blocks.3"
    parts = [f"{block}.attn.to_q", f"{block}.attn.to_k", f"{block}.attn.to_v", f"{block}.proj_mlp"]
    assert loaded_layers(tool, "Flux", "erasure", parts) == set(parts)
    assert loaded_layers(tool, "Flux", "erasure", [*parts[:3], f"{block}.proj_out"]) == {f"{block}.proj_out"}


def test_invokeai_recognises_flux_by_two_layers_and_refuses_one() -> None:
    needed = ["single_transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj"]
    assert loaded_layers("invokeai", "Flux", "erasure", needed) == set(needed)
    assert loaded_layers("invokeai", "Flux", "erasure", needed[:1]) == set()
    assert loaded_layers("invokeai", "Flux", "erasure", [*needed, "norm_out.linear"]) == set()


def test_what_a_tool_does_not_read_and_what_is_not_known() -> None:
    assert set(READINGS) == set(TITLES) == set(get_args(Tool))
    assert loaded_layers("a1111", "StableDiffusion", "erasure", ["conv_in"]) == set()
    with pytest.raises(
        ValueError, match=r"^A1111 cannot read erasures of the family Flux; ComfyUI, Forge, In.*cpp can\.$"
    ):
        file_for("a1111", "Flux")
    with pytest.raises(
        ValueError, match=r"^Whether ComfyUI can read erasures of the family Sana is not known; it is kn"
    ):
        file_for("comfyui", "Sana")
    with pytest.raises(ValueError, match=r"^`tool` must be one of comfyui, forge, .*, got 'comfy'.$"):
        check_tool("comfy")
