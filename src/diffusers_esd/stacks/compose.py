"""Several erasures on one pipeline: active together, merged into one, or baked into the weights."""

from __future__ import annotations

import copy
import json
import os
import stat
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from .. import adapter
from .. import hub
from ..base_model import model_name
from ..checks import check_scale
from ..denoiser import adapter_names, check_denoiser, check_name, find_denoiser, tuner_layers
from ..erasure import Erasure
from ..groups import names_pattern
from ..low_rank import summed, truncated
from ..names import bounded_name
from ..portable import to_portable
from ..provenance import Provenance, package_versions
from .sources import Source, check_base, is_same_base, listed, name_beside, read


def stack(pipe: DiffusionPipeline, erasures: Mapping[Source, float]) -> dict[str, float]:
    """Make erasures active together, beside the pipeline's own adapters.

    Args:
        pipe: The pipeline.
        erasures: Scales by erasure: the name of an adapter that is on the pipeline, an `Erasure`, or where one is
            saved. What is not loaded is loaded, under its own name. A scale of 1 is the erasure as trained.

    Returns:
        All active adapters and their scales, those of the user included.

    Raises:
        TypeError: If `erasures` is not a mapping, or a scale is not a number.
        ValueError: If a scale is not finite, an erasure does not fit the pipeline, or another adapter has its name.
            Nothing is loaded then.

    Warns:
        UserWarning: If an erasure was trained on another model of the same architecture, or a scale is negative.
    """
    if not isinstance(erasures, Mapping):
        raise TypeError(f"`erasures` must map erasures to scales, such as {{erasure: 1.0}}; got {erasures!r}.")
    checked: dict[Source, float] = {}
    for source, scale in erasures.items():
        checked[source] = check_scale("scale", scale)
    component, denoiser = find_denoiser(pipe)
    check_denoiser(denoiser)
    present = adapter_names(denoiser)
    scales: dict[str, float] = {}
    new: list[Erasure] = []
    for source, scale in checked.items():
        if isinstance(source, str) and source in present:
            scales[source] = scale
            continue
        erasure = read(source)
        check_base(erasure, pipe)
        if erasure.name not in present or not _is_loaded(denoiser, erasure):
            check_name(denoiser, erasure.name)
            if erasure.name in [other.name for other in new]:
                raise ValueError(f"Two of the erasures are called {erasure.name!r}; apply one with name=... first.")
            new.append(erasure)
        scales[erasure.name] = scale
    loaded: list[Erasure] = []
    try:
        for erasure in new:
            adapter.load(denoiser, component, dict(erasure.weights), erasure.name, scales[erasure.name])
            loaded.append(erasure)
        adapter.activate(denoiser, scales)
    except BaseException:
        for erasure in loaded:
            erasure.remove(pipe)
        raise
    return adapter.active_scales(denoiser)


def merge(
    erasures: Sequence[Source],
    scales: Sequence[float] | None = None,
    *,
    rank: int | None = None,
    name: str | None = None,
) -> Erasure:
    """One erasure that does what several do together; no pipeline is needed.

    Args:
        erasures: What to merge, all of the same architecture.
        scales: Their scales; all 1 by default.
        rank: Rank of the result. `None` is exact: the sum of their ranks. A lower one is the best approximation of that
            rank in each layer (the singular value decomposition of the sum); `provenance.rank_error` has its error.
        name: Name of the result; `None` joins theirs.

    Raises:
        TypeError: If a scale is not a number.
        ValueError: If there is nothing to merge, the numbers differ, a scale is not finite, or layers do not fit.

    Warns:
        UserWarning: If the erasures were trained on different models of the same architecture, or a scale is negative.
    """
    sources = listed(erasures)
    given = [1.0] * len(sources) if scales is None else list(scales)
    if not sources or len(given) != len(sources):
        raise ValueError(f"Give one or more erasures and as many scales; got {len(sources)} and {len(given)}.")
    checked: list[float] = []
    for scale in given:
        checked.append(check_scale("scales", scale))
    if rank is not None and rank < 1:
        raise ValueError(f"rank={rank} is too small; it must be 1 or more.")
    parts = [read(source) for source in sources]
    if len({(part.provenance.family, part.provenance.component) for part in parts}) > 1:
        raise ValueError(f"The erasures are of different families: {[part.provenance.family for part in parts]}.")
    for part in parts[1:]:
        if not is_same_base(parts[0].provenance, part.provenance):
            warnings.warn(
                f"{parts[0].name} was trained on {parts[0].provenance.base_model}, and {part.name} on "
                f"{name_beside(part.provenance, parts[0].provenance)}. Where one is a fine-tune of the other an "
                "erasure mostly holds; look at pictures.",
                stacklevel=2,
            )
    layers = summed([(part.layers(), scale) for part, scale in zip(parts, checked, strict=True)])
    width, error = max(len(a) for a, _ in layers.values()), 0.0
    if rank is not None and rank < width:
        layers, error = truncated(layers, rank)
        width = rank
    component = parts[0].provenance.component
    provenance = _merged([part.provenance for part in parts]) | {
        "pattern": names_pattern(layers),
        "layers": len(layers),
        "parts": tuple((part.name, scale) for part, scale in zip(parts, checked, strict=True)),
        "rank_error": error,
    }
    return Erasure(
        bounded_name("-".join(part.name for part in parts)) if name is None else name,
        to_portable(layers, component, width),
        None,
        Provenance(**provenance),
    )


