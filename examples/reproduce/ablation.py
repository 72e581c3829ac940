"""Which layers train, and eta: nudity is erased in eight ways, and each is judged on I2P and on Imagenette.

Section 5.5 of the paper has the figures of ESD-u with eta 1, 3 and 10; the other sets of layers are in its appendix.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from diffusers_esd.cli.options import positive
from diffusers_esd.evaluation.aggregates import relative_change
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.judges.nudenet import NudeNet
from diffusers_esd.evaluation.prompt_sets import IMAGENETTE, i2p, imagenette
from diffusers_esd.evaluation.prompts import PromptSet
from diffusers_esd.evaluation.published import I2P
from diffusers_esd.evaluation.suite import Suite

from . import paper
from .command import add_experiment, judges_or, limited
from .experiment import Experiment, Measured, Training
from .nudity import CONCEPT
from .objects import add_classifier, classifier
from .tables import MISSING, notes, printed, table

SELF_ATTENTION = r".*\.attn1\.to_(q|k|v|out\.0)"
"""A group by a pattern: the self-attentions."""
GROUPS = {"esd-x": "esd-x", "esd-u": "esd-u", "full": "full", "self-attention": SELF_ATTENTION}
ETAS = (1.0, 3.0)


def trainings() -> dict[tuple[str, float], Training]:
    """By name of the group and eta."""
    return {
        (name, eta): Training(CONCEPT, group, {"eta": eta}, mark=f"{name}-{eta:g}")
        for name, group in GROUPS.items()
        for eta in ETAS
    }


def add(commands: Any) -> None:
    """Add the command."""
    text = "Section 5.5: groups and eta. The prompts are offensive, and images may be explicit"
    parser = add_experiment(commands, "ablation", run, text)
    text = f"CSV file of the I2P prompts, or their data set on the Hub (default: {I2P})"
    parser.add_argument("--prompts", default=I2P, help=text)
    text = "images of each class of Imagenette (default: %(default)s)"
    parser.add_argument("--images", type=positive, default=1000, help=text)
    add_classifier(parser)


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None) -> str:
    """Evaluate, and return the table.

    Args:
        options: Of the command.
        judges: One that detects, and one that recognises Imagenette's classes, instead of NudeNet and the classifier.
    """
    detector, recogniser = judges_or(judges, lambda: [NudeNet("esd_fig7"), classifier(options)])
    nude = limited(i2p(options.prompts, allow_download=options.allow_download), options)
    others = limited(imagenette(options.images), options)
    prompts = PromptSet("ablation", nude.prompts + others.prompts, f"{nude.source}; {others.source}", nude.licence)
    ways = trainings()
    suite = Suite("ablation", prompts, (detector, recogniser))
    measured = Experiment(options, list(ways.values())).measured(suite)
    method_of = {training: method for method, training in measured.erasures.items()}
    rows = [_row(measured, name, eta, method_of.get(training), detector) for (name, eta), training in ways.items()]
    strongest = paper.ETA[10.0]
    rows.append(["esd-u", "10", printed(strongest.erased, 0), MISSING, printed(strongest.interference, 0), MISSING])
    header = ["group", "eta", "nudity erased, paper", "ours", "fall of accuracy, paper", "ours"]
    full = paper.I2P_PROMPTS + 10 * 1000
    texts = ["All figures in percent: of detections on I2P, and of the base model's accuracy on Imagenette."]
    return f"{table(header, rows)}\n\n{notes(measured.report, options, full, texts)}"


def _row(measured: Measured, name: str, eta: float, method: str | None, detector: Judge) -> list[str]:
    theirs = paper.ETA.get(eta) if name == "esd-u" else None
    erased = interference = None
    if method is not None:
        base = measured.base
        nude = measured.row("i2p", judge=detector.name, label="detections").figures
        erased = -100 * relative_change(nude[base].value, nude[method].value) if nude[base].value else None
        kept = [_accuracy(measured, m, detector) for m in (base, method)]
        interference = -100 * relative_change(*kept) if kept[0] else None
    return [
        name,
        f"{eta:g}",
        printed(theirs and theirs.erased, 0),
        printed(erased),
        printed(theirs and theirs.interference, 0),
        printed(interference),
    ]


def _accuracy(measured: Measured, method: str, detector: Judge) -> float:
    """Mean rate of the classes."""
    rows = [row for row in measured.report.rows if row.judge != detector.name and row.group in IMAGENETTE]
    return sum(row.figures[method].value for row in rows) / len(rows)
