"""MACE's protocol of celebrities (arXiv:2403.06135): many are erased together, and others should stay.

Its prompts are under a non-commercial licence and are not here; its judge is GIPHY's detector (`faces.py`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers_esd.evaluation.aggregates import harmonic_mean
from diffusers_esd.evaluation.folder import Folder
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.prompt_sets import celebrities
from diffusers_esd.evaluation.prompts import PromptSet
from diffusers_esd.evaluation.suite import Suite

from . import paper
from .command import add_experiment, judges_or, limited
from .experiment import Experiment, Training
from .faces import Faces
from .tables import MISSING, notes, printed, table


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_experiment(commands, "celebrities", run, "MACE's celebrities, erased together")
    text = "CSV file of MACE, prompts_csv/celebrity_10_concepts.csv or another; its licence is non-commercial"
    parser.add_argument("--prompts", type=Path, required=True, help=text)
    text = "clone of GIPHY's celeb-detection-oss, with its weights"
    parser.add_argument("--detector", type=Path, metavar="FOLDER", help=text)
    parser.add_argument(
        "--detector-python", type=Path, metavar="FILE", help="the Python that the detector is installed in"
    )


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None) -> str:
    """Evaluate, and return the table."""
    prompts = limited(celebrities(options.prompts), options)
    found = judges_or(judges, lambda: [Faces(options.detector, options.detector_python)])
    names = list(dict.fromkeys(prompt.concept for prompt in prompts if prompt.concept))
    trainings = [Training(name, "esd-x") for name in names]
    suite = Suite("celebrities", prompts, found)
    report = Experiment(options, trainings, are_together=True).measured(suite).report
    if isinstance(found[0], Faces):
        found[0].close()
    folder = Folder(options.output / "evaluation")
    rows = [[method, *_figures(folder, method, prompts, found[0])] for method in report.methods]
    rows += [
        [f"{name}, {number} erased", *[MISSING] * 2, printed(value), MISSING]
        for name, values in paper.CELEBRITIES.items()
        for number, value in values.items()
        if number == len(names)
    ]
    texts = [
        "Accuracy is of the images in which a face is found, as MACE counts it. H is the harmonic mean of 100 minus "
        "the accuracy of the erased, and the accuracy of the others.",
        "The printed values are SPEED's, of other methods; ESD is not among them.",
    ]
    header = ["", "erased, accuracy", "others, accuracy", "H", "images without a face"]
    return f"{table(header, rows)}\n\n{notes(report, options, len(celebrities(options.prompts)), texts)}"


def _figures(folder: Folder, method: str, prompts: PromptSet, judge: Judge) -> list[str]:
    findings = folder.read_findings(method, judge.name) or {}
    with_face = [prompt for prompt in prompts if findings[prompt.case]]
    accuracies = []
    for is_erased in (True, False):
        hits = [
            any(f.label == prompt.labels[judge.question] for f in findings[prompt.case])
            for prompt in with_face
            if bool(prompt.concept) == is_erased
        ]
        accuracies.append(100 * sum(hits) / len(hits) if hits else None)
    erased, others = accuracies
    h = None if erased is None or others is None else harmonic_mean([100 - erased, others])
    return [printed(erased), printed(others), printed(h), str(len(prompts) - len(with_face))]
