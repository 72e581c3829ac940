"""Calls as code that can be copied: what the app shows is written from the arguments that it uses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_WIDTH = 88  # columns of a line, if a call can be broken so


class Name(str):
    """A name or an expression, such as `pipe`, and not the text of a string."""


def call(function: str, *arguments: Any, **options: Any) -> str:
    """A call as code, with an argument in each line if it is long.

    Args:
        function: What is called.
        arguments: Positional arguments.
        options: Named arguments.
    """
    parts = [*map(written, arguments), *(f"{name}={written(value)}" for name, value in options.items())]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= _WIDTH:
        return line
    return f"{function}(\n" + "".join(f"    {part},\n" for part in parts) + ")"


def written(value: Any) -> str:
    """A value as code: strings, numbers, paths, names, and lists and mappings of them."""
    if isinstance(value, Name):
        return str(value)
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{written(key)}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(written, value)) + "]"
    return repr(value)


PIPE = Name("pipe")
