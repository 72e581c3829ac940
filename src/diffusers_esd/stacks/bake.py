"""`bake`: a pipeline with erasures in its weights, W + s1 B1 A1 + s2 B2 A2, so that no adapter can be detached."""

from __future__ import annotations

import copy
import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from .. import adapter
from ..base_model import model_name
from ..card import baked_card
from ..denoiser import Denoiser, check_denoiser, find_denoiser, has_hooks, tuner_layers
from ..erasure import Erasure
from ..files import whole
from ..quantization import check_full_weights
from .sources import Sources, check_base, read_all


def bake(
    pipe: DiffusionPipeline, erasures: Sources, *, save_to: str | os.PathLike[str] | None = None
) -> DiffusionPipeline:
    """A pipeline with erasures in its weights: there is no adapter to detach.

    Args:
        pipe: The pipeline; it is not changed. Its own adapters are not part of the result.
        erasures: One source, a list of sources (scale 1), or a mapping of sources to scales. A source is an `Erasure`,
            its folder or file, its Hub id (`user/name` or `user/name@revision`), or a recipe.
        save_to: A new folder for the result, which loads with `from_pretrained`. It appears whole or not at all.

    Returns:
        A pipeline that shares everything but the denoiser with `pipe`. The sum is computed in float32, and rounded once
        to the type of the weights.

    Raises:
        TypeError: If a scale is not a number.
        ValueError: If there is no source, a scale is not finite, an erasure does not fit the pipeline, the denoiser is
            quantised or has hooks, or `save_to` is given and another part of the pipeline has adapters.
        FileExistsError: If the folder exists.
        FileNotFoundError: If there is no erasure at a path or Hub id.

    Warns:
        UserWarning: If an erasure was trained on another model of the same architecture, or a scale is negative.
    """
    component, original = find_denoiser(pipe)
    if save_to is not None:
        _check_saveable(pipe, component, Path(save_to))
    parts = read_all(erasures)
    check_denoiser(original)
    check_full_weights(original, "baking", "The baked pipeline can be quantised when it is loaded.")
    if has_hooks(original):
        raise ValueError(
            f"The {component} has hooks (offloading, caching), which a copy would share. Bake a pipeline without: load "
            "it again, or call pipe.remove_all_hooks() if the hooks are those of enable_model_cpu_offload()."
        )
    for erasure, _ in parts:
        check_base(erasure, pipe)
    denoiser = copy.deepcopy(original)
    adapter.remove_all(denoiser)
    _add(denoiser, parts)
    baked: Any = copy.copy(pipe)
    baked.register_modules(**{component: denoiser})
    erased = [
        *_erased_before(baked),
        *({"concepts": list(e.provenance.concepts), "name": e.name, "scale": scale} for e, scale in parts),
    ]
    baked.register_to_config(_erased=erased)
    if save_to is not None:
        rows = [(part["concepts"], part["name"], part["scale"]) for part in erased]
        _save(baked, Path(save_to), baked_card(model_name(pipe), rows))
    return baked


def check_new(folder: Path) -> None:
    """Refuse a folder that exists.

    Raises:
        FileExistsError: If it exists.
    """
    if folder.exists():
        raise FileExistsError(f"A baked pipeline must be saved in a new folder; {folder} exists.")


def _check_saveable(pipe: Any, component: str, folder: Path) -> None:
    """Refuse a folder that exists, and adapters on other parts, with which the pipeline would not load again."""
    check_new(folder)
    others = {name: model for name, model in pipe.components.items() if name != component}
    wrapped = [name for name, model in others.items() if isinstance(model, nn.Module) and tuner_layers(model)]
    if wrapped:
        raise ValueError(
            f"The pipeline has adapters on its {' and '.join(wrapped)}, with which it would not load again. Call "
            "pipe.unload_lora_weights() first."
        )


@torch.no_grad()
def _add(denoiser: Denoiser, parts: Sequence[tuple[Erasure, float]]) -> None:
    """Add the scaled products to the weights, one layer at a time: all products together are as large as the model."""
    factors = [(erasure.layers(), scale) for erasure, scale in parts]
    for layer in dict.fromkeys(layer for layers, _ in factors for layer in layers):
        weight = denoiser.get_submodule(layer).weight
        total = weight.float()
        for layers, scale in factors:
            if layer in layers:
                a, b = (side.to(weight.device).flatten(1) for side in layers[layer])
                total = total + scale * (b @ a).view_as(weight)
        weight.copy_(total)


def _erased_before(pipe: Any) -> list[dict[str, Any]]:
    """What is erased from the weights already: `from_pretrained` drops it from `model_index.json`."""
    index = Path(str(pipe.config.get("_name_or_path"))) / "model_index.json"
    stored = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    return list(pipe.config.get("_erased", stored.get("_erased", [])))


def _save(pipe: Any, folder: Path, card: str) -> None:
    with whole(folder) as temporary:
        pipe.save_pretrained(temporary)
        readme = temporary / "README.md"
        readme.write_text(card, encoding="utf-8")
        # safetensors makes files that only their owner can read; a file of Python's has the mode that the umask gives.
        mode = stat.S_IMODE(readme.stat().st_mode)
        for path in temporary.rglob("*"):
            if path.is_file():
                path.chmod(mode)
