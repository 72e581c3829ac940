"""`calibrate`: the smallest scales at which several erasures together leave as little of each concept as each alone.

An erasure also changes a little what it was not trained on, and these changes add up in a stack. But erasures of
similar concepts also help one another, so that less than the full scale of each is enough. The alignment of concept i
(`probe`) with only its own erasure active is the bound; with all active at scales s,

    alignment_i(s) <= alignment_i(alone) + 0.02        for every concept i

First one factor for all scales is bisected, then each scale below that factor, all at the same time. The result was
measured and satisfies all bounds. No image is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .. import adapter
from ..arguments import warn_user
from ..config import ESDConfig
from ..denoiser import check_denoiser, find_denoiser, switched_off
from ..erasure import Erasure
from ..families import Family, Schedule, checked_family
from ..probe import Probe, ensure_loaded, questions
from ..streams import stream
from ..training.encoding import Encoded
from ..training.surroundings import own_settings
from .sources import Sources, check_base, read_sources

_STEPS, _TRAJECTORIES = 6, 4  # of the probes: 24 states of each concept
_TOLERANCE = 0.02  # in alignment
_HALVINGS = 5  # of the common factor, and then of each scale

Excess = Callable[[Sequence[float]], list[float]]
"""How far the least erased concept of each erasure is above its bound, at given scales of all; 0 or less is enough."""


def calibrate(pipe: Any, erasures: Sources, *, family: Family | None = None) -> dict[Any, float]:
    """The smallest scales at which erasures together leave as little of each concept as each of them alone.

    Args:
        pipe: The pipeline; it is left as it was found. Its other active adapters stay active.
        erasures: One source, a list of sources, or a mapping of sources to the largest scales (1 by default). A source
            is an `Erasure`, its folder or file, its Hub id (`user/name` or `user/name@revision`), or a recipe.
        family: The family of the pipeline; `None` finds it by the pipeline's class.

    Returns:
        Scales by source, between 0 and the largest: a mapping for `stack`, `merge`, `bake` and `Recipe.of`. A recipe is
            replaced by its entries.

    Raises:
        TypeError: If a scale is not a number, or the kind of pipeline is unknown.
        ValueError: If there is no source, a largest scale is not above 0, two erasures have the same name or
            weights, or one does not fit the pipeline.
        FileNotFoundError: If there is no erasure at a path or Hub id.

    Warns:
        UserWarning: If concepts stay above their bounds at the largest scales; it names them.
    """
    parts = read_sources(erasures)
    names = [erasure.name for _, erasure, _ in parts]
    for _, erasure, scale in parts:
        if names.count(erasure.name) > 1:
            raise ValueError(f"Two of the erasures have the name {erasure.name!r}; give each erasure once.")
        if scale <= 0:
            raise ValueError(f"The largest scale of {erasure.name} must be above 0, got {scale}.")
        check_base(erasure, pipe)
    family = checked_family(pipe, family)
    denoiser = family.denoiser
    check_denoiser(denoiser)
    with adapter.as_found(denoiser), own_settings(family.device):
        measured = _measured(family, [(erasure, scale) for _, erasure, scale in parts])
        scales = smallest(measured.excess, [scale for _, _, scale in parts])
    if measured.unreachable:
        warn_user(
            f"Together, the erasures leave more of {', '.join(measured.unreachable)} than alone, even at their largest "
            "scales; the scales of the others are the smallest that do not add to it."
        )
    return {source: scale for (source, _, _), scale in zip(parts, scales, strict=True)}


def smallest(excess: Excess, largest: Sequence[float]) -> list[float]:
    """The smallest scales whose excess is 0 or less everywhere; the largest if there are none.

    Args:
        excess: Measures one choice of scales; called 14 times at most.
        largest: The largest scales.
    """
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if max(excess([middle * scale for scale in largest])) <= 0:
            high = middle
        else:
            low = middle
    common = [high * scale for scale in largest]
    lows, highs = [0.0] * len(common), list(common)
    for _ in range(_HALVINGS):
        middles = [(a + b) / 2 for a, b in zip(lows, highs, strict=True)]
        for i, over in enumerate(excess(middles)):
            (highs if over <= 0 else lows)[i] = middles[i]
    # Each was enough while the others were larger. If they are not enough together, they go back to the common factor.
    for share in (0.0, 0.25, 0.5, 0.75):
        scales = [a + share * (b - a) for a, b in zip(highs, common, strict=True)]
        if max(excess(scales)) <= 0:
            return scales
    return common


@dataclass(frozen=True)
class _Measured:
    """What `excess` measures, and which concepts stay above their bounds whatever the scales are."""

    excess: Excess
    unreachable: list[str]


def _measured(family: Family, parts: Sequence[tuple[Erasure, float]]) -> _Measured:
    """Load the erasures, and measure each concept alone and with all at their largest scales."""
    denoiser, (component, _) = family.denoiser, find_denoiser(family.pipe, family.component)
    loaded = [ensure_loaded(denoiser, erasure.weights, erasure.name, component) for erasure, _ in parts]
    names = [name for name, _ in loaded]
    if len(set(names)) < len(names):
        raise ValueError("Two of the erasures have the same weights; give each erasure once.")
    off = {copy for _, copies in loaded for copy in copies} - set(names)
    probes = [_probes(family, erasure, {*names, *off}) for erasure, _ in parts]

    def alignments(i: int) -> list[float]:
        return [probe.named() for probe in probes[i].values()]

    bounds = []
    for i, (_, scale) in enumerate(parts):
        adapter.activate(denoiser, {names[i]: scale})
        with switched_off(denoiser, {*names, *off} - {names[i]}):
            bounds.append([value + _TOLERANCE for value in alignments(i)])

    def together(scales: Sequence[float]) -> list[list[float]]:
        adapter.activate(denoiser, dict(zip(names, scales, strict=True)))
        with switched_off(denoiser, off):
            return [alignments(i) for i in range(len(parts))]

    unreachable = []
    for i, values in enumerate(together([scale for _, scale in parts])):
        unreachable += [c for c, value, bound in zip(probes[i], values, bounds[i], strict=True) if value > bound]
        bounds[i] = [max(value, bound) for value, bound in zip(values, bounds[i], strict=True)]

    def excess(scales: Sequence[float]) -> list[float]:
        return [
            max(value - bound for value, bound in zip(values, bounds[i], strict=True))
            for i, values in enumerate(together(scales))
        ]

    return _Measured(excess, unreachable)


def _probes(family: Family, erasure: Erasure, adapters: set[str]) -> dict[str, Probe]:
    """A probe of each concept of an erasure, on trajectories without the adapters."""
    config = erasure.config or ESDConfig()
    schedule: Schedule = family.schedule(_STEPS, family.latent_shape(config.size), config.guidance_scale)
    encoded, asked = Encoded(family), questions(erasure.config, erasure.provenance)
    encoded.add([prompt for question in asked for prompt in question.prompts])
    noise = schedule.noise(stream(0, "calibrate"), _TRAJECTORIES)
    with switched_off(family.denoiser, adapters):
        return {question.concept: Probe(schedule, encoded, question, noise) for question in asked}
