"""The `Provenance` of a trained erasure."""

from __future__ import annotations

from ..base_model import fingerprint, model_name
from ..families import Family
from ..groups import MIXED, Selection
from ..limits import Limits
from ..provenance import Provenance, package_versions
from ..quantization import quantization
from .loop import Training
from .null_space import NullSpace


def record(
    family: Family,
    limits: Limits,
    training: Training,
    trained: Selection,
    selection: Selection,
    space: NullSpace | None,
) -> Provenance:
    """Where the erasure comes from and how its training went.

    Args:
        family: The family.
        limits: The limits.
        training: The training so far.
        trained: The layers that carry the adapter.
        selection: All layers of the group.
        space: The null space, if there is one.
    """
    state, prompts = training.state, training.prompts
    anchors = training.anchors
    evaluations = dict(training.networks.evaluations)
    evaluations["no_grad"] += anchors.evaluations
    of_moments = 0
    if space is not None:
        evaluations["no_grad"] += space.evaluations
        of_moments = prompts.count_of_moments(sees_images=space.evaluations > 0)
    alignments = state.alignments.values()
    return Provenance(
        origin="trained",
        concepts=prompts.concepts,
        base_model=model_name(family.pipe),
        base_fingerprint=fingerprint(family.denoiser),
        base_quantization=quantization(family.denoiser),
        family=type(family).__name__,
        component=family.component,
        pattern=trained.pattern,
        layers=len(trained.names),
        left_out={} if space is None else _left_out(selection, space, limits),
        leaks={} if space is None else {layer: round(space.leaks[layer], 4) for layer in space.fixed_a},
        versions=package_versions(),
        iterations=len(state.history),
        anchors=dict(anchors.prompts),
        anchor_distances={concept: round(distance, 4) for concept, distance in anchors.distances.items()},
        alignment=state.alignments.mean(),
        alignments=dict(zip(prompts.concepts, (alignments.get(p) for p in prompts.student), strict=True)),
        preserved={
            "prompts": len(prompts.preserved.prompts),
            "moments": of_moments,
            "loss": len(prompts.loss),
            "words": prompts.preserved.words,
            "vocabulary": prompts.preserved.vocabulary,
        },
        evaluations=evaluations,
        processes=training.networks.processes.number,
        not_captured=training.networks.graphs.obstacle,
        complete=training.complete,
        history=tuple(state.history),
    )


def _left_out(selection: Selection, space: NullSpace, limits: Limits) -> dict[str, tuple[str, ...]]:
    """Layers of the group without an adapter, by reason."""
    confinable = set(selection.confinable().names)
    leaking = f"leak above {limits.largest_leak:g}: cannot tell the concept from what is preserved"
    layers = {
        MIXED: tuple(layer for layer in selection.names if layer not in confinable),
        leaking: tuple(layer for layer in space.leaks if layer not in space.fixed_a),
    }
    return {reason: names for reason, names in layers.items() if names}
