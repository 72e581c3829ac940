"""What the commands share: their options, and what those mean for prompts and judges."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffusers_esd.cli.model import add_model
from diffusers_esd.cli.options import SOURCE, add_command, checked, positive, with_scale
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.prompt_sets import first_of_each
from diffusers_esd.evaluation.prompts import PromptSet

from .experiment import BASELINES


def add_experiment(commands: Any, name: str, run: Callable[..., str], text: str) -> Any:
    """Add an experiment with the options that all have.

    Args:
        commands: The subparsers of `argparse`.
        name: Name of the command.
        run: Takes the options and, instead of its own, judges; returns the text to print.
        text: Its help.

    Returns:
        The parser of the command.
    """
    output = "folder of images, trained erasures, findings and report; what is there is not made again"
    parser = add_command(commands, name, run, text, output=output)
    add_model(parser)
    text = f"{SOURCE}, with its scale: no-cat=0.8; may be repeated (default: none)"
    parser.add_argument("--erasure", action="append", default=[], type=checked(with_scale), help=text)
    parser.add_argument(
        "--train", action="store_true", help="train what no --erasure erases, with the paper's settings"
    )
    text = "file with fields of ESDConfig and RunConfig that --train changes, .yaml or .json (default: none)"
    parser.add_argument("--config", type=Path, metavar="FILE", help=text)
    text = "the concept as negative prompt, or as Safe Latent Diffusion's text; may be repeated (default: none)"
    parser.add_argument("--baseline", action="append", default=[], choices=tuple(BASELINES), help=text)
    text = "only the first prompts of each group: a trial, whose figures do not compare with the paper's (default: all)"
    parser.add_argument("--limit", type=positive, metavar="N", help=text)
    parser.add_argument("--steps", type=positive, help="denoising steps (default: the pipeline's)")
    parser.add_argument("--batch-size", type=positive, default=8, help="images in one call (default: %(default)s)")
    parser.add_argument("--no-images", action="store_true", help="delete the images once they are judged")
    text = "download weights of judges and data sets from their publishers"
    parser.add_argument("--allow-download", action="store_true", help=text)
    return parser


def limited(prompts: PromptSet, options: argparse.Namespace) -> PromptSet:
    """The prompts, or the first of each group."""
    return prompts if options.limit is None else first_of_each(prompts, options.limit)


def device_of(options: argparse.Namespace) -> str:
    """Where judges compute: on the GPU of the pipeline, otherwise on the CPU."""
    import torch

    given = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    return given if given.startswith("cuda") else "cpu"


def judges_or(judges: Sequence[Judge] | None, make: Callable[[], Sequence[Judge]]) -> tuple[Judge, ...]:
    """The judges that were passed, or the experiment's own."""
    return tuple(make() if judges is None else judges)
