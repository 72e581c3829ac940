"""Figures 5 and 6: five artists, each erased by an ESD-x of its own, and what happens to all five.

The paper asks thirteen people. Here the distance and the similarity to the base model's image stand in: with its own
artist erased, an image should change, and with another one it should not.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers_esd.cli.options import positive
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.prompt_sets import artists, generic_artists
from diffusers_esd.evaluation.published import ARTISTS
from diffusers_esd.evaluation.suite import Suite

from . import paper
from .command import add_experiment, judges_or, limited
from .experiment import Experiment, Measured, Training
from .perceptual import add_perceptual, perceptual
from .tables import MISSING, notes, number, printed, table


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_experiment(commands, "styles", run, "Figures 5 and 6: five artists, each erased alone")
    text = "CSV file with a column artist, such as generic_artists_prompts.csv (default: prompts in the paper's words)"
    parser.add_argument("--prompts", type=Path, help=text)
    text = "prompts of each artist, 40 at most (default: %(default)s)"
    parser.add_argument("--prompts-each", type=positive, default=40, help=text)
    parser.add_argument("--seeds", type=positive, default=4, help="images of each prompt (default: %(default)s)")
    add_perceptual(parser)


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None) -> str:
    """Evaluate, and return the tables."""
    found = judges_or(judges, lambda: perceptual(options))
    if options.prompts is None:
        prompts = artists(options.prompts_each, options.seeds)
    else:
        prompts = generic_artists(options.prompts).where(lambda prompt: prompt.group in ARTISTS)
    suite = Suite("styles", limited(prompts, options), found)
    measured = Experiment(options, [Training(name, "esd-x") for name in ARTISTS]).measured(suite)
    groups = list(dict.fromkeys(row.group for row in measured.report.rows))
    of = {method: t.concept for method, t in {**measured.erasures, **measured.baselines}.items()}
    titled = [
        f"{judge.name}, mean of each artist's prompts:\n\n{_table(measured, judge, groups, of)}" for judge in found
    ]
    texts = ["The people's ratings are another measure: only their order can be compared."]
    facts = notes(measured.report, options, 800, texts)
    return "\n\n".join([*titled, f"People in the paper (Figure 6):\n\n{_ratings()}", facts])


def _table(measured: Measured, judge: Judge, groups: Sequence[str], of: Mapping[str, str]) -> str:
    """A row for each method, with the means of the erased artist and of the others."""
    rows = []
    for method in measured.report.methods[1:]:
        figures = {group: measured.row(group, judge=judge.name).figures.get(method) for group in groups}
        others = [f.value for group, f in figures.items() if f is not None and group != of.get(method)]
        own = figures.get(of.get(method, ""))
        rows.append([
            method,
            printed(None if own is None else own.value, 3),
            printed(sum(others) / len(others) if others else None, 3),
            *(number(figures[group], 3) for group in groups),
        ])  # fmt: skip
    return table(["erased", "erased artist", "other artists", *groups], rows or [[MISSING] * (3 + len(groups))])


def _ratings() -> str:
    return table(["", "rating, 1 to 5"], [[name, printed(value, 2)] for name, value in paper.STYLES.items()])
