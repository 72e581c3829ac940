"""Kohya's names of a U-Net's layers, written and read.

`lora_unet_<layer with _>.lora_down.weight | lora_up.weight | alpha` is read by ComfyUI, Forge and A1111, and written by
LECO, sd-scripts and SPM. The layer is called as in diffusers (`down_blocks_0_attentions_0_...`), or as in Stability's
own code, "sgm" (`input_blocks_1_1_...`), which numbers all blocks in one sequence:

    input_blocks.0.0     conv_in
    input_blocks.k.0, 1  resnet and attention k of all down blocks; a downsampler counts as one
    middle_block.0, 1, 2 resnet, attention, resnet
    output_blocks.k.0, 1 resnet and attention k of all up blocks; an upsampler is the last entry of the k before it
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "lora_unet_"

_SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_BLOCKS = {"down": "input_blocks", "up": "output_blocks"}
_IN_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_IN_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def to_kohya(layers: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A and B of a U-Net's layers with kohya's names; `alpha` is the rank, which means a scale of 1.

    Args:
        layers: A, (r, d, ...), and B, (out, r, ...), by layer.
    """
    import torch

    weights: dict[str, Tensor] = {}
    for layer, (a, b) in layers.items():
        name = _kohya_name(layer)
        weights[f"{name}.lora_down.weight"] = a
        weights[f"{name}.lora_up.weight"] = b
        weights[f"{name}.alpha"] = torch.tensor(float(len(a)), dtype=torch.float32, device="cpu")
    return weights


def from_kohya(
    weights: Mapping[str, Tensor], layers: Iterable[str]
) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """A and B by layer, with alpha multiplied into B, and the keys that do not belong to any of the layers.

    Args:
        weights: Tensors by key, with kohya's names of either kind.
        layers: Names of the U-Net's layers.

    Raises:
        ValueError: If the file contains more than a plain LoRA (DoRA, Tucker decomposition).
    """
    unreadable = [key for key in weights if key.endswith((".dora_scale", ".lora_mid.weight"))]
    if unreadable:
        raise ValueError(
            f"{unreadable[0]!r} belongs to a DoRA or a Tucker decomposition; only a plain LoRA can be read."
        )
    layers = list(layers)
    layer_of = {_kohya_name(name): layer for layer, name in sgm_names(layers).items()}
    layer_of |= {_kohya_name(layer): layer for layer in layers}
    read: dict[str, tuple[Tensor, Tensor]] = {}
    used: set[str] = set()
    for key, up in weights.items():
        stem = key.removesuffix(".lora_up.weight")
        down, alpha = weights.get(f"{stem}.lora_down.weight"), weights.get(f"{stem}.alpha")
        if stem != key and stem in layer_of and down is not None:
            scale = 1.0 if alpha is None else alpha.item() / len(down)
            read[layer_of[stem]] = (down.float(), scale * up.float())
            used |= {key, f"{stem}.lora_down.weight", f"{stem}.alpha"}
    return read, [key for key in weights if key not in used]


def sgm_names(layers: Iterable[str]) -> dict[str, str]:
    """The names in Stability's own code by diffusers' names, for the layers that both have.

    Args:
        layers: Names of all layers of a U-Net, because the blocks are counted.
    """
    layers = list(layers)
    parsed = {layer: match.groups() for layer in layers if (match := _IN_BLOCK.fullmatch(layer))}
    firsts = {side: _firsts(side, [entry[1:4] for entry in parsed.values() if entry[0] == side]) for side in _BLOCKS}
    attended = {block for side, block, kind, _, _ in parsed.values() if side == "up" and kind == "attentions"}
    names: dict[str, str] = {layer: _SINGLE[layer] for layer in layers if layer in _SINGLE}
    for layer in layers:
        if match := _IN_MIDDLE.fullmatch(layer):
            kind, index, rest = match.groups()
            names[layer] = f"middle_block.{2 * int(index) + (kind == 'attentions')}.{_inside(kind, rest)}"
    for layer, (side, block, kind, index, rest) in parsed.items():
        first, last = firsts[side][int(block)], firsts[side][int(block) + 1] - 1
        blocks = _BLOCKS[side]
        if kind in ("resnets", "attentions"):
            names[layer] = f"{blocks}.{first + int(index)}.{int(kind == 'attentions')}.{_inside(kind, rest)}"
        elif rest == "conv":
            place = "0.op" if side == "down" else f"{1 + (block in attended)}.conv"
            names[layer] = f"{blocks}.{last}.{place}"
    return names


def _firsts(side: str, entries: Sequence[Sequence[str]]) -> list[int]:
    """The number of each block's first resnet if all are numbered in one sequence, and the number after the last block.

    Args:
        side: `"down"` or `"up"`.
        entries: Block, kind and index of each layer of the side.
    """
    resnets = {(int(block), int(index)) for block, kind, index in entries if kind == "resnets"}
    blocks = 1 + max((int(block) for block, _, _ in entries), default=-1)
    # conv_in comes first, and a downsampler counts as one.
    extra = int(side == "down")
    counts = [sum(block == wanted for block, _ in resnets) + extra for wanted in range(blocks)]
    return list(accumulate(counts, initial=extra))


def _inside(kind: str, rest: str) -> str:
    return _RESNET.get(rest, rest) if kind == "resnets" else rest


def _kohya_name(layer: str) -> str:
    return PREFIX + layer.replace(".", "_")
