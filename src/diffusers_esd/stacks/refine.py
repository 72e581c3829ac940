"""`refine`: several erasures train on, as one.

Erasures that were trained one by one do not know of one another: their side effects add up. Refinement starts from
their sum at a given rank, and trains B of the sum on all concepts, with the loss that preserves everything else. A
stays fixed, so the result answers only what its parts answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from .. import adapter
from ..config import ESDConfig
from ..denoiser import adapter_names, check_name
from ..erasure import Erasure
from ..families import Family
from ..groups import Selection, names_pattern
from ..limits import Limits
from ..low_rank import Layers
from ..names import default_name
from ..run import RunConfig
from ..training.begin import begin
from ..training.encoding import Encoded, warn_of_long
from ..training.launch import joined
from ..training.progress import Callback
from ..training.prompts import Prompts, check_concepts, given_prompts
from ..training.surroundings import silent, trainable
from ..training.task import Task
from ..training.trainer import ESDTrainer
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
    callback: Callback | None = None,
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
        callback: Called after every iteration. If it returns `"stop"`, the training ends.
        overrides: Fields of `ESDConfig` to change. The others are those of the first part that has a configuration;
            anchors and synonyms are those of all parts, something is always preserved, and training does not stop
            early.

    Returns:
        The erasure. `provenance.origin` is `"refined"`, and `provenance.parts` names the parts and their scales.

    Raises:
        TypeError: If a scale, the rank or a field has the wrong type.
        ValueError: If there is no source, the configuration of a part has `erase_from`, the erasures do not fit the
            pipeline or one another, a field follows from them and cannot be changed, or the checkpoint of `resume` is
            of another training.
        FileNotFoundError: If there is no erasure at a path or Hub id, or `resume` is not a checkpoint.

    Warns:
        UserWarning: If the iterations are too few for so many concepts.
    """
    parts = read_all(erasures)
    if len(dict(parts)) < len(parts):
        raise ValueError("An erasure is given twice; give each once, with its scale.")
    for erasure, _ in parts:
        check_base(erasure, pipe)
    config = _config(parts, iterations, rank, overrides)
    # It checks the pipeline and the settings.
    trainer = ESDTrainer(pipe, config, run=run, limits=limits, family=family)
    family, denoiser = trainer.family, trainer.family.denoiser
    merged = merge(dict(parts), rank=rank)
    start = balanced(merged.layers(), [erasure.layers() for erasure, _ in parts])
    config = replace(config, rank=merged.rank)
    processes = joined(family.device, enabled=trainer.run.data_parallel)
    with silent(family, enabled=not processes.is_main):
        concepts = check_concepts(_anchors(parts), processes.joint(config))
        name = name if name is not None else default_name(concepts)
        check_name(denoiser, name)
        with trainable(family, _loaded(denoiser, family.component, parts)), adapter.as_found(denoiser):
            warn_of_long(family, given_prompts(config, concepts))
            origin = merged.provenance
            task = Task(
                family=family,
                config=config,
                run=trainer.run,
                limits=trainer.limits,
                name=name,
                selection=Selection(config.group, tuple(start), names_pattern(start)),
                prompts=Prompts(concepts, ()),
                encoded=Encoded(family),
                start=start,
                origin={"origin": "refined", "parts": origin.parts, "rank_error": origin.rank_error},
                processes=processes,
            )
            return begin(task, callback)


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
    parts: Sequence[tuple[Erasure, float]], iterations: int, rank: int | None, overrides: dict[str, Any]
) -> ESDConfig:
    """What the refinement learns; the rank is an upper bound."""
    if fixed := sorted(_FIXED & overrides.keys()):
        raise ValueError(f"`{fixed[0]}` cannot be changed in a refinement: it follows from the erasures.")
    configs = [erasure.config for erasure, _ in parts if erasure.config is not None]
    if any(config.erase_from is not None for config in configs):
        raise ValueError("An erasure with `erase_from` cannot be refined: the others erase their concepts themselves.")
    first, anchors = configs[0] if configs else ESDConfig(), _anchors(parts)
    groups = {None if erasure.config is None else erasure.config.group for erasure, _ in parts}
    group = groups.pop() if len(groups) == 1 else None
    # What one part preserves, another may erase. Without anything to preserve, nothing holds the sum back.
    listed = first.preserve if isinstance(first.preserve, str) else tuple(p for p in first.preserve if p not in anchors)
    preserve = overrides.get("preserve", listed or "vocabulary")
    synonyms = dict.fromkeys(word for config in configs for word in config.synonyms)
    fields = {
        **first.to_dict(),
        "group": group or names_pattern(dict.fromkeys(layer for erasure, _ in parts for layer in erasure.layers())),
        "rank": sum(erasure.rank for erasure, _ in parts) if rank is None else rank,
        "lora_alpha": None,
        "iterations": iterations,
        "anchor": tuple(anchors.values()),
        "preserve": preserve,
        "synonyms": tuple(synonyms) if preserve == "vocabulary" else (),
        "preserve_weight": first.loss_weight or _PRESERVE_WEIGHT,
        "stop_at_alignment": None,
    }
    return ESDConfig.from_dict({**fields, **overrides})


def _anchors(parts: Sequence[tuple[Erasure, float]]) -> dict[str, str]:
    """All concepts, and the anchor of each."""
    anchors: dict[str, str] = {}
    for erasure, _ in parts:
        for concept in erasure.provenance.concepts:
            anchors.setdefault(concept, erasure.provenance.anchors.get(concept, ""))
    return anchors


def _loaded(denoiser: Any, component: str, parts: Sequence[tuple[Erasure, float]]) -> list[str]:
    """Names of the adapters on the denoiser that are one of the parts."""
    return [
        name
        for name in adapter_names(denoiser)
        if any(adapter.is_loaded(denoiser, name, component, erasure.weights) for erasure, _ in parts)
    ]
