"""Every command and option of the parser, as a page: `python examples/commands.py` writes docs/commands.md."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from diffusers_esd.cli.main import make_parser

FILE = Path(__file__).parents[1] / "docs" / "commands.md"
HEAD = """# Commands and options

Every command, with every option, its default and what it does. This page is made from the parser (`make commands`), and
`diffusers-esd COMMAND --help` prints the same. [Command line](command-line.md) has examples and explanations.
"""
DEFAULT = re.compile(r" \(default: (.*)\)$")


def page() -> str:
    """The text of the page."""
    return "\n".join([HEAD, *_sections(make_parser(), "diffusers-esd", 2)])


def options(parser: argparse.ArgumentParser) -> set[str]:
    """All options of all commands of a parser."""
    names = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            names |= {option for inner in action.choices.values() for option in options(inner)}
        else:
            names |= set(action.option_strings)
    return names


def _sections(parser: argparse.ArgumentParser, name: str, level: int) -> list[str]:
    """The commands of a parser, each with its arguments."""
    parts = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command, inner in action.choices.items():
                title = f"{name} {command}".removeprefix("diffusers-esd ")
                text = _sentence(str(inner.description))
                parts += [f"{'#' * level} `{title}`\n", f"{text[:1].upper()}{text[1:]}\n"]
                parts += _arguments(inner)
                parts += _sections(inner, f"{name} {command}", level + 1)
    return parts


def _arguments(parser: argparse.ArgumentParser) -> list[str]:
    """The arguments of a command: its own, and those of each group."""
    parts = []
    for group in parser._action_groups:
        actions = [
            action
            for action in group._group_actions
            if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction)
        ]
        titled = group.title not in ("positional arguments", "options")
        if actions and titled:
            parts.append(f"**{str(group.title).capitalize()}**\n")
        parts += [_argument(parser, action) for action in actions]
    return parts


def _argument(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = argparse.HelpFormatter(parser.prog)
    text = formatter._expand_help(action)
    default = DEFAULT.search(text)
    lines = [_sentence(DEFAULT.sub("", text))]
    if isinstance(action.choices, tuple | list):
        lines.append("One of " + ", ".join(f"`{choice}`" for choice in action.choices) + ".")
    if action.required and action.option_strings:
        lines.append("Required.")
    if default:
        lines.append(f"Default: {_escaped(default[1])}.")
    return f"{_name(action)}\n:   {' '.join(lines)}\n"


def _name(action: argparse.Action) -> str:
    """How an argument is written: its options, and its value."""
    value = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    many = {"*": " ...", "+": " ..."}.get(str(action.nargs), "")
    takes = "" if action.nargs == 0 else f" {value}{many}" if action.option_strings else f"{value}{many}"
    options = ", ".join(f"`{option}{takes}`" for option in action.option_strings)
    return options or f"`{takes}`"


def _sentence(text: str) -> str:
    return _escaped(text).rstrip(".") + "."


def _escaped(text: str) -> str:
    """A text whose characters mean themselves in Markdown."""
    return re.sub(r"([*_\[\]<>\\|`])", r"\\\1", text)


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8")
    print(FILE)
