"""The command `completion`: a script with which a shell completes commands, options, values and files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from .options import add_command

SHELLS = ("bash", "zsh", "fish", "tcsh")
_FILES = ("model", "erasure", "erasures")
"""Arguments that may be the path of a file and have a type of their own."""


def add_commands(commands: Any, make_parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command.

    Args:
        commands: The subparsers of `argparse`.
        make_parser: Makes the parser of all commands.
    """
    text = "print a script with which a shell completes commands, options and files"
    parser = add_command(commands, "completion", lambda options: _completion(options, make_parser), text)
    parser.add_argument("shell", choices=SHELLS, help="the shell that reads the script")


def _completion(options: argparse.Namespace, make_parser: Callable[[], argparse.ArgumentParser]) -> None:
    try:
        shtab: Any = import_module("shtab")
    except ImportError as error:
        raise ImportError('`completion` needs shtab: pip install "diffusers-esd[completion]".') from error
    parser = make_parser()
    _complete_files(parser, shtab.FILE)
    print(shtab.complete(parser, options.shell))


def _complete_files(parser: argparse.ArgumentParser, kind: Any) -> None:
    """Say of each argument that takes a path that it does, for all commands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, kind)
        elif action.type is Path or action.dest in _FILES:
            action.complete = kind  # type: ignore[attr-defined]
