"""`stack`: several erasures active together on a pipeline.

Every adapter adds its own product to a weight, W + s1 B1 A1 + s2 B2 A2, so the order does not matter, and any of them
can be scaled or removed later.
"""

from __future__ import annotations

from diffusers import DiffusionPipeline

from .. import adapter
from ..denoiser import active_scales, adapter_names, check_denoiser, check_name, find_denoiser
from ..erasure import Erasure
from .calibrate import calibrate as calibrated
from .scales import with_scales
from .sources import Sources, check_base, read_parts


def stack(pipe: DiffusionPipeline, erasures: Sources, *, calibrate: bool = False) -> dict[str, float]:
    """Make erasures active together, beside the pipeline's own adapters.

    Args:
        pipe: The pipeline.
        erasures: One source, a list of sources (scale 1), or a mapping of sources to scales. A source is an `Erasure`,
            its folder or file, its Hub id (`user/name` or `user/name@revision`), a recipe, or the name of an adapter
            that is on the pipeline already. An erasure that is not on the pipeline is loaded under its own name. A
            scale of 1 is the erasure as trained.
        calibrate: Lower the scales to what `diffusers_esd.calibrate` finds. Adapters on the pipeline cannot be named
            then; give the erasures.

    Returns:
        All active adapters and their scales, those of the user included.

    Raises:
        TypeError: If a scale is not a number.
        ValueError: If there is no source, a scale is not finite, an erasure does not fit the pipeline, two erasures
            have the same name, or another adapter has the name. Nothing is loaded then.
        FileNotFoundError: If there is no erasure at a path or Hub id.

    Warns:
        UserWarning: If an erasure was trained on another model of the same architecture, or a scale is negative.
    """
    given = with_scales(erasures)
    component, denoiser = find_denoiser(pipe)
    check_denoiser(denoiser)
    present = adapter_names(denoiser)
    scales: dict[str, float] = {}
    parts: list[Erasure] = []
    new: list[Erasure] = []
    for source, scale in given:
        if isinstance(source, str) and source in present:
            if calibrate:
                raise ValueError(f"`calibrate` needs erasures, got {source!r}, the name of an adapter on the pipeline.")
            _add(scales, source, scale)
            continue
        for erasure, part_scale in read_parts(source, scale):
            _add(scales, erasure.name, part_scale)
            parts.append(erasure)
            check_base(erasure, pipe)
            if not adapter.is_loaded(denoiser, erasure.name, component, erasure.weights):
                check_name(denoiser, erasure.name)
                new.append(erasure)
    if calibrate:
        found = calibrated(pipe, {erasure: scales[erasure.name] for erasure in parts})
        scales = {erasure.name: scale for erasure, scale in found.items()}
    loaded: list[str] = []
    try:
        for erasure in new:
            adapter.load(denoiser, component, erasure.weights, erasure.name, scales[erasure.name])
            loaded.append(erasure.name)
        adapter.activate(denoiser, scales)
    except BaseException:
        for name in loaded:
            adapter.remove(denoiser, name)
        raise
    return active_scales(denoiser)


def _add(scales: dict[str, float], name: str, scale: float) -> None:
    if name in scales:
        raise ValueError(
            f"Two of the erasures have the name {name!r}; give one of them another with merge(erasure, name=...)."
        )
    scales[name] = scale
