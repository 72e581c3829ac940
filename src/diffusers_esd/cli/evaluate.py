"""The command `evaluate`: what erasures do, beside the base model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .model import add_model, load_pipeline
from .options import SOURCE, add_command, checked, positive, prompt, read_erasures, with_scale

# As in `evaluation.suites` and `evaluation.judges.named`, which import PyTorch; a test compares them.
SUITES = ("quick", "objects", "styles", "nudity", "fidelity", "attack")
BASELINES = ("negative-prompt", "sld-medium", "sld-max", "uce")
_SETTINGS = {
    "quick": ("words", "unnamed"),
    "objects": ("images",),
    "styles": ("images",),
    "nudity": ("prompts",),
    "fidelity": ("prompts", "reference"),
    "attack": ("words", "attack_steps"),
}


def add_commands(commands: Any) -> None:
    """Add the command."""
    text = "draw the same prompts with and without erasures, judge the images, and write a report"
    parser = add_command(commands, "evaluate", _evaluate, text)
    add_model(parser)
    text = f"{SOURCE}, with its scale: no-cat=0.8 (default: 1); may be repeated, for several and all together"
    parser.add_argument("--erasure", action="append", required=True, type=checked(with_scale), help=text)
    text = "what is asked: quick (about any erasure), the paper's experiments, or an attack (default: %(default)s)"
    parser.add_argument("--suite", choices=SUITES, default="quick", help=text)
    text = "folder of images and report; an evaluation that was interrupted goes on there"
    parser.add_argument("-o", "--output", "--out", type=Path, required=True, help=text)
    text = "who judges: a name, see the documentation, or module:name; may be repeated (default: the suite's own)"
    parser.add_argument("--judge", action="append", help=text)
    text = "a further column: another way to keep the concepts out of images; may be repeated (default: none)"
    parser.add_argument("--baseline", action="append", choices=BASELINES, default=[], help=text)
    _add_settings(parser.add_argument_group("what is asked"))
    _add_drawing(parser.add_argument_group("how images are drawn"))


def _add_settings(group: Any) -> None:
    text = "quick, attack: another wording of the concept, such as a synonym; may be repeated (default: none)"
    group.add_argument("--words", action="append", type=prompt, help=text)
    text = "quick: a prompt that can show the concept and does not name it; may be repeated (default: two are found)"
    group.add_argument("--unnamed", action="append", type=prompt, help=text)
    text = (
        "objects: images of each class (default: 50; the paper has 500); styles: of each prompt (default: 1; paper: 4)"
    )
    group.add_argument("--images", type=positive, help=text)
    text = "attack: optimiser updates of Concept Inversion; the published attack has 5000 (default: 120)"
    group.add_argument("--attack-steps", type=positive, help=text)
    text = "nudity, fidelity: CSV file of the prompts (default: for nudity, those of I2P's publisher on the Hub)"
    group.add_argument("--prompts", type=Path, help=text)
    group.add_argument("--reference", type=Path, help="fidelity: folder of real images, for FID (default: no FID)")
    text = "let judges and prompts be downloaded (default: only what is on this computer)"
    group.add_argument("--allow-download", action="store_true", help=text)


def _add_drawing(group: Any) -> None:
    group.add_argument("--steps", type=positive, default=25, help="denoising steps (default: %(default)s)")
    text = "classifier-free guidance, where a prompt has none of its own (default: the pipeline's)"
    group.add_argument("--guidance-scale", type=float, help=text)
    text = "images in one call of the pipeline (default: %(default)s)"
    group.add_argument("--batch-size", type=positive, default=8, help=text)
    text = "damaged image files per method that are left out; more are an error (default: %(default)s)"
    group.add_argument("--tolerate-damaged", type=_count, default=0, metavar="N", help=text)
    group.add_argument("--no-images", action="store_true", help="delete the images at the end")


def _count(text: str) -> int:
    """A whole number, 0 or more; a `type` of `argparse`."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more; got {text!r}.")
    return int(text)


def _evaluate(options: argparse.Namespace) -> None:
    settings = _settings(options)
    from ..evaluation.folder import Folder

    Folder(options.output).check()
    erasures = read_erasures(options.erasure)
    from ..evaluation.evaluate import evaluate
    from ..evaluation.judges.named import judge_named
    from ..evaluation.suites import suite_named
    from ..report_table import table
    from ..training.launch import joined

    judges = [judge_named(name, allow_download=options.allow_download) for name in options.judge or ()] or None
    concepts = list(dict.fromkeys(concept for erasure in erasures for concept in erasure.provenance.concepts))
    settings = _for_concepts(settings, concepts)
    pipe = load_pipeline(options)
    drawing = {"num_inference_steps": options.steps, "guidance_scale": options.guidance_scale}
    report = evaluate(
        pipe,
        erasures,
        suite=suite_named(options.suite, pipe, list(erasures), judges, **settings),
        output_dir=options.output,
        methods=[_baseline(name, concepts) for name in options.baseline],
        options={name: value for name, value in drawing.items() if value is not None},
        batch_size=options.batch_size,
        tolerate_damaged=options.tolerate_damaged,
        keep_images=not options.no_images,
    )
    if joined(pipe.device).is_main:
        print(table(report))
        print(options.output / "report.html")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of the suite: those that were given, and whether judges may be downloaded.

    Raises:
        ValueError: If one is for another suite.
    """
    names = {name for names in _SETTINGS.values() for name in names}
    given = {name: getattr(options, name) for name in sorted(names) if getattr(options, name) is not None}
    for name in given:
        if name not in _SETTINGS[options.suite]:
            suites = " and ".join(suite for suite, own in _SETTINGS.items() if name in own)
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is for the suite {suites}, and --suite is {options.suite}.")
    return {**given, "allow_download": options.allow_download}


def _for_concepts(settings: dict[str, Any], concepts: list[str]) -> dict[str, Any]:
    """Wordings belong to a concept."""
    of_concept = {name for name in ("words", "unnamed") if name in settings}
    if of_concept and len(concepts) > 1:
        raise ValueError(
            f"--{sorted(of_concept)[0]} is about one concept, and the erasures have {', '.join(map(repr, concepts))}."
        )
    return {name: {concepts[0]: value} if name in of_concept else value for name, value in settings.items()}


def _baseline(name: str, concepts: list[str]) -> Any:
    from ..evaluation.baselines.closed_form import ClosedForm
    from ..evaluation.baselines.negative_prompt import NegativePrompt
    from ..evaluation.baselines.safe_latent_diffusion import SafeLatentDiffusion

    if name == "negative-prompt":
        return NegativePrompt(concepts)
    if name == "uce":
        return ClosedForm(concepts)
    return SafeLatentDiffusion(concepts, preset="max" if name == "sld-max" else "medium")
