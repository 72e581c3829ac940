"""Files of other tools: export with their names, import of kohya's files and of full weights.

`kohya` and `original` know the names, `tools` what each tool reads. Full weights, which the authors' scripts save,
become an adapter by a singular value decomposition of their difference from the base weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from .arguments import check_prompt, integer_from, warn_user
from .base_model import fingerprint, model_name
from .denoiser import base_layers, base_weights, check_denoiser
from .erasure import Erasure
from .families import Family, family_for
from .files import HEADER_KEY, WEIGHTS_NAME, read_header, read_safetensors, write_safetensors
from .groups import names_pattern
from .kohya import PREFIX, from_kohya, to_kohya
from .low_rank import Layers, factorised, share, truncated
from .names import check_adapter_name
from .original import to_original
from .portable import check_fit, to_portable
from .provenance import Provenance, package_versions
from .quantization import check_full_weights, quantization
from .stacks.merge import merge
from .stacks.sources import Sources
from .tools import TITLES, File, Tool, check_tool, file_for, loaded_layers

_UNMAPPED = ("add_embedding",)  # In kohya's names, no reader in diffusers knows these layers.


def export(erasures: Sources, path: str | os.PathLike[str], *, tool: Tool | None = None) -> Path:
    """Write one or several erasures as a file for another tool. Several are merged exactly first.

    Args:
        erasures: One source, a list of sources (scale 1), or a mapping of sources to scales, all of one kind of model.
            A source is an `Erasure`, its folder or file, its Hub id (`user/name` or `user/name@revision`), or a recipe.
        path: The file, `.safetensors`. It appears whole or not at all.
        tool: The tool that will read it: `"comfyui"`, `"forge"`, `"a1111"`, `"invokeai"` or `"stable-diffusion.cpp"`.
            `None` means any: kohya's names for a U-Net, the names of the model's own code for Wan.

    Returns:
        The path.

    Raises:
        TypeError: If a scale is not a number.
        FileNotFoundError: If there is no erasure at a path or Hub id.
        ValueError: If the tool or the suffix is unknown, there is no source, a scale is not finite, the erasures do not
            fit together, or the tool does not read erasures of their family.
        FileExistsError: If the file is an erasure's own.

    Warns:
        UserWarning: If the tool, or without one diffusers itself, would not load some of the layers from this file, the
            erasures were trained on different models of the same architecture, or a scale is negative.
    """
    if tool is not None:
        check_tool(tool)
    check_export(path)
    erasure = merge(erasures)
    file = _checked_file(erasure, tool)
    layers = erasure.layers()
    if file == "erasure":
        weights = dict(erasure.weights)
    elif file == "original":
        weights = to_original(layers)
    else:
        weights = to_kohya(layers)
        unmapped = [layer for layer in layers if layer.startswith(_UNMAPPED)]
        if unmapped and tool is None:
            warn_user(
                f"diffusers does not load {', '.join(unmapped)} from a file with kohya's names; use the erasure's own "
                "file in diffusers."
            )
    return write_safetensors(Path(path), weights, {"format": "pt", "ss_output_name": erasure.name})


def _checked_file(erasure: Erasure, tool: Tool | None) -> File:
    """The file that a tool reads, with a warning that names the layers that it will not find there."""
    component, family, layers = erasure.provenance.component, erasure.provenance.family, erasure.layers()
    if tool is None:
        if component != "unet" and family != "Wan":
            raise ValueError(
                f"{erasure.name} is an erasure of a {component}; kohya's names exist for a U-Net only. Tools that read "
                "diffusers' names can load the erasure's own file. Name the tool for a file that it reads."
            )
        return "kohya" if component == "unet" else "original"
    file = file_for(tool, family)
    loaded = loaded_layers(tool, family, file, layers)
    missing = [layer for layer in layers if layer not in loaded]
    if len(missing) == len(layers):
        count = len(layers)
        raise ValueError(f"{TITLES[tool]} finds none of the {count} layers of {erasure.name}, such as {missing[0]}.")
    if missing:
        warn_user(
            f"{TITLES[tool]} does not find {len(missing)} of the {len(layers)} layers of {erasure.name}, with "
            f"{share(layers, missing):.2%} of its squared norm: {', '.join(missing[:5])}"
            f"{', ...' if len(missing) > 5 else ''}."
        )
    return file


def check_export(path: str | os.PathLike[str]) -> None:
    """Refuse a file that an export cannot be written to.

    Raises:
        ValueError: If the suffix is unknown.
        FileExistsError: If the file is an erasure's own, which the export would replace.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors, got {path}.")
    if file.name == WEIGHTS_NAME and file.exists():
        raise FileExistsError(f"{path} is the file of an erasure, which the export would replace; give another name.")


