"""`merge`: one erasure that does what several do together.

The sum of products s1 B1 A1 + s2 B2 A2 is the product [s1 B1, s2 B2] [A1; A2], whose rank is the sum of the ranks. The
best approximation of a lower rank is the truncated singular value decomposition (Eckart and Young, 1936).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import integer_from, warn_user
from ..base_model import is_same_base, name_beside
from ..erasure import Erasure
from ..groups import names_pattern
from ..low_rank import summed, truncated
from ..names import bounded_name
from ..portable import to_portable
from ..provenance import Provenance, package_versions
from .sources import Sources, read_all


def merge(erasures: Sources, *, rank: int | None = None, name: str | None = None) -> Erasure:
    """One erasure that does what several do together; no pipeline is needed.

    Args:
        erasures: One source, a list of sources (scale 1), or a mapping of sources to scales. All are of the same
            architecture. A source is an `Erasure`, its folder or file, its Hub id (`user/name` or
            `user/name@revision`), or a recipe.
        rank: Rank of the result. `None` is exact: the sum of their ranks. A lower rank gives the best approximation of
            that rank in each layer; `provenance.rank_error` is its relative error.
        name: Name of the result; `None` joins their names.

    Raises:
        TypeError: If a scale is not a number, or the rank is not a whole number.
        ValueError: If there is no source, a scale is not finite, the rank is below 1, the name cannot be that of an
            adapter, or the erasures are of different families or architectures.
        FileNotFoundError: If there is no erasure at a path or Hub id.

    Warns:
        UserWarning: If the erasures were trained on different models of the same architecture, or a scale is negative.
    """
    if rank is not None:
        rank = integer_from(1)("rank", rank)
    parts = read_all(erasures)
    origins = [erasure.provenance for erasure, _ in parts]
    if len({(origin.family, origin.component) for origin in origins}) > 1:
        families = ", ".join(f"{erasure.name} of {erasure.provenance.family}" for erasure, _ in parts)
        raise ValueError(f"`erasures` must be of the same family, got {families}.")
    first, _ = parts[0]
    for erasure, _ in parts[1:]:
        if not is_same_base(first.provenance, erasure.provenance):
            warn_user(
                f"{first.name} was trained on {first.provenance.base_model}, and {erasure.name} on "
                f"{name_beside(erasure.provenance, first.provenance)}. The effect of both on one model is not "
                "measured; compare the images."
            )
    layers = summed([(erasure.layers(), scale) for erasure, scale in parts])
    width, error = max(len(a) for a, _ in layers.values()), 0.0
    if rank is not None and rank < width:
        layers, error = truncated(layers, rank)
        width = rank
    provenance = Provenance(
        **_combined(origins),
        pattern=names_pattern(layers),
        layers=len(layers),
        parts=tuple((erasure.name, scale) for erasure, scale in parts),
        rank_error=error,
    )
    if name is None:
        name = bounded_name("-".join(erasure.name for erasure, _ in parts))
    return Erasure(name, to_portable(layers, provenance.component, width), None, provenance)


def _combined(origins: Sequence[Provenance]) -> dict[str, Any]:
    """The fields of a merged erasure's provenance that follow from those of its parts."""
    fingerprints = {(origin.base_fingerprint, origin.base_quantization) for origin in origins}
    quantizations = dict.fromkeys(origin.base_quantization or "not quantised" for origin in origins)
    kinds = dict.fromkeys(kind for origin in origins for kind in origin.evaluations)
    return {
        "origin": "merged",
        "concepts": tuple(dict.fromkeys(concept for origin in origins for concept in origin.concepts)),
        "anchors": {concept: anchor for origin in origins for concept, anchor in origin.anchors.items()},
        "base_model": " and ".join(dict.fromkeys(origin.base_model for origin in origins)),
        "base_fingerprint": origins[0].base_fingerprint if len(fingerprints) == 1 else "",
        "base_quantization": " and ".join(quantizations) if any(origin.base_quantization for origin in origins) else "",
        "family": origins[0].family,
        "component": origins[0].component,
        "versions": package_versions(),
        "iterations": sum(origin.iterations for origin in origins),
        "seconds": sum(origin.seconds for origin in origins),
        "evaluations": {kind: sum(origin.evaluations.get(kind, 0) for origin in origins) for kind in kinds},
        "complete": all(origin.complete for origin in origins),
    }
