"""Safetensors files, read without trust and written whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
HEADER_KEY = "diffusers_esd"

_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# What from_pretrained reads without variant=...; model.fp16.safetensors is a variant.
_OF_COMPONENT = re.compile(r"(diffusion_pytorch_model|model)(-\d+-of-\d+)?\.safetensors")


def read_safetensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors of a file, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a safetensors file, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is not a safetensors file; only those are read, because others can run code.")
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            return opened.metadata() or {}, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is damaged or not a safetensors file ({error}); fetch it again.") from error


def read_header(file: Path) -> dict[str, str]:
    """The header's own entries, without PyTorch and without the tensors.

    Raises:
        ValueError: If the file is damaged or not a safetensors file.
    """
    try:
        entries = _header_entries(file).get("__metadata__", {})
        return {str(key): str(value) for key, value in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or not a safetensors file ({error}); fetch it again.") from error


def _header_entries(file: Path) -> Any:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size - 8:
            raise ValueError("its header is longer than the file")
        return json.loads(opened.read(length))


def stored_dtypes(folder: Path) -> dict[str, torch.dtype]:
    """The type of each component's weights in a pipeline's folder, from the headers of its safetensors files.

    Where a component has weights of several types, the one with the most bytes decides. A component whose weights are
    of no floating-point type that PyTorch computes in, or in other files, is left out.

    Raises:
        ValueError: If a file is damaged.
    """
    import torch

    dtypes: dict[str, torch.dtype] = {}
    for component in sorted(path for path in folder.iterdir() if path.is_dir()):
        sizes: Counter[str] = Counter()
        for file in component.iterdir():
            if _OF_COMPONENT.fullmatch(file.name):
                sizes.update(_bytes_by_type(file))
        if sizes and (stored := sizes.most_common(1)[0][0]) in _FLOATS:
            dtypes[component.name] = getattr(torch, _FLOATS[stored])
    return dtypes


def _bytes_by_type(file: Path) -> Counter[str]:
    sizes: Counter[str] = Counter()
    try:
        for name, entry in _header_entries(file).items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                sizes[entry["dtype"]] += end - start
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or not a safetensors file ({error}); fetch it again.") from error
    return sizes


def write_safetensors(file: Path, weights: Mapping[str, Tensor], header: dict[str, str]) -> Path:
    """Write a file whole or not at all; the same contents give the same bytes."""
    from safetensors.torch import save

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    content = save({key: value.contiguous() for key, value in weights.items()}, metadata=header)
    try:
        # safetensors' own save_file makes files that only their owner can read, whatever the umask.
        temporary.write_bytes(_with_sorted_header(content))
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file


def _with_sorted_header(content: bytes) -> bytes:
    # safetensors writes the header's entries in an order that differs from run to run.
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[8 + length :]))
