"""What a training leaves in an erasure's `Provenance`."""

from __future__ import annotations

from ..denoiser import fingerprint, model_name
from ..families import Family
from ..groups import Selection
from ..limits import Limits
from .null_space import NullSpace
from .plan import MIXED, WIDE
from .prompts import Prompts
from ..provenance import Provenance, package_versions
from .loop import Training


def record(
    family: Family,
    limits: Limits,
    training: Training,
    trained: Selection,
    selection: Selection,
    prompts: Prompts,
    space: NullSpace | None,
) -> Provenance:
    """What the erasure was trained on and how it went.

    Args:
        family: The family.
        limits: The limits.
        training: The training, over.
        trained: The layers that carry the adapter.
        selection: All layers of the group.
        prompts: The prompts.
        space: The null space, if there was one.
    """
    evaluations = dict(training.networks.evaluations)
    of_moments = 0
    if space is not None:
        evaluations["no_grad"] += space.evaluations
        of_moments = prompts.count_of_moments(limits, sees_pictures=space.evaluations > 0)
    alignments = training.alignments.values()
    return Provenance(
        origin="trained",
        concepts=training.concepts,
        base_model=model_name(family.pipe),
        base_fingerprint=fingerprint(family.denoiser),
        family=type(family).__name__,
        component=family.component,
        pattern=trained.pattern,
        layers=len(trained.names),
        left_out={} if space is None else _left_out(selection, space, limits),
        leaks={} if space is None else {layer: round(space.leaks[layer], 4) for layer in space.rows},
        versions=package_versions(),
        iterations=len(training.history),
        alignment=training.alignments.mean(),
        alignments=dict(zip(training.concepts, (alignments.get(p) for p in prompts.student), strict=True)),
        preserved={
            "prompts": len(prompts.preserved.prompts),
            "moments": of_moments,
            "loss": len(prompts.of_loss),
        },
        evaluations=evaluations,
        complete=training.complete,
        history=tuple(training.history),
    )


def _left_out(selection: Selection, space: NullSpace, limits: Limits) -> dict[str, tuple[str, ...]]:
    """Layers of the group without an adapter, by reason."""
    confinable = set(selection.confinable().names)
    leaking = f"leak above {limits.largest_leak:g}: cannot tell the concept from what is preserved"
    found = {
        MIXED: tuple(layer for layer in selection.names if layer not in confinable),
        WIDE: space.wide,
        leaking: tuple(layer for layer in space.leaks if layer not in space.rows),
    }
    return {reason: names for reason, names in found.items() if names}
