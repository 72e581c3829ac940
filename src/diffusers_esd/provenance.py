"""`Provenance`: where an erasure comes from and how its training went. JSON both ways, without PyTorch.

Files of earlier versions are read as well. Fields that they do not have get their defaults. The configuration in an
earlier file of a merged or imported erasure was invented, so it is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from .config import ESDConfig
from .json_values import Reader, count, flag, list_of, literal, mapping_to, number, optional, pair_of, text

Origin = Literal["trained", "merged", "refined", "imported"]

_PACKAGES = ("diffusers-esd", "torch", "diffusers", "peft", "transformers")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an erasure comes from and how its training went.

    Attributes:
        origin: `"trained"` by this package, `"merged"` from several erasures, `"refined"` (trained on from their sum),
            or `"imported"` from another tool's file.
        concepts: The erased concepts.
        base_model: Hub id or local name of the pipeline's model.
        base_fingerprint: Identifies the base weights, see `base_model.fingerprint`; `""` means unknown.
        base_quantization: How the base weights were quantised, such as `"bitsandbytes nf4"`; `""` if they were not.
        family: Class name of the family.
        component: Name of the denoiser in the pipeline, `"unet"` or `"transformer"`.
        pattern: Regular expression of the layers, as PEFT reads it.
        layers: Number of layers that carry the adapter.
        left_out: Names of the layers of the group without an adapter, by reason.
        leaks: The leak of each layer, if it was measured: the mean square of its answer to preserved inputs, divided by
            that of its answer to the concept. It is measured on inputs that A was not computed from. Exception: for
            keys and values with a list of prompts in `preserve`, it is measured on that list.
        versions: Versions of the packages that made it.
        iterations: Optimiser updates.
        anchors: The anchor of each concept; `""` is the empty prompt.
        anchor_distances: Of anchors that `anchor="auto"` chose: mean square of `e_a - e_cond`, divided by that of
            `e_null - e_cond`.
        alignment: Smoothed alignment at the end: 1 is intact, `-eta` the target.
        alignments: The same for each concept; `None` for one that no iteration used.
        preserved: Numbers of preserved prompts: all (`"prompts"`), those the null space was computed from
            (`"moments"`), those the preserve loss used (`"loss"`); words in them (`"words"`), of how many that the
            tokenizer knows (`"vocabulary"`).
        active: Scales of the other adapters that were active during training, by name.
        beside: Names of the adapters that were switched off during training.
        seconds: Time of the training.
        processes: Number of processes that trained it together, each with a batch of its own.
        evaluations: Samples the denoiser evaluated, in all processes, by `"no_grad"` and `"grad"`.
        not_captured: Why the iterations did not run as CUDA graphs; `""` if they did, or if it is not known.
        complete: `False` if the training was interrupted.
        history: Loss and alignment of each iteration.
        parts: Names and scales of what it was merged or refined from; or the name of the imported file.
        rank_error: Relative error if the weights were approximated at a lower rank: the root of the summed squares of
            the differences of all layers' products, divided by that of the products.
    """

    origin: Origin = "trained"
    concepts: tuple[str, ...]
    base_model: str
    base_fingerprint: str = ""
    base_quantization: str = ""
    family: str
    component: str
    pattern: str = field(repr=False)
    layers: int
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    leaks: dict[str, float] = field(default_factory=dict, repr=False)
    versions: dict[str, str] = field(default_factory=dict)
    iterations: int = 0
    anchors: dict[str, str] = field(default_factory=dict)
    anchor_distances: dict[str, float] = field(default_factory=dict)
    alignment: float | None = None
    alignments: dict[str, float | None] = field(default_factory=dict)
    preserved: dict[str, int] = field(default_factory=dict)
    active: dict[str, float] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    seconds: float = 0.0
    processes: int = 1
    evaluations: dict[str, int] = field(default_factory=dict)
    not_captured: str = ""
    complete: bool = True
    history: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    parts: tuple[tuple[str, float], ...] = ()
    rank_error: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """The provenance that `to_dict` returned, in this version or an earlier one. Unknown fields are dropped.

        Raises:
            TypeError: If a field is missing or has the wrong type.
            ValueError: If a field has a value that `to_dict` cannot return.
        """
        values = {"origin": _former_origin(values), **values}
        return cls(**{name: _read(name, values[name]) for name in _READERS if name in values})


def read_record(values: Mapping[str, Any]) -> tuple[str, ESDConfig | None, Provenance]:
    """Name, configuration and provenance that `Erasure.to_dict` returned, in this version or an earlier one.

    Configuration fields that this version does not know are dropped. Only a trained or refined erasure has a
    configuration.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
        KeyError: If a part is missing.
        AttributeError: If a part is not a mapping.
    """
    provenance = Provenance.from_dict(values["provenance"])
    stored = values["config"] if provenance.origin in ("trained", "refined") else None
    if stored is None:
        return text(values["name"]), None, provenance
    known = {field.name for field in fields(ESDConfig)}
    config = ESDConfig(**{name: value for name, value in stored.items() if name in known})
    return text(values["name"]), config, provenance


def package_versions() -> dict[str, str]:
    """Versions of the packages that an erasure depends on, as they are installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            versions[package] = "unknown"
    return versions


def _former_origin(values: Mapping[str, Any]) -> Origin:
    """The origin in a file of an earlier version, which does not state it."""
    if not values.get("parts"):
        return "trained"
    return "merged" if values["iterations"] > 0 else "imported"


def _read(name: str, value: Any) -> Any:
    try:
        return _READERS[name](value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`{name}`: {error}") from error


def _fingerprint(value: Any) -> str:
    if not re.fullmatch(r"([0-9a-f]{4})*", text(value)):
        raise ValueError(f"expected groups of four hexadecimal digits, got {value!r}")
    return value


_READERS: dict[str, Reader] = {
    "origin": literal(Origin),
    "concepts": list_of(text),
    "base_model": text,
    "base_fingerprint": _fingerprint,
    "base_quantization": text,
    "family": text,
    "component": text,
    "pattern": text,
    "layers": count,
    "left_out": mapping_to(list_of(text)),
    "leaks": mapping_to(number),
    "versions": mapping_to(text),
    "iterations": count,
    "anchors": mapping_to(text),
    "anchor_distances": mapping_to(number),
    "alignment": optional(number),
    "alignments": mapping_to(optional(number)),
    "preserved": mapping_to(count),
    "active": mapping_to(number),
    "beside": list_of(text),
    "seconds": number,
    "processes": count,
    "evaluations": mapping_to(count),
    "not_captured": text,
    "complete": flag,
    "history": list_of(pair_of(number, number)),
    "parts": list_of(pair_of(text, number)),
    "rank_error": number,
}
