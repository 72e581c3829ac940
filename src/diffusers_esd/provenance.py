"""`Provenance`: where an erasure comes from and what its training came to. JSON both ways, without PyTorch.

Files of former versions are read as well. They lack fields, which then have their defaults, and the configuration in
the file of a merged or imported erasure was made up, so it is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha1
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, get_args

from .config import ESDConfig

Origin = Literal["trained", "merged", "imported"]

_PACKAGES = ("diffusers-esd", "torch", "diffusers", "peft", "transformers")
_LONGEST_NAME = 64  # bytes; a file system takes 255, and names become parts of file names


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an erasure comes from and what its training came to.

    Attributes:
        origin: `"trained"` by this package, `"merged"` from several erasures, or `"imported"` from another tool's file.
        concepts: The erased concepts.
        base_model: Hub id or local name of the pipeline's model.
        base_fingerprint: `denoiser.fingerprint` of the base weights; `""` means unknown.
        family: Name of the family's class.
        component: Name of the denoiser in the pipeline, `"unet"` or `"transformer"`.
        pattern: Regular expression of the layers, as PEFT reads it.
        layers: How many layers carry the adapter.
        left_out: Names of the layers of the group that carry no adapter, by reason.
        leaks: Of each layer, where measured: how large its answer to preserved inputs is beside that to the concept, on
            inputs that A was not computed from. Of a list of the user's own, what keys and values see is measured on
            the list itself.
        versions: Versions of the packages that made it.
        iterations: Optimiser updates.
        alignment: Smoothed alignment at the end: 1 is intact, `-eta` the target.
        alignments: The same by concept; `None` for one that no iteration drew.
        preserved: How many preserved prompts there were (`"prompts"`), how many of them the null space was computed
            from (`"moments"`), and how many the preserve loss drew from (`"loss"`).
        active: Scales of the other adapters that were active while it trained, by name.
        beside: Names of the adapters that were switched off while it trained.
        seconds: Time the training took.
        evaluations: Samples the denoiser evaluated, by `"no_grad"` and `"grad"`.
        complete: `False` if the training was interrupted.
        history: Loss and alignment of each iteration.
        parts: Names and scales of what it was merged from; name of the imported file.
        rank_error: Relative error of the best approximation at this rank, where the weights are one: the root of the
            squared differences of all layers' products, over that of the products.
    """

    origin: Origin = "trained"
    concepts: tuple[str, ...]
    base_model: str
    base_fingerprint: str = ""
    family: str
    component: str
    pattern: str = field(repr=False)
    layers: int
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    leaks: dict[str, float] = field(default_factory=dict, repr=False)
    versions: dict[str, str] = field(default_factory=dict)
    iterations: int = 0
    alignment: float | None = None
    alignments: dict[str, float | None] = field(default_factory=dict)
    preserved: dict[str, int] = field(default_factory=dict)
    active: dict[str, float] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    seconds: float = 0.0
    evaluations: dict[str, int] = field(default_factory=dict)
    complete: bool = True
    history: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    parts: tuple[tuple[str, float], ...] = ()
    rank_error: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """The provenance that `to_dict` returned, in this version or a former one. Unknown fields are dropped.

        Raises:
            TypeError: If a field is missing or has the wrong type.
            ValueError: If a field has a value that `to_dict` cannot return.
        """
        values = {"origin": _former_origin(values), **values}
        return cls(**{name: _read(name, values[name]) for name in _READERS if name in values})


def read_record(values: Mapping[str, Any]) -> tuple[str, ESDConfig | None, Provenance]:
    """Name, configuration and provenance that `Erasure.to_dict` returned, in this version or a former one.

    Fields that `ESDConfig` does not have (any more) are dropped; only a trained erasure has a configuration.

    Raises:
        TypeError: If a value has the wrong type.
        ValueError: If a value is out of range.
        KeyError: If a part is missing.
        AttributeError: If a part is not a mapping.
    """
    provenance = Provenance.from_dict(values["provenance"])
    stored = values["config"] if provenance.origin == "trained" else None
    if stored is None:
        return _text(values["name"]), None, provenance
    known = {field.name for field in fields(ESDConfig)}
    config = ESDConfig(**{name: value for name, value in stored.items() if name in known})
    return _text(values["name"]), config, provenance


def package_versions() -> dict[str, str]:
    """Versions of the packages that an erasure depends on, as they are installed."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            versions[package] = "unknown"
    return versions


def default_name(concepts: Sequence[str]) -> str:
    """Name of an erasure of these concepts, `"no-van-gogh"`: short enough for a file, whatever the concepts are."""
    return bounded_name("no-" + "-".join(re.sub(r"[^\w]+", "-", c.lower()).strip("-") or "concept" for c in concepts))


def bounded_name(name: str) -> str:
    """The name, or its beginning and eight digits of its hash where it is longer than 64 bytes in UTF-8."""
    content = name.encode()
    if len(content) <= _LONGEST_NAME:
        return name
    digest = sha1(content, usedforsecurity=False).hexdigest()[:8]
    return f"{content[: _LONGEST_NAME - 9].decode(errors='ignore').rstrip('-')}-{digest}"


def _former_origin(values: Mapping[str, Any]) -> Origin:
    """The origin of a record that does not state it."""
    if not values.get("parts"):
        return "trained"
    return "merged" if values["iterations"] > 0 else "imported"


Reader = Callable[[Any], Any]


def _read(name: str, value: Any) -> Any:
    try:
        return _READERS[name](value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"`{name}`: {error}") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"expected a number, got {value!r}")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    if value < 0:
        raise ValueError(f"expected 0 or more, got {value}")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"expected True or False, got {value!r}")
    return value


def _origin(value: Any) -> Any:
    if value not in get_args(Origin):
        raise ValueError(f"expected one of {', '.join(map(repr, get_args(Origin)))}, got {value!r}")
    return value


def _fingerprint(value: Any) -> str:
    if not re.fullmatch(r"([0-9a-f]{4})*", _text(value)):
        raise ValueError(f"expected groups of four hexadecimal digits, got {value!r}")
    return value


def _optional(read: Reader) -> Reader:
    return lambda value: None if value is None else read(value)


def _list_of(read: Reader) -> Reader:
    def read_list(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, got {value!r}")
        return tuple(map(read, value))

    return read_list


def _mapping_to(read: Reader) -> Reader:
    def read_mapping(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise TypeError(f"expected an object, got {value!r}")
        return {_text(key): read(entry) for key, entry in value.items()}

    return read_mapping


def _pair_of(first: Reader, second: Reader) -> Reader:
    def read_pair(value: Any) -> tuple[Any, Any]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise TypeError(f"expected a pair, got {value!r}")
        return first(value[0]), second(value[1])

    return read_pair


_READERS: dict[str, Reader] = {
    "origin": _origin,
    "concepts": _list_of(_text),
    "base_model": _text,
    "base_fingerprint": _fingerprint,
    "family": _text,
    "component": _text,
    "pattern": _text,
    "layers": _count,
    "left_out": _mapping_to(_list_of(_text)),
    "leaks": _mapping_to(_number),
    "versions": _mapping_to(_text),
    "iterations": _count,
    "alignment": _optional(_number),
    "alignments": _mapping_to(_optional(_number)),
    "preserved": _mapping_to(_count),
    "active": _mapping_to(_number),
    "beside": _list_of(_text),
    "seconds": _number,
    "evaluations": _mapping_to(_count),
    "complete": _flag,
    "history": _list_of(_pair_of(_number, _number)),
    "parts": _list_of(_pair_of(_text, _number)),
    "rank_error": _number,
}
