"""Sources: what may name an erasure, how it is read, and whether it fits a pipeline.

A source is an `Erasure`, a `Recipe`, the folder or file of one, or a Hub id, `user/name` or `user/name@revision`.
`hub.locate` decides whether a text is a path or a Hub id. `stack` also takes the name of an adapter on the pipeline.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import hub
from ..arguments import check_scale
from ..base_model import warn_of_other_base
from ..denoiser import find_denoiser
from ..erasure import Erasure
from ..families import FAMILIES
from ..portable import check_fit
from .entry import NAMES
from .recipe import Recipe, read_recipe
from .scales import with_scales

Source = Erasure | Recipe | str | os.PathLike[str]
"""An erasure or a recipe, its folder or file, or its Hub id: `user/name` or `user/name@revision`."""

Sources = Source | Sequence[Source] | Mapping[Any, float]
"""One source, several, or several with scales."""


def load(source: Source) -> Erasure | Recipe:
    """The erasure or the recipe that a source names.

    A repository is asked for the weights first, and for `stack.json` if it has none: nothing else is downloaded.

    Raises:
        TypeError: If it is not a source.
        FileNotFoundError: If there is no erasure and no recipe.
        ValueError: If the file is damaged, or not an erasure or a recipe.
    """
    if isinstance(source, Erasure | Recipe):
        return source
    if not isinstance(source, str | os.PathLike):
        raise TypeError(f"An erasure must be an Erasure, a Recipe, a path or a Hub id, got {source!r}.")
    file = hub.locate(source, NAMES)
    if file.suffix == ".json":
        return read_recipe(file, is_local=Path(source).exists())
    return Erasure.from_pretrained(file)


def read(source: Source) -> Erasure:
    """The erasure that a source names.

    Raises:
        TypeError: If it is not a source.
        FileNotFoundError: If there is no such erasure.
        ValueError: If the file is damaged or not an erasure, or if it is a recipe.
    """
    loaded = load(source)
    if isinstance(loaded, Recipe):
        raise ValueError("One erasure is needed, got a recipe. Make one of it with merge(recipe).")
    return loaded


def read_all(erasures: Sources) -> list[tuple[Erasure, float]]:
    """The erasures of all sources, and their scales.

    Args:
        erasures: One source, a list of sources (scale 1), or a mapping of sources to scales.

    Raises:
        TypeError: If a scale is not a number.
        ValueError: If there is no source, a scale is not finite, or a file is damaged.
        FileNotFoundError: If there is no erasure at a path or Hub id.

    Warns:
        UserWarning: If a scale is negative.
    """
    return [(erasure, scale) for _, erasure, scale in read_sources(erasures)]


def read_sources(erasures: Sources) -> list[tuple[Source, Erasure, float]]:
    """The same, with the source of each erasure. A recipe is replaced by the sources of its erasures."""
    return [part for source, scale in with_scales(erasures) for part in _read(source, scale)]


def read_parts(source: Source, scale: float) -> list[tuple[Erasure, float]]:
    """The erasures that one source stands for, and their scales.

    Args:
        source: The source. A recipe stands for its erasures.
        scale: Its scale, which multiplies those of a recipe.

    Warns:
        UserWarning: If a scale of a recipe is negative.
    """
    return [(erasure, part_scale) for _, erasure, part_scale in _read(source, scale)]


def _read(source: Source, scale: float) -> list[tuple[Source, Erasure, float]]:
    loaded = load(source)
    if isinstance(loaded, Recipe):
        return [(str(entry), entry.read(), scale * check_scale("scale", entry.scale)) for entry in loaded.entries]
    return [(source, loaded, scale)]


def check_base(erasure: Erasure, pipe: Any) -> None:
    """Refuse an erasure that does not fit a pipeline; warn if it fits but was trained on another model.

    Raises:
        ValueError: If the pipeline is of another family, or its denoiser has other layers.

    Warns:
        UserWarning: If the pipeline's base weights are not those that the erasure was trained on.
    """
    component, denoiser = find_denoiser(pipe)
    trained = erasure.provenance
    family = next((family.__name__ for family in FAMILIES if family.handles(pipe)), trained.family)
    if (trained.family, trained.component) != (family, component):
        raise ValueError(
            f"{erasure.name} was trained on a pipeline of the family {trained.family}, and this pipeline is of the "
            f"family {family}. Train it on this model."
        )
    check_fit(denoiser, component, dict(erasure.weights))
    warn_of_other_base(erasure.name, trained, pipe, denoiser)
