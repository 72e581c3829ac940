"""Files: written whole or not at all, safetensors read without trust."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import warn_user

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
CONFIG_NAME = "config.yaml"
"""Beside an erasure that the command `erase` trained; it says how the command is repeated."""
HEADER_KEY = "diffusers_esd"

_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path for a file or a folder, which appears as `path` if the block ends without an error.

    Args:
        path: A file, which is replaced if it exists, or a folder that does not exist. Missing parents are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def sync(*paths: Path) -> None:
    """Wait until files, and entries of folders, are on the disk, so that they survive a power failure."""
    for path in paths:
        if path.is_file() or os.name == "posix":  # other systems cannot open a folder
            descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove_folder(path: Path) -> None:
    """Remove a folder. If that is interrupted, nothing stays under its name."""
    temporary = _beside(path)
    path.replace(temporary)
    shutil.rmtree(temporary)


def remove_leftovers(folder: Path) -> None:
    """Remove what an interrupted `whole` or `remove_folder` of any process has left in a folder."""
    for path in folder.glob(".*.tmp"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def write_safetensors(path: Path, weights: Mapping[str, Tensor], header: dict[str, str]) -> Path:
    """Write tensors and header entries, whole or not at all; the same contents give the same bytes."""
    from safetensors.torch import save

    content = save({key: value.contiguous() for key, value in weights.items()}, metadata=header)
    with whole(path) as temporary:
        # safetensors' own save_file creates files that only their owner can read, whatever the umask.
        temporary.write_bytes(_with_sorted_header(content))
    return path


def read_png(file: Path) -> Image | None:
    """An image of a PNG file; `None` if there is none.

    Warns:
        UserWarning: If the file is damaged or not a PNG image; then it is `None` too.
    """
    from PIL import Image as Images

    if not file.is_file():
        return None
    try:
        image = Images.open(file, formats=["PNG"])
        image.load()
    except (OSError, ValueError, SyntaxError, Images.DecompressionBombError) as error:
        warn_user(f"{file} is damaged or not a PNG image ({error}); it is left out.")
        return None
    return image


def digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors and their names: the same for the same weights, whatever else a file says about them."""
    from safetensors.torch import save

    ordered = {key: weights[key].contiguous() for key in sorted(weights)}
    return hashlib.sha256(_with_sorted_header(save(ordered))).hexdigest()


def read_safetensors(file: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header entries and tensors of a file, on the CPU.

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
        raise ValueError(_damaged(file, error)) from error


def read_header(file: Path) -> dict[str, str]:
    """The header's own entries, without PyTorch and without reading the tensors.

    Raises:
        ValueError: If the file is damaged or not a safetensors file.
    """
    try:
        entries = _header_entries(file).get("__metadata__", {})
        return {str(key): str(value) for key, value in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(_damaged(file, error)) from error


def stored_dtypes(folder: Path, variant: str | None = None) -> dict[str, torch.dtype]:
    """The type of each component's weights in a pipeline's folder, from the headers of its safetensors files.

    If a component has weights of several types, the type with the most bytes counts. A component is left out if its
    weights are not of a floating-point type that PyTorch computes in, or if they are in other files.

    Args:
        folder: The folder.
        variant: The variant that is read where a component has it, such as `"fp16"`.

    Raises:
        ValueError: If a file is damaged.
    """
    import torch

    dtypes: dict[str, torch.dtype] = {}
    for component in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = _of_component(component, variant) or _of_component(component, None)
        if stored := _most(sum(map(_bytes_by_type, files), Counter())):
            dtypes[component.name] = getattr(torch, stored)
    return dtypes


def stored_dtype(file: Path) -> str:
    """Name of the type that most of a file's bytes have: `"float16"`; `"float32"` if PyTorch does not compute in it.

    Raises:
        ValueError: If the file is damaged.
    """
    return _most(_bytes_by_type(file)) or "float32"


def stored_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of a file's tensors, by name, from its header.

    Raises:
        ValueError: If the file is damaged or not a safetensors file.
    """
    try:
        entries = _header_entries(file).items()
        return {name: tuple(map(int, entry["shape"])) for name, entry in entries if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(_damaged(file, error)) from error


def _of_component(folder: Path, variant: str | None) -> list[Path]:
    """The files that from_pretrained reads: `model.safetensors`, as a variant `model.fp16.safetensors`."""
    middle = "" if variant is None else re.escape(f".{variant}")
    name = re.compile(rf"(diffusion_pytorch_model|model){middle}(-\d+-of-\d+)?\.safetensors")
    return [file for file in folder.iterdir() if name.fullmatch(file.name)]


def _most(sizes: Counter[str]) -> str | None:
    """PyTorch's name of the type with the most bytes."""
    return _FLOATS.get(sizes.most_common(1)[0][0]) if sizes else None


def _beside(path: Path) -> Path:
    """The temporary path, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _header_entries(file: Path) -> Any:
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size - 8:
            raise ValueError("its header is longer than the file")
        return json.loads(opened.read(length))


def _bytes_by_type(file: Path) -> Counter[str]:
    sizes: Counter[str] = Counter()
    try:
        for name, entry in _header_entries(file).items():
            if name != "__metadata__":
                start, end = entry["data_offsets"]
                sizes[entry["dtype"]] += end - start
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(_damaged(file, error)) from error
    return sizes


def _damaged(file: Path, error: Exception) -> str:
    return f"{file} is damaged or not a safetensors file ({error}); fetch it again."


def _with_sorted_header(content: bytes) -> bytes:
    # safetensors writes the header's entries in an order that differs from run to run.
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[8 + length :]))
