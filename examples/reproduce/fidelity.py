"""Table 1: FID and CLIP score on captions of COCO, guidance 7.5, with nudity erased."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers_esd.evaluation.distances import FID, SetMeasure
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.judges.clip import CLIP, VIT_L_14, CLIPScore
from diffusers_esd.evaluation.prompt_sets import coco
from diffusers_esd.evaluation.published import AUTHORS
from diffusers_esd.evaluation.sets import check_reference
from diffusers_esd.evaluation.suite import Suite

from . import paper
from .command import add_experiment, device_of, judges_or, limited
from .experiment import Experiment, Training
from .tables import MISSING, notes, number, printed, table


def trainings() -> tuple[Training, ...]:
    """The paper's ESD-u and ESD-u-3."""
    return tuple(Training("nudity", "esd-u", {"eta": eta}, mark=f"esd-u-{eta:g}") for eta in (1.0, 3.0))


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_experiment(commands, "fidelity", run, "Table 1: FID and CLIP score on captions of COCO")
    text = f"CSV file of captions, such as coco_30k.csv of {AUTHORS}/tree/main/data"
    parser.add_argument("--prompts", type=Path, required=True, help=text)
    text = "real images of COCO, val2014, for FID (default: no FID)"
    parser.add_argument("--real", type=Path, metavar="FOLDER", help=text)
    text = "FID's Inception network (default: look for it)"
    parser.add_argument("--inception", type=Path, metavar="FILE", help=text)
    parser.add_argument("--clip", default=VIT_L_14, help="folder or Hub id of the CLIP model (default: %(default)s)")


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None, measure: SetMeasure | None = None) -> str:
    """Evaluate, and return the table.

    Args:
        options: Of the command.
        judges: One that scores, instead of the CLIP score.
        measure: Instead of FID.
    """
    download = {"device": device_of(options), "allow_download": options.allow_download}
    (judge,) = judges_or(judges, lambda: [CLIPScore(CLIP(options.clip, **download))])
    measures: tuple[SetMeasure, ...] = ()
    if options.real is not None:
        check_reference(options.real)
        measures = (measure or FID(weights=options.inception, **download),)
    prompts = limited(coco(options.prompts), options)
    suite = Suite("fidelity", prompts, (judge,), measures=measures, reference=options.real)
    report = Experiment(options, trainings()).measured(suite).report
    rows = [[f"{name}, paper", printed(row.fid, 2), printed(row.clip, 4)] for name, row in paper.FIDELITY.items()]
    distances = [row.figures for row in report.rows if row.measure == "distance"]
    scores = report.row("coco", judge=judge.name).figures
    for method in report.methods:
        distance = number(distances[0].get(method), 2) if distances else MISSING
        rows.append([method, distance, number(scores.get(method), 4)])
    texts = ["The paper does not say of which CLIP its score is: only differences between rows can be compared."]
    if measures:
        texts.append("FID depends on the number of images, and on how the real ones are resized: here by Inception.")
    header = ["", measures[0].name if measures else "FID", judge.name]
    return f"{table(header, rows)}\n\n{notes(report, options, 30_000, texts)}"
