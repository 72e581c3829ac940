"""Several erasures on one pipeline: active together, merged into one, or baked into the weights.

A LoRA layer adds B A to a weight. Several add the sum of their products; the product of sums, which comes of adding
factors, is something else. Merging therefore concatenates: [B1 B2] [A1; A2] = B1 A1 + B2 A2.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.utils.torch_utils import unwrap_module
from torch import Tensor, nn

from . import adapter, hub
from .denoiser import adapter_names, check_denoiser, check_name, model_name, tuner_layers
from .erasure import Erasure
from .families import FAMILIES
from .groups import exactly

Source = Erasure | str | os.PathLike[str]
"""An erasure, the folder or file of one, or the id of its repository."""


def stack(pipe: DiffusionPipeline, erasures: Mapping[Source, float]) -> dict[str, float]:
    """Make erasures active together, beside the pipeline's own adapters.

    Args:
        pipe: The pipeline.
        erasures: Scales by erasure: the name of an adapter that is on the pipeline, an `Erasure`, or where one is
            saved. What is not loaded is loaded, under its own name. A scale of 1 is the erasure as trained.

    Returns:
        All active adapters and their scales, those of the user included.

    Raises:
        ValueError: If an erasure does not fit the pipeline, or another adapter has its name. Nothing is loaded then.

    Warns:
        UserWarning: If an erasure was trained on another model of the same architecture.
    """
    component, denoiser = _denoiser(pipe)
    check_denoiser(denoiser)
    there = adapter_names(denoiser)
    scales: dict[str, float] = {}
    new: list[tuple[Erasure, float]] = []
    for source, scale in erasures.items():
        if isinstance(source, str) and source in there:
            scales[source] = scale
            continue
        erasure = _erasure(source)
        _check_base(erasure, pipe, component)
        adapter.check_fit(denoiser, component, dict(erasure.weights))
        if erasure.name in there and _is_loaded(denoiser, erasure):
            scales[erasure.name] = scale
            continue
        check_name(denoiser, erasure.name)
        if erasure.name in [other.name for other, _ in new]:
            raise ValueError(f"Two of the erasures are called {erasure.name!r}; apply one with name=... first.")
        new.append((erasure, scale))
    loaded: list[Erasure] = []
    try:
        for erasure, scale in new:
            erasure.apply(pipe, scale)
            loaded.append(erasure)
        adapter.activate(denoiser, scales)
    except BaseException:
        for erasure in loaded:
            erasure.remove(pipe)
        raise
    return adapter.active_scales(denoiser)


def merge(
    erasures: Sequence[Source],
    weights: Sequence[float] | None = None,
    *,
    rank: int | None = None,
    name: str | None = None,
) -> Erasure:
    """One erasure that does what several do together; no pipeline is needed.

    Args:
        erasures: What to merge, all of the same architecture.
        weights: Their scales; all 1 by default.
        rank: Rank of the result. `None` is exact: the sum of their ranks. A lower one is the best approximation of that
            rank in each layer (the singular value decomposition of the sum); `provenance.rank_error` has its error.
        name: Name of the result; `None` joins theirs.

    Raises:
        ValueError: If there is nothing to merge, the numbers differ, or layers do not fit.
    """
    parts = [_erasure(source) for source in _listed(erasures)]
    weights = [1.0] * len(parts) if weights is None else list(weights)
    if not parts or len(weights) != len(parts):
        raise ValueError(f"Give one or more erasures and as many weights; got {len(parts)} and {len(weights)}.")
    if rank is not None and rank < 1:
        raise ValueError(f"rank={rank} is too small; it must be 1 or more.")
    if len({(part.provenance.family, part.provenance.component) for part in parts}) > 1:
        raise ValueError(f"The erasures are of different families: {[part.provenance.family for part in parts]}.")
    factors: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for part, weight in zip(parts, weights, strict=True):
        for layer, (a, b) in part.layers().items():
            factors.setdefault(layer, []).append((a, weight * b))
    for layer, pairs in factors.items():
        shapes = {(a.shape[1:], b.shape[0]) for a, b in pairs}
        if len(shapes) > 1:
            raise ValueError(f"The erasures are of different architectures: layer {layer!r} has {sorted(shapes)}.")
    summed = {
        layer: (torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1))
        for layer, pairs in factors.items()
    }
    width = max(len(a) for a, _ in summed.values())
    error = 0.0
    if rank is not None and rank < width:
        summed, error = lower_rank(summed, rank)
        width = rank
    first, component = parts[0], parts[0].provenance.component
    provenance = replace(
        first.provenance,
        concepts=tuple(concept for part in parts for concept in part.provenance.concepts),
        pattern=exactly(summed),
        layers=len(summed),
        iterations=sum(part.provenance.iterations for part in parts),
        alignment=None,
        seconds=sum(part.provenance.seconds for part in parts),
        evaluations={
            key: sum(part.provenance.evaluations.get(key, 0) for part in parts) for key in first.provenance.evaluations
        },
        complete=all(part.provenance.complete for part in parts),
        history=(),
        parts=tuple((part.name, weight) for part, weight in zip(parts, weights, strict=True)),
        rank_error=error,
    )
    return Erasure(
        name or "-".join(part.name for part in parts),
        portable(summed, component, width),
        replace(first.config, rank=width, lora_alpha=None),
        provenance,
    )


def lower_rank(
    layers: Mapping[str, tuple[Tensor, Tensor]], rank: int
) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """The best approximation of each layer's product at a rank, and the relative error of all together.

    Args:
        layers: A, (r, d, ...), and B, (out, r, ...), by layer.
        rank: Of the result.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    lost = total = 0.0
    for layer, (a, b) in layers.items():
        # The product's singular values are those of a small matrix: B A = Qb (Rb Ra') Qa'.
        qa, ra = torch.linalg.qr(a.flatten(1).T.double())
        qb, rb = torch.linalg.qr(b.flatten(1).double())
        u, s, v = torch.linalg.svd(rb @ ra.T, full_matrices=False)
        root = s[:rank].sqrt()
        down, up = (root[:, None] * v[:rank]) @ qa.T, qb @ (u[:, :rank] * root)
        found[layer] = (
            down.float().reshape(len(root), *a.shape[1:]),
            up.float().reshape(b.shape[0], len(root), *b.shape[2:]),
        )
        lost += s[rank:].square().sum().item()
        total += s.square().sum().item()
    return found, (lost / total) ** 0.5 if total else 0.0


