"""The command `info`: what an erasure or a recipe is, from its file alone. Neither a model nor PyTorch is loaded."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from .options import SOURCE, add_command

_LONG = {"layers left out", "preserved"}
"""Rows that may list many names and prompts; `--json` has them."""


def add_commands(commands: Any) -> None:
    """Add the command."""
    info = add_command(commands, "info", _info, "show what an erasure or a recipe is, without loading a model")
    info.add_argument("erasure", help=SOURCE)
    info.add_argument("--json", action="store_true", help="print all that its file says, as JSON")


def _info(options: argparse.Namespace) -> None:
    from .. import hub
    from ..stacks.entry import NAMES

    file = hub.locate(options.erasure, NAMES)
    if file.suffix == ".json":
        _show_recipe(file, options)
    else:
        _show_erasure(file, options)


def _show_recipe(file: Path, options: argparse.Namespace) -> None:
    from ..stacks.recipe import read_recipe

    entries = read_recipe(file, is_local=Path(options.erasure).exists()).entries
    if options.json:
        print(json.dumps([entry.to_dict(file.parent) for entry in entries], indent=2, ensure_ascii=False))
        return
    for entry in entries:
        print(f"{entry}={entry.scale}")


def _show_erasure(file: Path, options: argparse.Namespace) -> None:
    from ..files import HEADER_KEY, read_header
    from ..provenance import read_record
    from ..summary import summarise

    header = read_header(file)
    if HEADER_KEY not in header:
        raise ValueError(f"{file} is not an erasure: {HEADER_KEY!r} is missing in its header.")
    try:
        record = json.loads(header[HEADER_KEY])
        name, config, provenance = read_record(record)
        rank = int(record.get("rank", 0 if config is None else config.rank))
        rows = {"name": name, **summarise(config, provenance, rank)}
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or of a newer version ({error}); fetch it again.") from error
    if options.json:
        settings = None if config is None else config.to_dict()
        values = {"name": name, "rank": rank, "config": settings, "provenance": provenance.to_dict()}
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return
    rows["made with"] = ", ".join(f"{package} {version}" for package, version in provenance.versions.items())
    for row, text in rows.items():
        if text and row not in _LONG:
            print(f"{row}: {text}")