def _merged(parts: Sequence[Provenance]) -> dict[str, Any]:
    """The fields of a merged erasure's provenance that follow from those of its parts."""
    fingerprints = {part.base_fingerprint for part in parts}
    kinds = dict.fromkeys(kind for part in parts for kind in part.evaluations)
    return {
        "origin": "merged",
        "concepts": tuple(dict.fromkeys(concept for part in parts for concept in part.concepts)),
        "base_model": " and ".join(dict.fromkeys(part.base_model for part in parts)),
        "base_fingerprint": fingerprints.pop() if len(fingerprints) == 1 else "",
        "family": parts[0].family,
        "component": parts[0].component,
        "versions": package_versions(),
        "iterations": sum(part.iterations for part in parts),
        "seconds": sum(part.seconds for part in parts),
        "evaluations": {kind: sum(part.evaluations.get(kind, 0) for part in parts) for kind in kinds},
        "complete": all(part.complete for part in parts),
    }


def bake(
    pipe: DiffusionPipeline,
    erasures: Sequence[Source] | Mapping[Source, float],
    *,
    save_to: str | os.PathLike[str] | None = None,
) -> DiffusionPipeline:
    """A pipeline with erasures in its weights: there is no adapter to detach.

    Args:
        pipe: The pipeline; it is not changed. Adapters it has are not part of the result.
        erasures: The erasures, or their scales by erasure.
        save_to: A new folder for the result, which loads with `from_pretrained`. It appears whole or not at all.

    Returns:
        A pipeline that shares everything but the denoiser with `pipe`. The sum is made in float32, and rounded once to
        the type of the weights.

    Raises:
        TypeError: If a scale is not a number.
        ValueError: If a scale is not finite, or an erasure does not fit the pipeline.
        FileExistsError: If the folder exists.

    Warns:
        UserWarning: If an erasure was trained on another model of the same architecture, or a scale is negative.
    """
    given = erasures if isinstance(erasures, Mapping) else dict.fromkeys(listed(erasures), 1.0)
    scales: dict[Source, float] = {}
    for source, scale in given.items():
        scales[source] = check_scale("scale", scale)
    if not scales:
        raise ValueError("There is nothing to bake: give one or more erasures.")
    folder = None if save_to is None else Path(save_to)
    if folder is not None and folder.exists():
        raise FileExistsError(f"{folder} exists; give a new folder.")
    component, original = find_denoiser(pipe)
    check_denoiser(original)
    if any(hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook") for module in original.modules()):
        raise ValueError(
            f"The {component} has hooks (offloading, caching), which a copy would share. Bake a pipeline without them: "
            "load it anew, or call pipe.remove_all_hooks() where it is enable_model_cpu_offload's."
        )
    if folder is not None:
        _check_saveable(pipe, component)
    parts = [(read(source), scale) for source, scale in scales.items()]
    for erasure, _ in parts:
        check_base(erasure, pipe)
    denoiser = copy.deepcopy(original)
    if adapter_names(denoiser):
        denoiser.unload_lora()
    with torch.no_grad():
        # A layer at a time: all deltas together are as large as the model.
        for layer in dict.fromkeys(layer for erasure, _ in parts for layer in erasure.layers()):
            weight = denoiser.get_submodule(layer).weight
            total = weight.float()
            for erasure, scale in parts:
                if layer in erasure.layers():
                    a, b = (side.to(weight.device).flatten(1) for side in erasure.layers()[layer])
                    total = total + scale * (b @ a).view_as(weight)
            weight.copy_(total)
    baked: Any = copy.copy(pipe)
    baked.register_modules(**{component: denoiser})
    erased = [
        *_erased_before(baked),
        *({"concepts": list(e.provenance.concepts), "name": e.name, "scale": scale} for e, scale in parts),
    ]
    baked.register_to_config(_erased=erased)
    if folder is not None:
        _save(baked, folder, hub.baked_card(model_name(pipe), erased))
    return baked


def _erased_before(pipe: Any) -> list[dict[str, Any]]:
    """What is erased from the weights already: `from_pretrained` does not take it over from `model_index.json`."""
    index = Path(str(pipe.config.get("_name_or_path"))) / "model_index.json"
    stored = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    return list(pipe.config.get("_erased", stored.get("_erased", [])))


def _check_saveable(pipe: Any, component: str) -> None:
    """Refuse adapters on what is saved beside the denoiser."""
    others = {name: model for name, model in pipe.components.items() if name != component}
    wrapped = [name for name, model in others.items() if isinstance(model, nn.Module) and tuner_layers(model)]
    if wrapped:
        raise ValueError(
            f"{', '.join(wrapped)} of the pipeline has adapters, with which it would not load again. Call "
            "pipe.unload_lora_weights() first."
        )


def _save(pipe: Any, folder: Path, card: str) -> None:
    """Write a pipeline whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        inside = Path(temporary) / folder.name
        pipe.save_pretrained(inside)
        readme = inside / "README.md"
        readme.write_text(card, encoding="utf-8")
        # safetensors makes files that only their owner can read; a file of Python's has the mode that the umask gives.
        mode = stat.S_IMODE(readme.stat().st_mode)
        for path in inside.rglob("*"):
            if path.is_file():
                path.chmod(mode)
        inside.replace(folder)


def _is_loaded(denoiser: Any, erasure: Erasure) -> bool:
    """Whether the adapter of its name on the denoiser is this erasure."""
    loaded = adapter.read_weights(denoiser, erasure.name, erasure.provenance.component)
    return loaded.keys() == erasure.weights.keys() and all(
        torch.equal(value, erasure.weights[key].to(value.dtype)) for key, value in loaded.items()
    )