def portable(layers: Mapping[str, tuple[Tensor, Tensor]], component: str, rank: int) -> dict[str, Tensor]:
    """Weights by portable key, every layer at the same rank: the rows and columns added are zeros."""
    weights = {}
    for layer, (a, b) in layers.items():
        more = rank - len(a)
        weights[f"{component}.{layer}.lora_A.weight"] = torch.cat([a, a.new_zeros(more, *a.shape[1:])])
        weights[f"{component}.{layer}.lora_B.weight"] = torch.cat([b, b.new_zeros(b.shape[0], more, *b.shape[2:])], 1)
    return {key: weight.contiguous() for key, weight in weights.items()}


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
        ValueError: If an erasure does not fit the pipeline.
        FileExistsError: If the folder exists.
    """
    scales = erasures if isinstance(erasures, Mapping) else dict.fromkeys(_listed(erasures), 1.0)
    if not scales:
        raise ValueError("There is nothing to bake: give one or more erasures.")
    folder = None if save_to is None else Path(save_to)
    if folder is not None and folder.exists():
        raise FileExistsError(f"{folder} exists; give a new folder.")
    component, original = _denoiser(pipe)
    check_denoiser(original)
    if any(hasattr(module, "_hf_hook") or hasattr(module, "_diffusers_hook") for module in original.modules()):
        raise ValueError(
            f"The {component} has hooks (offloading, caching), which a copy would share. Bake a pipeline without them: "
            "load it anew, or call pipe.remove_all_hooks() where it is enable_model_cpu_offload's."
        )
    if folder is not None:
        _check_saveable(pipe, component)
    parts = [(_erasure(source), scale) for source, scale in scales.items()]
    for erasure, _ in parts:
        _check_base(erasure, pipe, component)
        adapter.check_fit(original, component, dict(erasure.weights))
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
        (inside / "README.md").write_text(card, encoding="utf-8")
        inside.replace(folder)


def _erasure(source: Source) -> Erasure:
    return source if isinstance(source, Erasure) else Erasure.from_pretrained(source)


def _is_loaded(denoiser: Any, erasure: Erasure) -> bool:
    """Whether the adapter of its name on the denoiser is this erasure."""
    found = adapter.weights(denoiser, erasure.name, erasure.provenance.component)
    return found.keys() == erasure.weights.keys() and all(
        torch.equal(value, erasure.weights[key].to(value.dtype)) for key, value in found.items()
    )


def _listed(sources: Any) -> list[Source]:
    """Several, where one alone would be taken for its letters."""
    return [sources] if isinstance(sources, Erasure | str | os.PathLike) else list(sources)


def _denoiser(pipe: Any) -> tuple[str, Any]:
    """Name and model of a pipeline's denoiser."""
    for component in ("unet", "transformer"):
        if component in pipe.components:
            return component, unwrap_module(pipe.components[component])
    raise ValueError(f"A {type(pipe).__name__} has neither a unet nor a transformer.")


def _check_base(erasure: Erasure, pipe: Any, component: str) -> None:
    """Refuse another family, and say so where the model is another."""
    facts = erasure.provenance
    family = next((family.__name__ for family in FAMILIES if family.handles(pipe)), facts.family)
    if (facts.family, facts.component) != (family, component):
        raise ValueError(
            f"{erasure.name} was trained on a pipeline of {facts.family}, and this one is of {family}; train it here."
        )
    model = model_name(pipe)
    if facts.base_model and facts.base_model != model:
        warnings.warn(
            f"{erasure.name} was trained on {facts.base_model}, and this pipeline is {model}. Where one is a fine-tune "
            "of the other an erasure mostly holds; look at pictures.",
            stacklevel=3,
        )
