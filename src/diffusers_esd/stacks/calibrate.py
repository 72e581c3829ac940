"""`calibrate`: the smallest scales at which several erasures together leave as little of each concept as each alone.

An erasure also changes a little what it was not trained on, and these changes add up in a stack. But erasures of
similar concepts also help one another, so that less than the full scale of each is enough. The alignment of concept i
(`probe`) with only its own erasure active is the bound, or that with all at their largest scales if others raise it:

    alignment_i(s) <= max(alignment_i(alone), alignment_i(all, largest scales)) + 0.02        for every concept i

First one factor for all scales is bisected, then each scale below that factor, all at the same time. The result was
measured and satisfies all bounds. No image is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from .. import adapter
from ..arguments import warn_user
from ..config import ESDConfig
from ..denoiser import check_denoiser, switched_off
from ..erasure import Erasure
from ..families import Family, checked_family
from ..probe import Probe, ensure_loaded, questions
from ..streams import stream
from ..training.encoding import Encoded
from ..training.surroundings import own_settings
from .sources import Sources, check_base, read_sources

_STEPS, _TRAJECTORIES = 6, 4  # of the probes: 24 states of each concept
_TOLERANCE = 0.02  # in alignment
_EFFECT = 0.05  # an erasure that lowers the alignment by less than this does not erase its concept
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
            weights, one does not fit the pipeline, or one does not lower the alignment of its concepts.
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
    with ExitStack() as exits:
        # The pipeline's offloaded models are offloaded again, as after one of its own calls.
        exits.callback(family.pipe.maybe_free_model_hooks)
        exits.enter_context(adapter.as_found(denoiser))
        exits.enter_context(own_settings(family.device))
        loaded = _Loaded(family, [erasure for _, erasure, _ in parts])
        scales = _calibrated(loaded, [scale for _, _, scale in parts])
    return {source: scale for (source, _, _), scale in zip(parts, scales, strict=True)}


def _calibrated(loaded: _Loaded, largest: Sequence[float]) -> list[float]:
    """The smallest scales that satisfy all bounds."""
    bounds, unreachable = [], []
    alone = [loaded.alone(i, scale) for i, scale in enumerate(largest)]
    for i, values in enumerate(alone):
        if all(value > intact - _EFFECT for value, intact in zip(values, loaded.intact(i), strict=True)):
            raise ValueError(
                f"The erasure of {', '.join(loaded.concepts(i))} leaves it intact: there is nothing to calibrate. "
                "Leave it out, or give an imported erasure the concept that it erases."
            )
    for i, together in enumerate(loaded.together(largest)):
        bounds.append([max(pair) + _TOLERANCE for pair in zip(alone[i], together, strict=True)])
        rows = zip(loaded.concepts(i), together, alone[i], strict=True)
        unreachable += [concept for concept, value, value_alone in rows if value > value_alone + _TOLERANCE]
    if unreachable:
        warn_user(
            f"Together, the erasures leave more of {', '.join(unreachable)} than alone, even at their largest scales; "
            "their bound is what is left there."
        )

    def excess(scales: Sequence[float]) -> list[float]:
        pairs = zip(loaded.together(scales), bounds, strict=True)
        return [max(value - bound for value, bound in zip(*pair, strict=True)) for pair in pairs]

    return smallest(excess, largest)


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


class _Loaded:
    """Erasures on a denoiser, and the alignments of their concepts at any scales.

    Args:
        family: The family.
        erasures: The erasures; those that are on the denoiser already are not loaded again.
    """

    def __init__(self, family: Family, erasures: Sequence[Erasure]) -> None:
        self._denoiser = family.denoiser
        loaded = [ensure_loaded(self._denoiser, e.weights, e.name, family.component) for e in erasures]
        self._names = [name for name, _ in loaded]
        if len(set(self._names)) < len(self._names):
            raise ValueError("Two of the erasures have the same weights; give each erasure once.")
        self._copies = {copy for _, copies in loaded for copy in copies}
        with switched_off(self._denoiser, {*self._names, *self._copies}):
            self._probes = [_probes(family, erasure) for erasure in erasures]

    def concepts(self, i: int) -> list[str]:
        """The concepts of an erasure."""
        return list(self._probes[i])

    def intact(self, i: int) -> list[float]:
        """The alignments of the base model."""
        return [probe.intact for probe in self._probes[i].values()]

    def alone(self, i: int, scale: float) -> list[float]:
        """Alignments of the concepts of an erasure, with no other active."""
        adapter.activate(self._denoiser, {self._names[i]: scale})
        with switched_off(self._denoiser, {*self._names, *self._copies} - {self._names[i]}):
            return self._alignments(i)

    def together(self, scales: Sequence[float]) -> list[list[float]]:
        """Alignments of the concepts of every erasure, with all active."""
        adapter.activate(self._denoiser, dict(zip(self._names, scales, strict=True)))
        with switched_off(self._denoiser, self._copies):
            return [self._alignments(i) for i in range(len(self._probes))]

    def _alignments(self, i: int) -> list[float]:
        return [probe.named() for probe in self._probes[i].values()]


def _probes(family: Family, erasure: Erasure) -> dict[str, Probe]:
    """A probe of each concept of an erasure."""
    config = erasure.config or ESDConfig()
    schedule = family.schedule(_STEPS, family.latent_shape(config.size), config.guidance_scale)
    encoded, asked = Encoded(family), questions(erasure.config, erasure.provenance)
    encoded.add([prompt for question in asked for prompt in question.prompts])
    noise = schedule.noise(stream(0, "calibrate"), _TRAJECTORIES)
    return {question.concept: Probe(schedule, encoded, question, noise) for question in asked}
