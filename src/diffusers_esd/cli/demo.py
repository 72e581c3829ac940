"""The command `demo`: an object and a style erased from a small model, without a download."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .options import add_command

_MODEL = "emoji_sd"


def add_commands(commands: Any) -> None:
    """Add the command."""
    text = "erase an object and a style from a small model, and draw what is left; needs no network"
    parser = add_command(commands, "demo", _demo, text)
    text = "folder to write (default: %(default)s)"
    parser.add_argument("-o", "--output", type=Path, default=Path("demo-output"), help=text)


def _demo(options: argparse.Namespace) -> None:
    if find_spec(_MODEL) is None:
        raise ImportError('`demo` needs the small model: pip install "diffusers-esd[demo]".')
    import_module(f"{_MODEL}.demo").run(options.output)
