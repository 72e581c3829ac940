"""Options that several commands share, and what they become: checked values, erasures with scales, a folder."""

from __future__ import annotations

import argparse
import itertools
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..arguments import check_prompt
from ..names import check_new_name

SOURCE = "folder, file or Hub id (user/name or user/name@revision) of an erasure or a recipe"

Command = Callable[[argparse.Namespace], None]


def add_command(commands: Any, name: str, run: Command, text: str, *, output: str | None = None) -> Any:
    """Add a command.

    Args:
        commands: The subparsers of `argparse`.
        name: Name of the command.
        run: What it does.
        text: Its help.
        output: Help of the option `--output`; `None` leaves it out.

    Returns:
        The parser of the command.
    """
    parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    if output is not None:
        parser.add_argument("-o", "--output", type=Path, required=True, help=output)
    return parser


def add_erasures(parser: Any) -> None:
    """Add one or several erasures, with their scales, as pairs."""
    text = f"{SOURCE}, with its scale: no-cat=0.8 (default: 1)"
    parser.add_argument("erasures", nargs="+", type=checked(with_scale), metavar="erasure[=scale]", help=text)


def checked(check: Callable[[str], Any]) -> Callable[[str], Any]:
    """A `type` of `argparse` whose error is that of a check."""

    def convert(text: str) -> Any:
        try:
            return check(text)
        except (ValueError, TypeError) as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def positive(text: str) -> int:
    """A whole number, 1 or more; a `type` of `argparse`."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more; got {text!r}.")
    return int(text)


@checked
def prompt(text: str) -> str:
    """A prompt that is not blank; a `type` of `argparse`."""
    return check_prompt("prompt", text)


@checked
def adapter_name(text: str) -> str:
    """A name that an adapter can have; a `type` of `argparse`."""
    check_new_name(text)
    return text


def with_scale(text: str) -> tuple[str, float]:
    """The source and the scale of `source` or `source=scale`.

    Raises:
        ValueError: If the source or the scale is missing, or the scale is not a number.
    """
    source, equals, scale = text.rpartition("=")
    if source and re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", scale):
        return source, float(scale)
    # The path of an erasure may contain an equals sign.
    if not text or (equals and not Path(text).exists() and not set(scale) & set("/\\")):
        raise ValueError(f"an erasure and its scale are written as no-cat=0.8, got {text!r}.")
    return text, 1.0


def read_erasures(given: Sequence[tuple[str, float]]) -> dict[Any, float]:
    """The erasures of sources with scales, and their scales. The same source may be given twice."""
    from ..stacks.sources import read_parts

    return {erasure: scale for source, given_scale in given for erasure, scale in read_parts(source, given_scale)}


def add_output(parser: Any) -> None:
    """Add the folder of an erasure, for `check_output` and `save`."""
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the erasure")
    parser.add_argument("--force", action="store_true", help="replace a finished erasure in this folder")


def check_output(options: argparse.Namespace) -> None:
    """Refuse a folder for an erasure, before anything is loaded.

    Raises:
        FileExistsError: If it contains something else, or a finished erasure, and `--force` is not given.
    """
    from ..storage import check_folder, is_finished

    check_folder(options.output)
    if is_finished(options.output) and not options.force:
        raise FileExistsError(
            f"{options.output} contains a finished erasure: give another folder, or --force to replace it."
        )


def save(erasure: Any, options: argparse.Namespace) -> Path:
    """Save an erasure; print its folder and, if its rank was lowered, the error.

    An interrupted training does not replace a finished erasure: it is saved beside it.

    Returns:
        The folder of the erasure.
    """
    from ..storage import is_finished

    folder = options.output
    if not erasure.provenance.complete and is_finished(folder):
        folder = _free_beside(folder.resolve())  # "." has no name
        print(f"interrupted: {options.output} keeps its finished erasure, this one is saved beside it")
    print(erasure.save_pretrained(folder))
    if erasure.provenance.rank_error:
        print(f"relative error of rank {erasure.rank}: {erasure.provenance.rank_error:.2%}")
    return Path(folder)


def _free_beside(folder: Path) -> Path:
    """The first of `folder-interrupted`, `folder-interrupted-2` and so on that an interrupted erasure may replace."""
    from ..storage import check_folder, is_finished

    for number in itertools.count(1):
        other = folder.with_name(f"{folder.name}-interrupted" + ("" if number == 1 else f"-{number}"))
        with suppress(FileExistsError):
            check_folder(other)
            if not is_finished(other):
                break
    return other
