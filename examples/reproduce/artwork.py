"""Section 5.4: one artwork is erased, and its artist's style and other artworks should stay.

The paper trains on the artwork's own image with noise. Here the states are the model's own, as in its other erasures:
the question is the same, and the training is not.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from diffusers_esd.cli.options import positive
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.prompt_sets import ARTWORK, artworks
from diffusers_esd.evaluation.suite import Suite

from .command import add_experiment, judges_or, limited
from .experiment import Experiment, Training
from .perceptual import add_perceptual, perceptual
from .tables import notes, number, table

_GROUPS = ("artwork", "style", "other artworks")


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_experiment(commands, "artwork", run, "Section 5.4: one artwork is erased")
    parser.add_argument("--seeds", type=positive, default=10, help="images of each prompt (default: %(default)s)")
    add_perceptual(parser)


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None) -> str:
    """Evaluate, and return the table."""
    found = judges_or(judges, lambda: perceptual(options))
    prompts = artworks(options.seeds)
    suite = Suite("artwork", limited(prompts, options), found)
    measured = Experiment(options, [Training(ARTWORK, "esd-x")]).measured(suite)
    rows = [
        [method, judge.name]
        + [number(measured.row(group, judge=judge.name).figures.get(method), 3) for group in _GROUPS]
        for method in measured.report.methods[1:]
        for judge in found
    ]
    text = "The paper prints no numbers here: Figure 9 shows images, Figure 8 LPIPS as a curve."
    return f"{table(['erased', 'judge', *_GROUPS], rows)}\n\n{notes(measured.report, options, len(prompts), [text])}"
