"""The command `study`: a page on which people rate pictures, and the figure of their ratings."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .options import add_command, positive


def add_commands(commands: Any) -> None:
    """Add the command, with commands of its own."""
    text = "ask people how much pictures resemble an artist's"
    steps = commands.add_parser("study", help=text, description=text, allow_abbrev=False).add_subparsers(
        required=True, metavar="COMMAND"
    )
    text = "make a page that shows pictures blind and collects ratings, and the key of its pictures"
    make = add_command(steps, "make", _make, text, output="page, .html; its key is written beside it")
    text = "folder of a folder for each artist, with the folder references and a folder for each condition"
    make.add_argument("folder", type=Path, help=text)
    make.add_argument("--title", help="title of the page (default: a general one)")
    text = "what participants answer, from 1 (certainly not) to 5 (certainly) (default: whether the artist is the same)"
    make.add_argument("--question", help=text)
    make.add_argument("--references", type=positive, default=5, help="references that are shown (default: %(default)s)")
    make.add_argument("--seed", type=int, default=0, help="seed of the references and ids (default: %(default)s)")
    make.add_argument("--blur", action="store_true", help="blur pictures until they are clicked")

    text = "draw the mean rating of each condition, and print it as a table"
    figure = add_command(steps, "figure", _figure, text, output="figure, .svg")
    figure.add_argument("ratings", nargs="+", type=Path, help="CSV file of each participant")
    figure.add_argument("--key", type=Path, required=True, help="key of the study, which `make` wrote")


def _make(options: argparse.Namespace) -> None:
    from ..study.page import make_study

    words = {name: value for name in ("title", "question") if (value := getattr(options, name)) is not None}
    study = make_study(
        options.folder, options.output, references=options.references, seed=options.seed, blur=options.blur, **words
    )
    for condition, ids in study.key.conditions.items():
        print(f"{condition}: {len(ids)}")
    size = study.page.stat().st_size / 1e6
    print(f"{study.page}: {len(study.key.candidates)} pictures to rate, {size:.1f} MB")
    print(f"{study.key_file}: the key; participants must not have it")


def _figure(options: argparse.Namespace) -> None:
    from ..files import write_text
    from ..study.chart import figure, markdown
    from ..study.mean import means
    from ..study.ratings import read_ratings

    if options.output.suffix.lower() != ".svg":
        raise ValueError(f"--output must end in .svg, got {options.output}.")
    rated = means(read_ratings(options.ratings, options.key))
    print(markdown(rated))
    print(write_text(options.output, figure(rated)))
