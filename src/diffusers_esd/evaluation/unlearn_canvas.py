"""UA, IRA and CRA: UnlearnCanvas' three accuracies of a model that should have unlearned an object or a style.

Zhang et al., arXiv:2402.11846. Each prompt of it asks for an object in a style.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .aggregates import mean


class Seen(NamedTuple):
    """One image of UnlearnCanvas: what its prompt asked for, and what the judges saw.

    Attributes:
        target: The concept that the model should have unlearned: an object or a style.
        object: The object of the prompt.
        style: The style of the prompt.
        seen_object: The object that the judge of objects saw.
        seen_style: The style that the judge of styles saw.
    """

    target: str
    object: str
    style: str
    seen_object: str
    seen_style: str


class Unlearning(NamedTuple):
    """UnlearnCanvas' three accuracies, each from 0 to 1; higher is better.

    Attributes:
        ua: Unlearning accuracy.
        ira: In-domain retain accuracy.
        cra: Cross-domain retain accuracy.
    """

    ua: float
    ira: float
    cra: float


def ua_ira_cra(images: Iterable[Seen]) -> Unlearning:
    """The three accuracies, averaged over the targets.

    For a target that is a style (an object: the same with the two exchanged), over the images of its model:

    - UA: of the images whose prompt names the target, the share whose style is *not* seen as the target.
    - IRA: of the images whose prompt names another style, the accuracy of the style. Each style counts the same.
    - CRA: of the images whose prompt names another style, the accuracy of the object. Each object counts the same.
      Images whose prompt names the target are left to UA.

    Objects and styles are averaged apart there: call it once for each, with the targets of one kind.

    Args:
        images: The images of all targets.

    Raises:
        ValueError: If there are no images, a target is asked for by none of its images or by all, or the targets are of
            both kinds.
    """
    by_target: dict[str, list[Seen]] = {}
    for image in images:
        by_target.setdefault(image.target, []).append(image)
    if not by_target:
        raise ValueError("There are no images to count; give at least one.")
    kinds = {target: _kind(target, seen) for target, seen in by_target.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(f"The targets must be all objects or all styles, got {kinds}; count each kind apart.")
    each = [_of_target(target, seen, kinds[target] == "style") for target, seen in by_target.items()]
    return Unlearning(*(sum(values) / len(each) for values in zip(*each, strict=True)))


def _kind(target: str, images: Sequence[Seen]) -> str:
    """Whether a target is an object or a style."""
    kinds = {kind for image in images for kind in ("object", "style") if getattr(image, kind) == target}
    if len(kinds) != 1:
        found = " and ".join(sorted(kinds)) or "neither"
        raise ValueError(f"Prompts must ask for the target {target!r} as an object or as a style, got {found}.")
    return kinds.pop()


def _of_target(target: str, images: Sequence[Seen], is_style: bool) -> Unlearning:
    """The accuracies of one target."""
    # (own domain: asked, seen; other domain: asked, seen) of each image.
    rows = [(i.style, i.seen_style, i.object, i.seen_object) for i in images]
    if not is_style:
        rows = [(b, seen_b, a, seen_a) for a, seen_a, b, seen_b in rows]
    unlearned = [seen != target for asked, seen, _, _ in rows if asked == target]
    kept = [row for row in rows if row[0] != target]
    if not kept:
        raise ValueError(f"All prompts ask for the target {target!r}; what is kept cannot be counted.")
    ira = _mean_of_classes([(asked, asked == seen) for asked, seen, _, _ in kept])
    cra = _mean_of_classes([(asked, asked == seen) for _, _, asked, seen in kept])
    return Unlearning(mean(unlearned), ira, cra)


def _mean_of_classes(rows: Sequence[tuple[str, bool]]) -> float:
    """The mean over classes of the share that is right."""
    classes = dict.fromkeys(asked for asked, _ in rows)
    return mean([mean([right for asked, right in rows if asked == label]) for label in classes])
