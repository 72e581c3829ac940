"""Files of other tools: kohya's names out and in, and the full weights that the authors' scripts save.

`kohya` has the names. A file of full weights is turned into an adapter by the singular value decomposition of its
difference from the base.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from .base_model import fingerprint, model_name
from .checks import check_prompt
from .denoiser import base_layers, base_weights, check_denoiser
from .erasure import Erasure
from .families import Family, family_for
from .files import read_safetensors, write_safetensors
from .groups import names_pattern
from .kohya import PREFIX, from_kohya, to_kohya
from .low_rank import factorised, truncated
from .names import check_adapter_name
from .portable import check_fit, to_portable
from .provenance import Provenance, package_versions
from .stacks.sources import Source, read

# No reader of kohya's names that diffusers has knows these.
_UNMAPPED = ("add_embedding",)


def export(erasure: Source, path: str | os.PathLike[str], *, kind: str = "kohya") -> Path:
    """Write an erasure for another tool.

    Args:
        erasure: Of a pipeline with a U-Net: an `Erasure`, or where one is saved.
        path: The file, `.safetensors`; it appears whole or not at all. Beside an erasure saved for diffusers give it
            another name than `pytorch_lora_weights.safetensors`.
        kind: `"kohya"`, which ComfyUI, Forge, A1111 and sd-scripts read.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If there is no such erasure.
        ValueError: If the kind is unknown, or kohya's names have no place for the erasure's layers.

    Warns:
        UserWarning: If diffusers itself would not find some of the layers in this file.
    """
    if kind != "kohya":
        raise ValueError(f"kind={kind!r} is unknown; it must be 'kohya'.")
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors.")
    erasure = read(erasure)
    if erasure.provenance.component != "unet":
        raise ValueError(
            f"{erasure.name} is of a {erasure.provenance.component}, for which kohya's names are not settled; its own "
            "file loads in diffusers, and in what reads diffusers' names."
        )
    unmapped = [layer for layer in erasure.layers() if layer.startswith(_UNMAPPED)]
    if unmapped:
        warnings.warn(
            f"diffusers does not find {', '.join(unmapped)} in a file of kohya's names and would load the erasure "
            "without; for diffusers use the erasure's own file.",
            stacklevel=2,
        )
    return write_safetensors(Path(path), to_kohya(erasure.layers()), {"format": "pt", "ss_output_name": erasure.name})


def import_erasure(
    path: str | os.PathLike[str],
    pipe: DiffusionPipeline,
    *,
    concept: str,
    name: str | None = None,
    rank: int = 16,
    family: Family | None = None,
) -> Erasure:
    """Read what another tool has trained.

    Args:
        path: A `.safetensors` file: LECO's, SPM's or sd-scripts' (kohya's names, those of Stability's own code
            included), or the full weights of some layers, as the authors' scripts save them.
        pipe: A pipeline of the model it was trained on: it gives the layers their names, and full weights are compared
            with its own.
        concept: What it erases.
        name: Name of the erasure; `None` means the file's.
        rank: For full weights: rank of the adapter. `provenance.rank_error` says what it costs.
        family: For a kind of pipeline the package does not know: its family.

    Raises:
        ValueError: If the file is of neither kind, does not fit the pipeline, or has more than a plain LoRA (DoRA).

    Warns:
        UserWarning: If the file changes what an adapter of the denoiser cannot carry: biases, norms, text encoders.
    """
    path = Path(path)
    name = name or path.stem.replace(".", "-")
    check_adapter_name(name)
    check_prompt("concept", concept)
    if rank < 1:
        raise ValueError(f"rank={rank} is too small; it must be 1 or more.")
    _, weights = read_safetensors(path)
    family = family if family is not None else family_for(pipe)
    denoiser = family.denoiser
    error = 0.0
    if any(key.startswith(PREFIX) for key in weights):
        layers, unused = from_kohya(weights, base_layers(denoiser))
    else:
        layers, unused = _of_full_weights(weights, family)
        layers, error = truncated(layers, rank)
    if not layers:
        raise ValueError(
            f"{path} does not change this pipeline's {family.component}: expected an adapter in kohya's names, or full "
            f"weights that differ. It has {', '.join(list(weights)[:3]) or 'no tensors'}."
        )
    if unused:
        warnings.warn(
            f"{len(unused)} entries of {path.name} are not part of the erasure: an adapter of the denoiser cannot "
            f"carry them ({', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''}).",
            stacklevel=2,
        )
    portable_weights = to_portable(layers, family.component, max(len(a) for a, _ in layers.values()))
    check_fit(denoiser, family.component, portable_weights)
    provenance = Provenance(
        origin="imported",
        concepts=(concept,),
        base_model=model_name(pipe),
        base_fingerprint=fingerprint(denoiser),
        family=type(family).__name__,
        component=family.component,
        pattern=names_pattern(layers),
        layers=len(layers),
        versions=package_versions(),
        parts=((path.name, 1.0),),
        rank_error=error,
    )
    return Erasure(name, portable_weights, None, provenance)


def _of_full_weights(weights: Mapping[str, Tensor], family: Any) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """The difference from the base as A and B of full rank, and the keys that change what is no layer's weight.

    Raises:
        ValueError: If a weight is none of the denoiser's, or its base weights cannot be compared with.
    """
    check_denoiser(family.denoiser)
    layers = set(base_layers(family.denoiser))
    state = base_weights(family.denoiser)
    products: dict[str, tuple[Tensor, Tensor]] = {}
    unused: list[str] = []
    for key, value in weights.items():
        name = key.removeprefix(f"{family.component}.")
        layer = name.removesuffix(".weight")
        if name not in state or state[name].shape != value.shape:
            raise ValueError(
                f"{key!r} of shape {tuple(value.shape)} is not a weight of this pipeline's {family.component}."
            )
        base = state[name].cpu()
        if torch.equal(value.to(base.dtype), base):
            continue  # as it was, but for the type it is stored in
        delta = value.float() - base.float()
        if layer not in layers:
            unused.append(key)
        else:
            products[layer] = factorised(delta)
    return products, unused
