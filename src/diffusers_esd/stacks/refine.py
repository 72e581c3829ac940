"""`refine`: several erasures train on, as one.

Erasures that were trained one by one do not know of one another: their side effects add up. Refinement starts from
their sum at a given rank, and trains B of the sum on all concepts, with the loss that preserves everything else. A
stays fixed, so the result answers only what its parts answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from .. import adapter
from ..arguments import integer_from
from ..config import ESDConfig
from ..denoiser import adapter_names, check_denoiser, check_name, switched_off
from ..erasure import Erasure
from ..families import Family, checked_family
from ..groups import Selection, names_pattern
from ..limits import Limits
from ..low_rank import Layers
from ..names import default_name
from ..run import RunConfig
from ..training.memory import without_group_offloading
from ..training.progress import Progress
from ..training.prompts import check_concepts, choose
from ..training.surroundings import own_settings
from ..training.task import Task
from ..training.train import train
from .merge import merge
from .sources import Sources, check_base, read_all

_FIXED = {"group", "lora_alpha", "anchor", "erase_from", "null_space"}
_PRESERVE_WEIGHT = 10.0  # if the parts were trained without the loss: nothing else holds their sum back


def refine(
    pipe: DiffusionPipeline,
    erasures: Sources,
    *,
    iterations: int = 200,
    rank: int | None = None,
    name: str | None = None,
    run: RunConfig | None = None,
    limits: Limits | None = None,
    family: Family | None = None,
    callback: Callable[[Progress], None] | None = None,
    **overrides: Any,
) -> Erasure:
    """One erasure of all concepts, trained on from the sum of several.

    Args:
        pipe: The pipeline; it is left as it was found. Its active adapters stay active during training, but the
            erasures do not.
        erasures: One source, a list of sources (scale 1), or a mapping of sources to scales. A source is an `Erasure`,
            its folder or file, its Hub id (`user/name` or `user/name@revision`), or a recipe.
        iterations: Optimiser updates; at least ten visits of each concept are needed.
        rank: Rank of the result. `None` is the sum of their ranks; a lower rank starts from the best approximation.
        name: Name of the result; `None` makes one from the concepts.
        run: How the training runs; `None` means the defaults.
        limits: The fixed numbers of the vocabulary.
        family: The family of the pipeline; `None` finds it by the pipeline's class.
        callback: Called after every iteration.
        overrides: Fields of `ESDConfig` to change. The others are those of the first part that has a configuration;
            anchors and synonyms are those of all parts, and training does not stop early.

    Returns:
        The erasure. `provenance.origin` is `"refined"`, and `provenance.parts` names the parts and their scales.

    Raises:
        TypeError: If a scale, the rank or a field has the wrong type.
        ValueError: If there is no source, a part was trained with `erase_from`, the erasures do not fit the pipeline or
            one another, or a field follows from them and cannot be changed.
        FileNotFoundError: If there is no erasure at a path or Hub id.

    Warns:
        UserWarning: If the iterations are too few for so many concepts.
    """
    parts = read_all(erasures)
    family = checked_family(pipe, family)
    denoiser = family.denoiser
    check_denoiser(denoiser)
    for erasure, _ in parts:
        check_base(erasure, pipe)
    if len(dict(parts)) < len(parts):
        raise ValueError("An erasure is given twice; give each once, with its scale.")
    merged = merge(dict(parts), rank=None if rank is None else integer_from(1)("rank", rank))
    config = _config(parts, merged, iterations, overrides)
    concepts = check_concepts(merged.provenance.concepts, config)
    name = name if name is not None else default_name(concepts)
    check_name(denoiser, name)
    start = balanced(merged.layers(), [erasure.layers() for erasure, _ in parts])
    selection = Selection(config.group, tuple(start), names_pattern(start))
    limits = limits or Limits()
    with ExitStack() as exits:
        exits.callback(family.pipe.maybe_free_model_hooks)
        exits.enter_context(own_settings(family.device))
        exits.enter_context(without_group_offloading(denoiser))
        exits.enter_context(adapter.as_found(denoiser))
        exits.enter_context(switched_off(denoiser, _loaded(denoiser, merged.provenance.component, parts)))
        task = Task(
            family=family,
            config=config,
            run=run or RunConfig(),
            limits=limits,
            name=name,
            selection=selection,
            prompts=choose(family, config, limits, concepts),
            start=start,
        )
        refined = train(task, callback)
    provenance = replace(
        refined.provenance,
        origin="refined",
        parts=merged.provenance.parts,
        rank_error=merged.provenance.rank_error,
    )
    return replace(refined, provenance=provenance)


def balanced(layers: Layers, parts: Sequence[Layers]) -> dict[str, tuple[Tensor, Tensor]]:
    """The same products, with rows of A as long as those of the parts are on average.

    Adam's steps are of one size, so the length of the rows decides how fast B's columns learn. A truncated sum has rows
    of other lengths.

    Args:
        layers: A, (rank, d, ...), and B, (out, rank, ...), by layer.
        parts: The layers of the parts.
    """
    rescaled: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, (a, b) in layers.items():
        norms = [part[layer][0].flatten(1).norm(dim=1) for part in parts if layer in part]
        of_parts = torch.cat(norms)
        usual = of_parts[of_parts > 0].mean()
        rows = a.flatten(1).norm(dim=1)
        factor = torch.where(rows > 0, usual / rows.clamp_min(1e-30), 1.0)
        rescaled[layer] = (
            a * factor.view(-1, *[1] * (a.dim() - 1)),
            b / factor.view(1, -1, *[1] * (b.dim() - 2)),
        )
    return rescaled


def _config(
    parts: Sequence[tuple[Erasure, float]], merged: Erasure, iterations: int, overrides: dict[str, Any]
) -> ESDConfig:
    """What the refinement learns."""
    if fixed := sorted(_FIXED & overrides.keys()):
        raise ValueError(f"`{fixed[0]}` cannot be changed in a refinement: it follows from the erasures.")
    configs = [erasure.config for erasure, _ in parts if erasure.config is not None]
    first, provenance = configs[0] if configs else ESDConfig(), merged.provenance
    if any(config.erase_from is not None for config in configs):
        raise ValueError("An erasure with `erase_from` cannot be refined: the others erase their concepts themselves.")
    groups = {config.group for config in configs}
    group = groups.pop() if len(groups) == 1 and len(configs) == len(parts) else names_pattern(merged.layers())
    fields = {
        **first.to_dict(),
        "group": group,
        "rank": merged.rank,
        "lora_alpha": None,
        "iterations": iterations,
        "anchor": tuple(provenance.anchors.get(concept, "") for concept in provenance.concepts),
        "synonyms": tuple(dict.fromkeys(word for config in configs for word in config.synonyms)),
        "preserve_weight": first.loss_weight or _PRESERVE_WEIGHT,
        "stop_at_alignment": None,
    }
    return ESDConfig.from_dict({**fields, **overrides})


def _loaded(denoiser: Any, component: str, parts: Sequence[tuple[Erasure, float]]) -> list[str]:
    """Names of the adapters on the denoiser that are one of the parts."""
    return [
        name
        for name in adapter_names(denoiser)
        if any(adapter.is_loaded(denoiser, name, component, erasure.weights) for erasure, _ in parts)
    ]
