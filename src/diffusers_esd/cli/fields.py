"""The fields of a configuration as options, and as a file.

Each field is an option with the documentation of its class, in the words of a shell: `erase_from` is `--erase-from`,
and what `None` means is its default. `--config` reads the same fields from a YAML or JSON file, or from a saved
erasure; options that are given count more.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from ..config import ESDConfig
from ..provenance import read_record
from ..run import RunConfig
from .documents import read_document

_NAMES = tuple(field.name for kind in (ESDConfig, RunConfig) for field in fields(kind))
_LISTS = ("anchor", "preserve", "synonyms", "sample_prompts")
_OF_NONE = re.compile(r"[;.]? ?`None` (?:means )?([^.;]+)")


def add_config(parser: Any) -> None:
    """Add `--config`, the file of fields."""
    text = (
        "file with the options below, .yaml or .json, such as learning_rate: 0.001; or the folder or the erasure.json "
        "of a saved erasure, to train with its settings. Options that are given count more (default: none)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help=text)


def add_fields(group: Any, kind: type) -> None:
    """Add an option for each field of a configuration, with its documentation and its default."""
    text = (kind.__doc__ or "").partition("Attributes:")[2]
    described = dict(re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w+: |\Z)", text, re.MULTILINE | re.DOTALL))
    types = get_type_hints(kind)
    for field in fields(kind):
        allowed = get_args(types[field.name]) or (types[field.name],)
        options: dict[str, Any] = {"help": _help(field, " ".join(described[field.name].split())).replace("%", "%%")}
        if field.name in _LISTS:
            options |= {"nargs": "*", "metavar": "PROMPT"}
        elif allowed == (bool,):
            options["action"] = argparse.BooleanOptionalAction
        elif all(isinstance(value, str) for value in allowed):
            options["choices"] = allowed
        else:
            options["type"] = next(t for t in allowed if isinstance(t, type) and t is not type(None))
        group.add_argument(_option(field.name), default=argparse.SUPPRESS, **options)


def configurations(
    options: argparse.Namespace, of_prompts: Mapping[str, Any] | None = None
) -> tuple[ESDConfig, RunConfig]:
    """What is learned and how it runs: the fields of the file of `--config`, and the options that were given.

    Args:
        options: The options.
        of_prompts: Fields that follow from the file of `--prompts`. They count more than those of `--config`, and less
            than options.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If a field is unknown, or has the wrong type.
        ValueError: If the file is not one of fields, or a value is out of range.
        ImportError: If it is a YAML file and PyYAML is missing.
    """
    stored = {**({} if options.config is None else read_fields(options.config)), **(of_prompts or {})}
    values = [{**_of_kind(kind, stored), **given_fields(options, kind)} for kind in (ESDConfig, RunConfig)]
    return ESDConfig(**values[0]), RunConfig(**values[1])


def given_fields(options: argparse.Namespace, kind: type) -> dict[str, Any]:
    """The fields of a configuration that were given as options."""
    values = _of_kind(kind, vars(options))
    if values.get("preserve") == ["vocabulary"]:
        values["preserve"] = "vocabulary"
    if len(values.get("anchor", ())) == 1:
        values["anchor"] = values["anchor"][0]
    return values


def read_fields(path: Path) -> dict[str, Any]:
    """The fields in a file: names of `ESDConfig` and `RunConfig` with values, or a saved erasure's configuration.

    Args:
        path: A `.yaml`, `.yml` or `.json` file, or the folder of an erasure.

    Raises:
        FileNotFoundError: If there is no such file.
        TypeError: If a field is unknown; the message lists those that exist.
        ValueError: If the file is damaged, or not one of fields.
        ImportError: If it is a YAML file and PyYAML is missing.
    """
    file = path / "erasure.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}; give a .yaml or .json file, or the folder of an erasure.")
    if file.suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"{file} is not a .yaml or .json file; give one, or the folder of an erasure.")
    values = read_document(file)
    if not isinstance(values, dict):
        raise ValueError(f"{file} must contain fields with values, such as `iterations: 500`; got {values!r}.")
    if {"config", "provenance"} <= values.keys():
        return _of_erasure(file, values)
    if unknown := [str(name) for name in values if name not in _NAMES]:
        raise TypeError(f"{file} has the unknown field {', '.join(unknown)}; expected {', '.join(_NAMES)}.")
    return values


def _of_kind(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    return {field.name: values[field.name] for field in fields(kind) if field.name in values}


def _of_erasure(file: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The configuration in the `erasure.json` of an erasure."""
    try:
        _, config, provenance = read_record(record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{file} is damaged or of a newer version ({error}); give another file.") from error
    if config is None:
        raise ValueError(f"{file} is of an erasure that was {provenance.origin}, which does not have settings.")
    return config.to_dict()


def _option(name: str, *, is_on: bool = True) -> str:
    return ("--" if is_on else "--no-") + name.replace("_", "-")


def _help(field: Field, text: str) -> str:
    """The documentation of a field in the words of a shell, with its default."""
    of_none = _OF_NONE.search(text)
    default = of_none[1] if field.default is None and of_none is not None else _shown(field)
    words = f"{_OF_NONE.sub('', text)} (default: {default})"
    return re.sub(r"`([^`]*)`", lambda match: _in_shell(match[1], field.name), words)


def _shown(field: Field) -> str:
    """A default as one would write it."""
    value: Any = field.default
    if isinstance(value, bool):
        return _option(field.name, is_on=value)
    if value in ("", ()):
        return '""' if value == "" else "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _in_shell(code: str, field: str) -> str:
    """What stands in backticks in the documentation of a field, as one would write it in a shell."""
    if code in ("True", "False"):
        return _option(field, is_on=code == "True")
    if code in _NAMES and code != field:
        return _option(code)
    if (setting := re.fullmatch(r'(\w+)="?([^"]*)"?', code)) and setting[1] in _NAMES:
        return f"{_option(setting[1])} {setting[2]}"
    quoted = re.fullmatch(r'"([^"\s]+)"', code)
    return quoted[1] if quoted else code
