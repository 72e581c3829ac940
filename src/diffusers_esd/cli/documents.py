"""Files of settings: YAML, JSON and TOML become Python's own values."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

_EXPONENT = re.compile(r"[-+]?\d+[eE][-+]?\d+$")  # 1e-4, which is a text in YAML 1.1


def read_document(file: Path) -> Any:
    """The values in a `.yaml`, `.yml`, `.json` or `.toml` file.

    Raises:
        ValueError: If the file is damaged.
        ImportError: If it is a YAML file and PyYAML is missing.
    """
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is not JSON ({error}).") from error
    if file.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file} is not TOML ({error}).") from error
    try:
        yaml: Any = import_module("yaml")
    except ImportError as error:
        raise ImportError(f"{file} needs PyYAML: pip install pyyaml. Or write it as a .json file.") from error
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
    try:
        return yaml.load(text, Loader=loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} is not YAML ({error}).") from error
