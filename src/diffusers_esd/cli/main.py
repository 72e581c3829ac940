"""`main`: the commands of `diffusers-esd`, exit codes, and how an error is printed.

PyTorch is imported when a command needs it, so that `--help` and `info` answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..version import __version__
from . import completion, demo, erase, erasures, evaluate, info, stacks, study, ui
from .model import loading_bars


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="diffusers-esd", description="Erase concepts from text-to-image models.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"diffusers-esd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    erase.add_commands(commands)
    erasures.add_commands(commands)
    stacks.add_commands(commands)
    evaluate.add_commands(commands)
    info.add_commands(commands)
    study.add_commands(commands)
    ui.add_commands(commands)
    demo.add_commands(commands)
    completion.add_commands(commands, make_parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The arguments; `None` means those of the process.

    Returns:
        0, 1 after an error that is printed, 130 after Ctrl-C. A wrong call exits with 2. SIGTERM ends the process; a
            shell shows 143.
    """
    options = make_parser().parse_args(arguments)
    try:
        with loading_bars(shown=not getattr(options, "quiet", False)):
            options.run(options)
    except _reported() as error:
        print(f"error: {error}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _reported() -> tuple[type[Exception], ...]:
    """The errors that are printed without a traceback. The Hub's client is not imported for its own."""
    hub = sys.modules.get("huggingface_hub.errors")
    return (ValueError, TypeError, OSError, RuntimeError, ImportError, *([] if hub is None else [hub.HTTPError]))
