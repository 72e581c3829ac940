"""Files of other tools: kohya's names out and in, and the full weights that the authors' scripts save.

`lora_unet_<module with _>.lora_down.weight | lora_up.weight | alpha` is what ComfyUI, Forge and A1111 read, and what
LECO, sd-scripts and SPM write. A file of full weights is turned into an adapter by the singular value decomposition of
its difference from the base.
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

from .adapter import check_fit
from .compose import lower_rank, portable
from .config import ESDConfig, check_adapter_name, check_prompt
from .denoiser import base_layers, model_name
from .erasure import Erasure, Provenance
from .families import Family, family_for
from .files import KOHYA, read_safetensors, to_kohya, write_safetensors
from .groups import exactly

# No reader of kohya's names that diffusers has knows these.
_UNMAPPED = ("add_embedding",)


def export(erasure: Erasure, path: str | os.PathLike[str], *, kind: str = "kohya") -> Path:
    """Write an erasure for another tool.

    Args:
        erasure: Of a pipeline with a U-Net.
        path: The file, `.safetensors`; it appears whole or not at all. Beside an erasure saved for diffusers give it
            another name than `pytorch_lora_weights.safetensors`.
        kind: `"kohya"`, which ComfyUI, Forge, A1111 and sd-scripts read.

    Returns:
        The path.

    Raises:
        ValueError: If the kind is unknown, or kohya's names have no place for the erasure's layers.

    Warns:
        UserWarning: If diffusers itself would not find some of the layers in this file.
    """
    if kind != "kohya":
        raise ValueError(f"kind={kind!r} is unknown; it must be 'kohya'.")
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path} must end in .safetensors.")
    if erasure.provenance.component != "unet":
        raise ValueError(
            f"{erasure.name} is of a {erasure.provenance.component}, for which kohya's names are not settled; its own "
            "file loads in diffusers, and in what reads diffusers' names."
        )
    lost = [layer for layer in erasure.layers() if layer.startswith(_UNMAPPED)]
    if lost:
        warnings.warn(
            f"diffusers does not find {', '.join(lost)} in a file of kohya's names and would load the erasure without; "
            "for diffusers use the erasure's own file.",
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
        path: A `.safetensors` file: LECO's, SPM's or sd-scripts' (kohya's names), or the full weights of some layers,
            as the authors' scripts save them.
        pipe: A pipeline of the model it was trained on: it gives the layers their names, and full weights are compared
            with its own.
        concept: What it erases.
        name: Name of the erasure; `None` means the file's.
        rank: For full weights: rank of the adapter. `provenance.rank_error` says what it costs.
        family: For a kind of pipeline the package does not know: its family.

    Raises:
        ValueError: If the file is of neither kind, does not fit the pipeline, or is more than a LoRA (DoRA).

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
    layers = base_layers(family.denoiser)
    error = 0.0
    if any(key.startswith(KOHYA) for key in weights):
        found, left = _of_kohya(weights, layers, family.denoiser.config)
    else:
        found, left = _of_full_weights(weights, layers, family)
        found, error = lower_rank(found, rank)
    if not found:
        raise ValueError(f"{path} holds neither an adapter in kohya's names nor weights of this pipeline's layers.")
    if left:
        warnings.warn(
            f"{len(left)} entries of {path.name} are not part of the erasure: an adapter of the denoiser cannot carry "
            f"them ({', '.join(left[:3])}{', ...' if len(left) > 3 else ''}).",
            stacklevel=2,
        )
    width = max(len(a) for a, _ in found.values())
    portable_weights = portable(found, family.component, width)
    check_fit(family.denoiser, family.component, portable_weights)
    provenance = Provenance(
        concepts=(concept,),
        base_model=model_name(pipe),
        family=type(family).__name__,
        component=family.component,
        pattern=exactly(found),
        layers=len(found),
        versions={},
        iterations=0,
        alignment=None,
        seconds=0.0,
        evaluations={},
        complete=True,
        history=(),
        parts=((path.name, 1.0),),
        rank_error=error,
    )
    return Erasure(name, portable_weights, ESDConfig(rank=width), provenance)


Layers = dict[str, tuple[Tensor, Tensor]]


# What diffusers' renumbering of the blocks leaves to rename, in this order.
_SGM = (
    ("input_blocks_0_0", "conv_in"),
    ("unet_out_2", "unet_conv_out"),
    ("input_blocks", "down_blocks"),
    ("middle_block", "mid_block"),
    ("output_blocks", "up_blocks"),
    ("in_layers_2", "conv1"),
    ("out_layers_3", "conv2"),
    ("emb_layers_1", "time_emb_proj"),
    ("skip_connection", "conv_shortcut"),
    ("downsamplers_0_op", "downsamplers_0_conv"),
    ("time_embed_0", "time_embedding_linear_1"),
    ("time_embed_2", "time_embedding_linear_2"),
    ("label_emb_0_0", "add_embedding_linear_1"),
    ("label_emb_0_2", "add_embedding_linear_2"),
)


def _of_sgm(key: str) -> str:
    for theirs, ours in _SGM:
        key = key.replace(theirs, ours)
    return key


def _of_kohya(weights: Mapping[str, Tensor], layers: list[str], config: Any) -> tuple[Layers, list[str]]:
    """A and B by layer, and the keys that are none of the denoiser's."""
    names = {KOHYA + layer.replace(".", "_"): layer for layer in layers}
    if any(key.startswith((f"{KOHYA}input_blocks", f"{KOHYA}output_blocks")) for key in weights):
        # The names of Stability's own code, which sd-scripts uses for SDXL.
        from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

        weights = {_of_sgm(k): v for k, v in _maybe_map_sgm_blocks_to_diffusers(dict(weights), config).items()}
    more = [key for key in weights if key.endswith((".dora_scale", ".lora_mid.weight"))]
    if more:
        raise ValueError(f"{more[0]!r} makes it more than a plain LoRA (DoRA or Tucker), which is not read.")
    found: Layers = {}
    used: set[str] = set()
    for key, up in weights.items():
        stem = key.removesuffix(".lora_up.weight")
        down, alpha = weights.get(f"{stem}.lora_down.weight"), weights.get(f"{stem}.alpha")
        if stem != key and stem in names and down is not None:
            scale = 1.0 if alpha is None else alpha.item() / len(down)
            found[names[stem]] = (down.float(), scale * up.float())
            used |= {key, f"{stem}.lora_down.weight", f"{stem}.alpha"}
    return found, [key for key in weights if key not in used]


def _of_full_weights(weights: Mapping[str, Tensor], layers: list[str], family: Any) -> tuple[Layers, list[str]]:
    """The difference from the base as A and B of full rank, and the keys that change what is no layer's weight."""
    state = {key.replace(".base_layer", ""): value for key, value in family.denoiser.state_dict().items()}
    found: Layers = {}
    left: list[str] = []
    for key, value in weights.items():
        name = key.removeprefix(f"{family.component}.")
        layer = name.removesuffix(".weight")
        if name not in state or state[name].shape != value.shape:
            raise ValueError(
                f"{key!r} of shape {tuple(value.shape)} is no weight of this pipeline's {family.component}."
            )
        base = state[name].cpu()
        if torch.equal(value.to(base.dtype), base):
            continue  # as it was, but for the type it is stored in
        delta = value.float() - base.float()
        if layer not in layers:
            left.append(key)
        else:
            u, s, v = torch.linalg.svd(delta.flatten(1), full_matrices=False)
            found[layer] = (v.reshape(-1, *delta.shape[1:]), (u * s).reshape(*u.shape, *[1] * (delta.dim() - 2)))
    return found, left
