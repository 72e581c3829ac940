"""Names of adapters: PEFT stores them in module names, and they become names of files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import sha1

_LONGEST = 64  # bytes; a file system takes 255, and other parts of a file name come on top


def check_adapter_name(name: object) -> None:
    """Refuse a name that an adapter or a file cannot have.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is blank, or contains a dot or a slash.
    """
    if not isinstance(name, str):
        raise TypeError(f"The name of an adapter must be a string, got {name!r} of type {type(name).__name__}.")
    if not name.strip():
        raise ValueError(f"The adapter name {name!r} is empty; give a name such as 'no-cat'.")
    if "." in name:
        raise ValueError(
            f"The adapter name {name!r} contains a dot, which PEFT cannot store; use {name.replace('.', '-')!r}."
        )
    if set(name) & set("/\\\0"):
        raise ValueError(f"The adapter name {name!r} contains a slash, which a file name cannot contain.")


def check_new_name(name: object) -> None:
    """Refuse a name that a new adapter cannot have on any pipeline.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is blank, contains a dot or a slash, or is reserved by torch.
    """
    from torch import nn

    check_adapter_name(name)
    if hasattr(nn.ModuleDict, str(name)):
        raise ValueError(f"The adapter name {name!r} is reserved by torch.nn.ModuleDict; use {f'no-{name}'!r}.")


def default_name(concepts: Sequence[str]) -> str:
    """Name of an erasure of these concepts, such as `"no-van-gogh"`, short enough for a file."""
    return bounded_name("no-" + "-".join(re.sub(r"[^\w]+", "-", c.lower()).strip("-") or "concept" for c in concepts))


def bounded_name(name: str) -> str:
    """The name; if it is longer than 64 bytes in UTF-8, its beginning and eight digits of its hash."""
    content = name.encode()
    if len(content) <= _LONGEST:
        return name
    digest = sha1(content, usedforsecurity=False).hexdigest()[:8]
    return f"{content[: _LONGEST - 9].decode(errors='ignore').rstrip('-')}-{digest}"
