"""Portable weights: the keys under which an erasure's A and B are stored, and whether they fit a denoiser.

The keys are PEFT's, `<component>.<layer>.lora_A.weight` and `.lora_B.weight`. Every layer has the same rank, and the
scale is part of B, so that all versions of diffusers load the same adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor, nn

from .denoiser import Component, Denoiser, base_layer
from .low_rank import Layers
from .quantization import weight_shape


def to_portable(layers: Layers, component: str, rank: int) -> dict[str, Tensor]:
    """Weights by portable key. Layers of a lower rank are padded with zeros.

    Args:
        layers: A, (r, d, ...), and B, (out, r, ...), by layer.
        component: Name of the denoiser in the pipeline, `"unet"` or `"transformer"`.
        rank: Rank of the result, at least every r.
    """
    weights = {}
    for layer, (a, b) in layers.items():
        missing = rank - len(a)
        weights[f"{component}.{layer}.lora_A.weight"] = torch.cat([a, a.new_zeros(missing, *a.shape[1:])])
        columns = b.new_zeros(b.shape[0], missing, *b.shape[2:])
        weights[f"{component}.{layer}.lora_B.weight"] = torch.cat([b, columns], 1)
    return {key: weight.contiguous() for key, weight in weights.items()}


def from_portable(weights: Mapping[str, Tensor], component: str) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by layer, of weights by portable key."""
    prefix, suffix = f"{component}.", ".lora_A.weight"
    names = [key.removeprefix(prefix).removesuffix(suffix) for key in weights if key.endswith(suffix)]
    return {name: (weights[f"{prefix}{name}{suffix}"], weights[f"{prefix}{name}.lora_B.weight"]) for name in names}


def lora_metadata(component: str, pattern: str, rank: int) -> str:
    """What diffusers reads from the file's header to attach the adapter: rank, scale and layers, as JSON.

    Args:
        component: Name of the denoiser in the pipeline, `"unet"` or `"transformer"`.
        pattern: Regular expression that matches the names of the layers.
        rank: Rank in every layer.
    """
    # Older loaders need both patterns, and fail on any key that their PEFT does not know.
    lora = {"r": rank, "lora_alpha": rank, "target_modules": pattern, "rank_pattern": {}, "alpha_pattern": {}}
    return json.dumps({f"{component}.{key}": value for key, value in lora.items()}, sort_keys=True)


def check_portable(weights: Mapping[str, Tensor], component: str, rank: int) -> None:
    """Refuse weights that `to_portable` cannot have returned.

    Raises:
        ValueError: If a key, a shape, a type or the rank is wrong.
    """
    if component not in get_args(Component):
        raise ValueError(f"the component must be 'unet' or 'transformer', got {component!r}")
    layers = {key.rpartition(".lora_")[0] for key in weights}
    expected = {f"{layer}.lora_{side}.weight" for layer in layers for side in "AB"}
    if not layers or set(weights) != expected:
        raise ValueError("its keys are not those of an adapter")
    for key, value in weights.items():
        if not key.startswith(f"{component}."):
            raise ValueError(f"{key!r} does not belong to the {component}")
        if value.dim() not in (2, 4) or not value.is_floating_point():
            raise ValueError(f"{key!r} must be a matrix or a kernel of floats, got {value.dtype}, {value.dim()} dims")
        if value.shape[0 if ".lora_A." in key else 1] != rank:
            raise ValueError(f"{key!r} has shape {tuple(value.shape)}, but the rank is {rank}")


def check_fit(denoiser: Denoiser, component: str, weights: Mapping[str, Tensor]) -> None:
    """Refuse weights whose layers the denoiser does not have, or has in another shape.

    Raises:
        ValueError: Naming the first layer that does not fit.
    """
    modules = dict(denoiser.named_modules())
    for key, value in weights.items():
        name, _, side = key.removeprefix(f"{component}.").removesuffix(".weight").rpartition(".lora_")
        module = base_layer(modules.get(name))
        if not isinstance(module, nn.Linear | nn.Conv2d):
            raise ValueError(
                f"The erasure was trained on another architecture: this denoiser does not have a layer {name!r}."
            )
        shape = weight_shape(module)
        kernel = (1,) * len(shape[2:])  # of B
        fits = (
            value.shape[1:] == shape[1:]
            if side == "A"
            else (value.shape[:1] == shape[:1] and value.shape[2:] == kernel)
        )
        if not fits:
            raise ValueError(
                f"The erasure was trained on another architecture: layer {name!r} has weights of shape "
                f"{shape}, and the erasure's {side} has {tuple(value.shape)}."
            )
