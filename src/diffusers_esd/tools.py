"""Which of our files other tools read, and which layers they find there. Read from their sources, not tried in them.

There are three files of an erasure:

    erasure   its own, with diffusers' names          transformer.<layer>.lora_B.weight
    kohya     kohya's names, for a U-Net (`kohya`)    lora_unet_<layer with _>.lora_up.weight
    original  those of the model's code (`original`)  diffusion_model.<its name>.lora_B.weight

Versions (repository, files, commit or version):

    ComfyUI               Comfy-Org/ComfyUI, comfy/lora.py, 17358c8; comfy/utils.py, v0.26.1
    Forge                 lllyasviel/stable-diffusion-webui-forge, packages_3rdparty/comfyui_lora_collection, 5e1dcd3
    A1111                 AUTOMATIC1111/stable-diffusion-webui, extensions-builtin/Lora/networks.py, 873edba
    InvokeAI              invoke-ai/InvokeAI, invokeai/backend/patches/lora_conversions, model_manager/configs, 6.14.2
    stable-diffusion.cpp  leejet/stable-diffusion.cpp, src/name_conversion.cpp, 15f335d; src/model/adapter/lora.hpp,
                          122076b

A tool's own network may have one weight, such as `qkv`, where diffusers has several layers. ComfyUI and Forge add each
layer to its part of the weight. stable-diffusion.cpp joins the parts, and ignores them unless all are there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Tool = Literal["comfyui", "forge", "a1111", "invokeai", "stable-diffusion.cpp"]
"""Another program that loads LoRA files."""
File = Literal["erasure", "kohya", "original"]

TITLES: Mapping[Tool, str] = {
    "comfyui": "ComfyUI",
    "forge": "Forge",
    "a1111": "A1111",
    "invokeai": "InvokeAI",
    "stable-diffusion.cpp": "stable-diffusion.cpp",
}


@dataclass(frozen=True)
class Reading:
    """How a tool reads a file. All patterns match a layer's whole name in diffusers.

    Attributes:
        layers: The layers that it finds.
        needed: It recognises a file only if each of these patterns matches a layer in it.
        refused: It refuses a file with one of these layers.
        joined: Parents, and the layers under them that it ignores unless all of them are in the file.
        last: Endings of layers that it ignores in the last of the `transformer_blocks`.
    """

    layers: str
    needed: tuple[str, ...] = ()
    refused: str = ""
    joined: tuple[tuple[str, tuple[str, ...]], ...] = ()
    last: tuple[str, ...] = ()


_ATTENTION = (
    r"attentions\.\d+\.(proj_in|proj_out"
    r"|transformer_blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ff\.net\.(0\.proj|2)))"
)
_RESNET = r"resnets\.\d+\.(conv1|conv2|time_emb_proj|conv_shortcut)"
_BLOCKS = (
    rf"((down|up)_blocks\.\d+|mid_block)\.({_RESNET}|{_ATTENTION})"
    r"|down_blocks\.\d+\.downsamplers\.0\.conv|up_blocks\.\d+\.upsamplers\.0\.conv"
)
_EDGES = r"conv_in|conv_out|time_embedding\.linear_[12]"
_UNET = rf"{_BLOCKS}|{_EDGES}|add_embedding\.linear_[12]"
# ComfyUI and Forge look for `attn1.processor.to_q`, as the first diffusers wrote it.
_OUTSIDE_ATTENTION = rf"(?!.*\.to_)({_UNET})"

_JOINT_ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
_JOINT = rf"{_JOINT_ATTENTION}|norm1(_context)?\.linear|ff(_context)?\.net\.(0\.proj|2)"
_SINGLE = r"single_transformer_blocks\.\d+\.(attn\.to_[qkv]|proj_mlp|proj_out|norm\.linear)"
_TIME_AND_TEXT = r"time_text_embed\.(timestep|text|guidance)_embedder\.linear_[12]"
_SD3 = (
    rf"transformer_blocks\.\d+\.({_JOINT}|attn2\.(to_[qkv]|to_out\.0))"
    rf"|pos_embed\.proj|context_embedder|proj_out|{_TIME_AND_TEXT}"
)
_FLUX = rf"transformer_blocks\.\d+\.({_JOINT})|{_SINGLE}|(x|context)_embedder|proj_out|{_TIME_AND_TEXT}"
# The first half of this layer is the scale in diffusers, and the shift in the models' own code.
_LAST_NORM = r"norm_out\.linear"
_FLUX_2 = (
    rf"transformer_blocks\.\d+\.({_JOINT_ATTENTION}|ff(_context)?\.linear_(in|out))"
    rf"|single_transformer_blocks\.\d+\.attn\.(to_qkv_mlp_proj|to_out)|(x|context)_embedder|proj_out|{_LAST_NORM}"
)
_QWEN = (
    rf"transformer_blocks\.\d+\.({_JOINT_ATTENTION}|(img|txt)_(mod\.1|mlp\.net\.(0\.proj|2)))"
    rf"|(img|txt)_in|proj_out|{_LAST_NORM}|{_TIME_AND_TEXT}"
)
_Z_IMAGE = (
    r"(layers|noise_refiner|context_refiner)\.\d+\."
    r"(attention\.(to_[qkv]|to_out\.0)|feed_forward\.w[123]|adaLN_modulation\.0)"
    r"|all_x_embedder\.2-1|all_final_layer\.2-1\.(linear|adaLN_modulation\.1)|cap_embedder\.1|t_embedder\.mlp\.[02]"
)
_WAN_BLOCKS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0)|ffn\.net\.(0\.proj|2))"
_WAN = rf"{_WAN_BLOCKS}|condition_embedder\.((text|time)_embedder\.linear_[12]|time_proj)|proj_out"

_QKV = ("to_q", "to_k", "to_v")
_ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")
_JOINED_BLOCKS = tuple((r"transformer_blocks\.\d+\.attn2?", parts) for parts in (_QKV, _ADDED_QKV))
_JOINED_SINGLE = (r"single_transformer_blocks\.\d+", (*(f"attn.{part}" for part in _QKV), "proj_mlp"))

_COMFYUI_UNET: Mapping[File, Reading] = {"kohya": Reading(_UNET), "erasure": Reading(_OUTSIDE_ATTENTION)}
# It compares conv_in, conv_out and the embeddings with names that do not end in `lora_up`, and so never finds them.
_CPP_UNET: Mapping[File, Reading] = {"kohya": Reading(_BLOCKS), "erasure": Reading(_BLOCKS)}
# A file without keys of cross-attentions is taken for SDXL, by the width of its time embeddings, or for nothing.
_INVOKEAI_UNET: Mapping[File, Reading] = {"kohya": Reading(_UNET, needed=(r".*\.attn2\.to_[kv]",))}

READINGS: Mapping[Tool, Mapping[str, Mapping[File, Reading]]] = {
    "comfyui": {
        "StableDiffusion": _COMFYUI_UNET,
        "StableDiffusionXL": _COMFYUI_UNET,
        "StableDiffusion3": {"erasure": Reading(f"{_SD3}|{_LAST_NORM}")},
        "Flux": {"erasure": Reading(f"{_FLUX}|{_LAST_NORM}")},
        "Flux2": {"erasure": Reading(_FLUX_2)},
        "QwenImage": {"erasure": Reading(_QWEN)},
        "ZImage": {"erasure": Reading(_Z_IMAGE)},
        "Wan": {"original": Reading(_WAN)},
    },
    "forge": {
        "StableDiffusion": _COMFYUI_UNET,
        "StableDiffusionXL": _COMFYUI_UNET,
        "StableDiffusion3": {},
        "Flux": {"erasure": Reading(f"{_FLUX}|{_LAST_NORM}")},
        "QwenImage": {},
        "ZImage": {},
        "Wan": {},
    },
    "a1111": {
        "StableDiffusion": {"kohya": Reading(f"{_BLOCKS}|{_EDGES}")},
        # It numbers the first upsampler as if no attention were in the block, and has no rule for add_embedding.
        "StableDiffusionXL": {"kohya": Reading(rf"(?!up_blocks\.0\.upsamplers)({_BLOCKS}|{_EDGES})")},
        "Flux": {},
        "QwenImage": {},
        "ZImage": {},
        "Wan": {},
    },
    "invokeai": {
        "StableDiffusion": _INVOKEAI_UNET,
        "StableDiffusionXL": {
            "kohya": Reading(
                _UNET, needed=(r".*(attn2\.to_[kv]|time_emb_proj)|.*transformer_blocks\.([2-9]|\d\d)\..*",)
            )
        },
        "StableDiffusion3": {},
        "Flux": {
            "erasure": Reading(
                _FLUX,
                needed=(r"single_transformer_blocks\.0\.attn\.to_q", r"transformer_blocks\.0\.attn\.add_q_proj"),
                refused=_LAST_NORM,
            )
        },
        "QwenImage": {"erasure": Reading(".*", needed=(r"transformer_blocks\..*",))},
        "ZImage": {"erasure": Reading(".*", needed=(r"(layers|context_refiner|noise_refiner)\..*",))},
        "Wan": {
            "erasure": Reading(_WAN_BLOCKS, needed=(_WAN_BLOCKS,)),
            "original": Reading(_WAN_BLOCKS, needed=(_WAN_BLOCKS,)),
        },
    },
    "stable-diffusion.cpp": {
        "StableDiffusion": _CPP_UNET,
        "StableDiffusionXL": _CPP_UNET,
        "StableDiffusion3": {"erasure": Reading(_SD3, joined=_JOINED_BLOCKS, last=("norm1_context.linear",))},
        "Flux": {"erasure": Reading(_FLUX, joined=(*_JOINED_BLOCKS, _JOINED_SINGLE))},
        "QwenImage": {"erasure": Reading(_QWEN)},
        "ZImage": {"erasure": Reading(_Z_IMAGE, joined=((r".*\.attention", _QKV),))},
        "Wan": {"original": Reading(_WAN)},
    },
}
"""How each tool reads the files of each family, the best file first. `{}`: it reads none of them. If a family is
missing, that is not known."""


def check_tool(tool: str) -> None:
    """Refuse an unknown tool.

    Raises:
        ValueError: Naming the known ones.
    """
    if tool not in get_args(Tool):
        raise ValueError(f"`tool` must be one of {', '.join(get_args(Tool))}, got {tool!r}.")


def file_for(tool: Tool, family: str) -> File:
    """The file of a family's erasures that a tool reads best.

    Raises:
        ValueError: If it reads none, or if that is not known.
    """
    files = READINGS[tool].get(family)
    if files is None:
        known = ", ".join(READINGS[tool])
        raise ValueError(
            f"Whether {TITLES[tool]} can read erasures of the family {family} is not known; it is known of {known}. "
            "You can try the erasure's own file."
        )
    if not files:
        others = [TITLES[other] for other, families in READINGS.items() if families.get(family)]
        raise ValueError(
            f"{TITLES[tool]} cannot read erasures of the family {family}; {', '.join(others) or 'no other tool'} can."
        )
    return next(iter(files))


def loaded_layers(tool: Tool, family: str, file: File, layers: Collection[str]) -> set[str]:
    """The layers that a tool finds in a file; none if it refuses the file or does not recognise it.

    Args:
        tool: The tool.
        family: Name of the family.
        file: The file; one that the tool does not read has no layers for it.
        layers: Names of the layers in the file, as diffusers calls them.
    """
    reading = READINGS[tool].get(family, {}).get(file)
    if reading is None or any(re.fullmatch(reading.refused, layer) for layer in layers):
        return set()
    if not all(any(re.fullmatch(needed, layer) for layer in layers) for needed in reading.needed):
        return set()
    names = {layer for layer in layers if re.fullmatch(reading.layers, layer)}
    for pattern, parts in reading.joined:
        members = {name: name.removesuffix(f".{part}") for name in names for part in parts if name.endswith(f".{part}")}
        for name, parent in members.items():
            if re.fullmatch(pattern, parent) and not all(f"{parent}.{part}" in layers for part in parts):
                names.discard(name)
    blocks = [int(match[1]) for layer in layers if (match := re.match(r"transformer_blocks\.(\d+)\.", layer))]
    return names - {f"transformer_blocks.{max(blocks, default=0)}.{ending}" for ending in reading.last}
