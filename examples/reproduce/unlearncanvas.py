"""UnlearnCanvas (arXiv:2402.11846): a model that was trained on 50 styles of 20 objects unlearns one of them.

The base model is the publisher's, a fine-tuned Stable Diffusion 1.5. Its training prompts for ESD are
"Van Gogh Style" and "An image of Dogs.", with the cross-attentions (ESD-x) for both.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from diffusers_esd.evaluation.folder import Folder
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.prompt_sets import CANVAS_OBJECTS, CANVAS_STYLES, unlearncanvas
from diffusers_esd.evaluation.prompts import PromptSet
from diffusers_esd.evaluation.suite import Suite
from diffusers_esd.evaluation.unlearn_canvas import Seen, ua_ira_cra

from . import paper
from .canvas import CanvasJudge
from .command import add_experiment, device_of, judges_or
from .experiment import Experiment, Training
from .tables import notes, printed, table

STYLES = tuple(style for style in CANVAS_STYLES if style != "Seed Images")


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_experiment(commands, "unlearncanvas", run, "UnlearnCanvas: UA, IRA and CRA of styles and objects")
    text = "a style or an object that --train erases; may be repeated (default: all 70)"
    parser.add_argument("--target", action="append", choices=(*STYLES, *CANVAS_OBJECTS), metavar="NAME", help=text)
    parser.add_argument("--style-weights", type=Path, metavar="FILE", help="style50.pth (default: look for it)")
    parser.add_argument("--object-weights", type=Path, metavar="FILE", help="style50_cls.pth (default: look for it)")


def training_of(target: str) -> Training:
    """The publisher's erasure of a style or an object."""
    concept = f"{target} Style" if target in STYLES else f"An image of {target}."
    return Training(concept, "esd-x", also=(target,))


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None) -> str:
    """Evaluate, and return the table.

    Args:
        options: Of the command; `--limit` takes that many styles and objects besides the targets.
        judges: One of styles and one of objects (question `"subject"`), instead of the publisher's.
    """
    found = judges_or(judges, lambda: _publishers(options))
    targets = {training_of(target): target for target in options.target or (*STYLES, *CANVAS_OBJECTS)}
    prompts = unlearncanvas() if options.limit is None else _some(options.limit, options.target or ())
    guidance = {"guidance_scale": 9.0, "num_inference_steps": 100}
    suite = Suite("unlearncanvas", prompts, found, options=guidance)
    measured = Experiment(options, list(targets)).measured(suite)
    unlearned = {method: targets[t] for method, t in {**measured.erasures, **measured.baselines}.items()}
    folder = Folder(options.output / "evaluation")
    seen = {method: _seen(folder, method, target, prompts, found) for method, target in unlearned.items()}
    rows = [[target, *_percents(ua_ira_cra(seen[method]))] for method, target in unlearned.items()]
    for kind, names in (("style", STYLES), ("object", CANVAS_OBJECTS)):
        images = [image for method, target in unlearned.items() if target in names for image in seen[method]]
        number = sum(target in names for target in unlearned.values())
        rows.append([f"mean of {number} {kind}s", *(_percents(ua_ira_cra(images)) if images else ["-"] * 3)])
        rows.append([f"paper, ESD, mean of {len(names)} {kind}s", *(printed(v, 2) for v in paper.UNLEARNCANVAS[kind])])
    texts = [
        "The publisher draws all images of a seed from one generator; here each has its own, of that seed.",
        "FID, time and memory of UnlearnCanvas are not measured.",
    ]
    return f"{table(['unlearned', 'UA', 'IRA', 'CRA'], rows)}\n\n{notes(measured.report, options, 5100, texts)}"


def _publishers(options: argparse.Namespace) -> list[Judge]:
    device = device_of(options)
    return [
        CanvasJudge("style", weights=options.style_weights, device=device),
        CanvasJudge("subject", weights=options.object_weights, device=device),
    ]


def _some(limit: int, targets: Sequence[str]) -> PromptSet:
    """The targets, and the first other styles and objects."""

    def chosen(names: Sequence[str]) -> list[str]:
        others = [name for name in names if name not in targets]
        return [name for name in names if name in targets] + others[:limit]

    return unlearncanvas(chosen(CANVAS_STYLES), chosen(CANVAS_OBJECTS))


def _seen(folder: Folder, method: str, target: str, prompts: PromptSet, judges: Sequence[Judge]) -> list[Seen]:
    """What the judges saw in each image of a method."""
    found = {judge.question: folder.read_findings(method, judge.name) for judge in judges}

    def label(question: Literal["style", "subject"], case: str) -> str:
        return next((finding.label for finding in (found[question] or {})[case]), "")

    return [
        Seen(target, p.labels["subject"], p.labels["style"], label("subject", p.case), label("style", p.case))
        for p in prompts
    ]


def _percents(values: Sequence[float]) -> list[str]:
    return [printed(100 * value, 2) for value in values]
