"""The names of a Wan transformer's layers in the model's own code, which ComfyUI and stable-diffusion.cpp read.

    blocks.0.attn1.to_q                          blocks.0.self_attn.q       (attn2: cross_attn; to_out.0: o)
    blocks.0.ffn.net.0.proj                      blocks.0.ffn.0             (net.2: 2)
    condition_embedder.time_embedder.linear_1    time_embedding.0           (linear_2: 2; text_embedder: text_embedding)
    condition_embedder.time_proj                 time_projection.1
    proj_out                                     head.head

Every layer of ours is one layer there. Source: Wan-Video/Wan2.1, wan/modules/model.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from .low_rank import Layers

_WAN = (
    (r"\.attn1\.", ".self_attn."),
    (r"\.attn2\.", ".cross_attn."),
    (r"\.to_([qkv])$", r".\1"),
    (r"\.to_out\.0$", ".o"),
    (r"\.ffn\.net\.0\.proj$", ".ffn.0"),
    (r"\.ffn\.net\.2$", ".ffn.2"),
    (r"^condition_embedder\.(text|time)_embedder\.linear_1$", r"\1_embedding.0"),
    (r"^condition_embedder\.(text|time)_embedder\.linear_2$", r"\1_embedding.2"),
    (r"^condition_embedder\.time_proj$", "time_projection.1"),
    (r"^proj_out$", "head.head"),
)


def original_name(layer: str) -> str:
    """The name of a Wan transformer's layer in the model's own code."""
    for pattern, name in _WAN:
        layer = re.sub(pattern, name, layer)
    return layer


def to_original(layers: Layers) -> dict[str, Tensor]:
    """A and B of a Wan transformer's layers with the names of the model's own code.

    Args:
        layers: A, (r, d), and B, (out, r), by layer.
    """
    weights: dict[str, Tensor] = {}
    for layer, (a, b) in layers.items():
        name = f"diffusion_model.{original_name(layer)}"
        weights |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
    return weights
