"""Safetensors files, read without trust and written whole or not at all; and the names of kohya's tools."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
HEADER_KEY = "diffusers_esd"
KOHYA = "lora_unet_"


def read_safetensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no safetensors file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is no safetensors file; only those are read, because others can run code.")
    try:
        with safe_open(file, framework="pt") as opened:
            return opened.metadata() or {}, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged or no safetensors file ({error}); fetch it again.") from error


def read_header(file: Path) -> dict[str, str]:
    """The header's own entries, without PyTorch and without the tensors.

    Raises:
        ValueError: If the file is damaged or no safetensors file.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            if length > file.stat().st_size - 8:
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))["__metadata__"]
            return {str(key): str(value) for key, value in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{file} is damaged or no safetensors file ({error}); fetch it again.") from error


def write_safetensors(file: Path, weights: Mapping[str, Tensor], header: dict[str, str]) -> Path:
    """Write a file whole or not at all; the same contents give the same bytes."""
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        save_file({key: value.contiguous() for key, value in weights.items()}, temporary, metadata=header)
        _sort_header(temporary)
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def _sort_header(file: Path) -> None:
    # safetensors writes the header's entries in an order that differs from run to run.
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def to_kohya(layers: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A U-Net's A and B by module name, in the names of kohya's tools; `alpha` is the rank, a scale of 1."""
    import torch

    weights: dict[str, Tensor] = {}
    for layer, (a, b) in layers.items():
        name = KOHYA + layer.replace(".", "_")
        weights[f"{name}.lora_down.weight"] = a
        weights[f"{name}.lora_up.weight"] = b
        weights[f"{name}.alpha"] = torch.tensor(float(len(a)))
    return weights