def check_foreign(path: str | os.PathLike[str]) -> None:
    """Refuse a file that cannot be imported, as far as its header tells.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, not a safetensors file, or an erasure of this package.
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    if file.suffix != ".safetensors":
        raise ValueError(f"{file} is not a safetensors file; only those are read, because others can run code.")
    if HEADER_KEY in read_header(file):
        raise ValueError(
            f"{file} is an erasure of this package, and needs no import: use it wherever an erasure is taken."
        )


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
        path: A `.safetensors` file: of LECO, SPM or sd-scripts (kohya's names, also those of Stability's own code), or
            with the full weights of some layers, as the authors' scripts save them.
        pipe: A pipeline of the model that the file was trained on. It gives the names of the layers, and full weights
            are compared with its own.
        concept: What it erases.
        name: Name of the erasure; `None` means the file's name.
        rank: Rank of the adapter for full weights, 1 or more, usually 4 to 64. `provenance.rank_error` is its error.
        family: The family of a pipeline that the package does not know.

    Raises:
        TypeError: If the concept is not a string, or the rank not a whole number.
        FileNotFoundError: If there is no such file.
        ValueError: If the concept is empty, the rank is below 1, the name cannot be that of an adapter, or the file is
            of neither kind, an erasure of this package, does not fit the pipeline, or contains more than a plain LoRA
            (DoRA).

    Warns:
        UserWarning: If the file changes what an adapter of the denoiser cannot change: biases, norms, text encoders.
    """
    path = Path(path)
    name = path.stem.replace(".", "-") if name is None else name
    check_adapter_name(name)
    check_prompt("concept", concept)
    rank = integer_from(1)("rank", rank)
    family = family_for(pipe) if family is None else family
    component = family.component
    check_foreign(path)
    layers, error = _read_layers(path, family, rank)
    weights = to_portable(layers, component, max(len(a) for a, _ in layers.values()))
    check_fit(family.denoiser, component, weights)
    provenance = Provenance(
        origin="imported",
        concepts=(concept,),
        base_model=model_name(pipe),
        base_fingerprint=fingerprint(family.denoiser),
        base_quantization=quantization(family.denoiser),
        family=type(family).__name__,
        component=component,
        pattern=names_pattern(layers),
        layers=len(layers),
        versions=package_versions(),
        parts=((path.name, 1.0),),
        rank_error=error,
    )
    return Erasure(name, weights, None, provenance)


def _read_layers(file: Path, family: Family, rank: int) -> tuple[Layers, float]:
    """A and B by layer, and the relative error of the lower rank."""
    _, weights = read_safetensors(file)
    layers: Layers
    error = 0.0
    if any(key.startswith(PREFIX) for key in weights):
        layers, unused = from_kohya(weights, base_layers(family.denoiser))
    else:
        layers, unused = _from_full_weights(weights, family)
        layers, error = truncated(layers, rank)
    if not layers:
        raise ValueError(
            f"{file} does not change this pipeline's {family.component}: expected an adapter with kohya's names, or "
            f"full weights that differ. It contains {', '.join(list(weights)[:3]) or 'no tensors'}."
        )
    if unused:
        warn_user(
            f"{len(unused)} entries of {file.name} are not part of the erasure, because an adapter of the denoiser "
            f"cannot carry them ({', '.join(unused[:3])}{', ...' if len(unused) > 3 else ''})."
        )
    return layers, error


def _from_full_weights(weights: Mapping[str, Tensor], family: Family) -> tuple[Layers, list[str]]:
    """The difference from the base as A and B of full rank, and the keys of changes that are not a layer's weight.

    Raises:
        ValueError: If a key or a shape is not the denoiser's, or the base weights cannot be compared.
    """
    check_denoiser(family.denoiser)
    check_full_weights(
        family.denoiser, "the import of full weights", "What is imported can be applied to a quantised pipeline."
    )
    names = set(base_layers(family.denoiser))
    base = base_weights(family.denoiser)
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    unused: list[str] = []
    for key, value in weights.items():
        name = key.removeprefix(f"{family.component}.")
        if name not in base or base[name].shape != value.shape:
            raise ValueError(
                f"{key!r} of shape {tuple(value.shape)} is not a weight of this pipeline's {family.component}."
            )
        before = base[name].cpu()
        if torch.equal(value.to(before.dtype), before):
            continue  # unchanged, apart from the type that it is stored in
        layer = name.removesuffix(".weight")
        if layer in names:
            layers[layer] = factorised(value.float() - before.float())
        else:
            unused.append(key)
    return layers, unused
