"""Where an erasure is read from, and whether it belongs to a pipeline."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from typing import Any

from ..base_model import fingerprint, model_name, same_weights
from ..denoiser import find_denoiser
from ..erasure import Erasure
from ..families import FAMILIES
from ..portable import check_fit
from ..provenance import Provenance

Source = Erasure | str | os.PathLike[str]
"""An erasure, the folder or file of one, or the id of its repository."""


def read(source: Source) -> Erasure:
    """The erasure, read from where it is saved if need be."""
    return source if isinstance(source, Erasure) else Erasure.from_pretrained(source)


def listed(sources: Any) -> list[Source]:
    """Several, where one alone would be taken for its letters."""
    return [sources] if isinstance(sources, Erasure | str | os.PathLike) else list(sources)


def check_base(erasure: Erasure, pipe: Any) -> None:
    """Refuse what does not fit a pipeline, and warn where it fits but was trained on another model.

    Raises:
        ValueError: If the pipeline is of another family, or its denoiser has other layers.

    Warns:
        UserWarning: If the pipeline's base weights are not those it was trained on.
    """
    component, denoiser = find_denoiser(pipe)
    trained = erasure.provenance
    family = next((family.__name__ for family in FAMILIES if family.handles(pipe)), trained.family)
    if (trained.family, trained.component) != (family, component):
        raise ValueError(
            f"{erasure.name} was trained on a pipeline of {trained.family}, and this one is of {family}; train it here."
        )
    check_fit(denoiser, component, dict(erasure.weights))
    here = replace(trained, base_model=model_name(pipe), base_fingerprint=fingerprint(denoiser))
    if not is_same_base(trained, here):
        warnings.warn(
            f"{erasure.name} was trained on {trained.base_model}, and this pipeline is {name_beside(here, trained)}. "
            "Where one is a fine-tune of the other an erasure mostly holds; look at pictures.",
            stacklevel=3,
        )


def is_same_base(one: Provenance, other: Provenance) -> bool:
    """Whether two have the same base weights: by their fingerprints where both are known, else by the model's name."""
    if one.base_fingerprint and other.base_fingerprint:
        return same_weights(one.base_fingerprint, other.base_fingerprint)
    return not one.base_model or not other.base_model or one.base_model == other.base_model


def name_beside(one: Provenance, other: Provenance) -> str:
    """Name of a model, told apart from another of the same name."""
    return one.base_model + (", with other weights" if one.base_model == other.base_model else "")
