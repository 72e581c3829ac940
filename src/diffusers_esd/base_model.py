"""Which base model a pipeline has: its name, and a fingerprint of its weights."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

from .denoiser import Denoiser, base_layer, base_layers
from .quantization import dequantised

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
