"""Figure 7: exposed body parts in images of the I2P prompts, found by NudeNet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, get_args

from diffusers_esd.evaluation.aggregates import relative_change
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.judges.nudenet import FIG_7, ChannelOrder, Count, NudeNet, PresetName
from diffusers_esd.evaluation.prompt_sets import i2p
from diffusers_esd.evaluation.published import I2P
from diffusers_esd.evaluation.suite import Suite

from . import paper
from .command import add_experiment, judges_or, limited
from .experiment import Experiment, Measured, Training
from .tables import MISSING, notes, number, percent, table

CONCEPT = "nudity"


def add(commands: Any) -> None:
    """Add the command."""
    text = "Figure 7: NudeNet's detections on I2P. The prompts are offensive, and images may be explicit"
    parser = add_experiment(commands, "nudity", run, text)
    text = f"CSV file of the I2P prompts, or their data set on the Hub (default: {I2P})"
    parser.add_argument("--prompts", default=I2P, help=text)
    parser.add_argument("--category", help="only prompts of this category, such as sexual (default: all)")
    text = "classes and threshold that count (default: %(default)s)"
    parser.add_argument("--preset", choices=get_args(PresetName), default="esd_fig7", help=text)
    text = "whether a class that is found twice in an image counts twice or once (default: the preset's)"
    parser.add_argument("--count", choices=get_args(Count), help=text)
    text = "upstream: blue and red exchanged, as NudeNet 3.4 does; rgb: right (default: %(default)s)"
    parser.add_argument("--channel-order", choices=get_args(ChannelOrder), default="upstream", help=text)


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None) -> str:
    """Evaluate, and return the table."""
    own = {"count": options.count, "channel_order": options.channel_order}
    found = judges_or(judges, lambda: [NudeNet(options.preset, **own)])
    prompts = i2p(options.prompts, category=options.category, allow_download=options.allow_download)
    suite = Suite("nudity", limited(prompts, options), found, groups={"i2p": "The prompts of I2P."})
    measured = Experiment(options, [Training(CONCEPT, "esd-u")]).measured(suite)
    return f"{_table(measured, found[0])}\n\n{notes(measured.report, options, paper.I2P_PROMPTS, _TEXTS)}"


_TEXTS = (
    "The paper's counts are of NudeNet 2, another model: only their pattern can be compared.",
    "The paper calls 796 images; it is the sum of the detections of eight classes. Of ESD-u and SD 2.0 it prints the "
    "totals only.",
)


def _table(measured: Measured, judge: Judge) -> str:
    """A row for each class, and their sum."""
    header = ["", *(f"{name}, paper" for name in paper.NUDITY), *measured.report.methods]
    rows = [
        [FIG_7.get(label, label), *_of_class(label), *_ours(measured, judge, label)]
        for label in dict.fromkeys([*paper.NUDITY_SD, *judge.classes])
    ]
    rows.append(["all detections", *map(str, paper.NUDITY.values()), *_ours(measured, judge, "detections")])
    theirs = [_change(paper.NUDITY["SD 1.4"], total) for total in paper.NUDITY.values()]
    rows.append(["change in percent", *theirs, *_changes(measured, judge)])
    images = measured.row("i2p", judge=judge.name, label="images with any").figures
    ours = [percent(images.get(method)) for method in measured.report.methods]
    rows.append(["images with any, in percent", *[MISSING] * len(paper.NUDITY), *ours])
    return table(header, rows)


def _of_class(label: str) -> list[str]:
    return [str(paper.NUDITY_SD.get(label, MISSING)), *[MISSING] * (len(paper.NUDITY) - 1)]


def _ours(measured: Measured, judge: Judge, label: str) -> list[str]:
    if label not in (*judge.classes, "detections"):
        return [MISSING] * len(measured.report.methods)
    row = measured.row("i2p", judge=judge.name, label=label)
    return [number(row.figures.get(method)) for method in measured.report.methods]


def _changes(measured: Measured, judge: Judge) -> list[str]:
    figures = measured.row("i2p", judge=judge.name, label="detections").figures
    return [_change(figures[measured.base].value, figures[method].value) for method in measured.report.methods]


def _change(base: float, value: float) -> str:
    """How a count differs from the base model's."""
    return MISSING if not base else f"{100 * relative_change(base, value):+.0f}"
