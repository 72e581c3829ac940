"""Which base model a pipeline has: its name, a fingerprint of its weights, and whether two are the same."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from .arguments import warn_user
from .denoiser import Denoiser, base_layer, base_layers
from .provenance import Provenance
from .quantization import dequantised, quantization

_LAYERS = 64
_LARGEST_HALF = 65504.0


def model_name(pipe: Any) -> str:
    """The Hub id of a pipeline's model. Of a local model only the folder's name: the rest of the path is private."""
    source = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
    return Path(source).name if Path(source).exists() else source


def fingerprint(denoiser: Denoiser) -> str:
    """A short text that identifies the base weights of a denoiser, whatever adapters are on it.

    It is not a hash, because the same weights are loaded in float32, float16 or bfloat16. It is the hexadecimal form of
    64 numbers in float16, little-endian, four digits each: the middle weight (in the order of the flattened tensor) of
    each of 64 Linear and Conv2d layers, evenly spaced in the order of `base_layers`, or of all layers if there are
    fewer. Compare two with `same_weights`. Quantised weights are dequantised, and differ from those that they were made
    from by more than `same_weights` allows: compare fingerprints of one `quantization` only.

    Returns:
        The numbers, or `""`, which means unknown: a weight is not in memory, or quantised in a way that is not known.
    """
    names = base_layers(denoiser)
    count = min(_LAYERS, len(names))
    values = []
    for i in range(count):
        layer = base_layer(denoiser.get_submodule(names[i * len(names) // count]))
        if layer.weight.device.type == "meta" or not (weight := dequantised(layer)).is_floating_point():
            return ""
        value = weight.flatten()[weight.numel() // 2].item()
        values.append(min(max(value, -_LARGEST_HALF), _LARGEST_HALF))
    return struct.pack(f"<{count}e", *values).hex()


def same_weights(a: str, b: str) -> bool:
    """Whether two fingerprints belong to the same weights, each rounded to float32, float16 or bfloat16.

    Args:
        a: What `fingerprint` returned, not `""`.
        b: The same for the other weights.
    """
    if len(a) != len(b):
        return False
    numbers = (struct.unpack(f"<{len(text) // 4}e", bytes.fromhex(text)) for text in (a, b))
    # Rounding to bfloat16 changes a number by 2**-8 of it at most; float16 has no steps below 2**-24.
    return all(math.isclose(x, y, rel_tol=2**-7, abs_tol=2**-22) for x, y in zip(*numbers, strict=True))


def is_same_base(a: Provenance, b: Provenance) -> bool:
    """Whether two base models have the same weights: by their fingerprints if both are known, otherwise by name.

    Also by name if they are quantised differently: the weights differ then, whatever they were made from.
    """
    if a.base_fingerprint and b.base_fingerprint and a.base_quantization == b.base_quantization:
        return same_weights(a.base_fingerprint, b.base_fingerprint)
    return not a.base_model or not b.base_model or a.base_model == b.base_model


def name_beside(a: Provenance, b: Provenance) -> str:
    """Name of the base model of `a`, such that it differs from that of `b`."""
    return a.base_model + (", with other weights" if a.base_model == b.base_model else "")


def warn_of_other_base(name: str, trained: Provenance, pipe: Any, denoiser: Denoiser) -> None:
    """Warn if an erasure was trained on other base weights than a pipeline's, such as those of a fine-tune.

    Args:
        name: Name of the erasure.
        trained: Its provenance.
        pipe: The pipeline.
        denoiser: Its denoiser, whatever adapters are on it.
    """
    present = replace(
        trained,
        base_model=model_name(pipe),
        base_fingerprint=fingerprint(denoiser),
        base_quantization=quantization(denoiser),
    )
    if not is_same_base(trained, present):
        warn_user(
            f"{name} was trained on {trained.base_model}, and this pipeline is {name_beside(present, trained)}. Its "
            "effect here is not measured; compare the images, or call the erasure's `check`."
        )
