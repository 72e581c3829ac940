"""The commands that make one thing of several erasures: scales, an erasure, a recipe, a pipeline."""

from __future__ import annotations

import argparse
from typing import Any

from .model import add_model, load_pipeline, load_stored_pipeline
from .options import (
    adapter_name,
    add_command,
    add_erasures,
    add_output,
    check_output,
    positive,
    read_erasures,
    save,
)


def add_commands(commands: Any) -> None:
    """Add the commands."""
    text = "find the smallest scales of erasures together, and write them as a recipe"
    calibrate = add_command(commands, "calibrate", _calibrate, text, output="file, .json, or folder")
    add_model(calibrate)
    add_erasures(calibrate)

    text = "train several erasures on, as one"
    refine = add_command(commands, "refine", _refine, text)
    add_output(refine)
    add_model(refine)
    add_erasures(refine)
    refine.add_argument("--iterations", type=positive, default=200, help="optimiser updates (default: %(default)s)")
    refine.add_argument("--rank", type=positive, help="rank of the result (default: the sum of their ranks)")
    refine.add_argument("--name", type=adapter_name, help="name of the result (default: made from the concepts)")

    merge = add_command(commands, "merge", _merge, "make one erasure of several")
    add_output(merge)
    add_erasures(merge)
    merge.add_argument("--rank", type=positive, help="the best approximation of this rank (default: exact)")
    merge.add_argument("--name", type=adapter_name, help="name of the result (default: made from their names)")

    text = "write a pipeline with erasures in its weights"
    bake = add_command(commands, "bake", _bake, text, output="new folder for the pipeline")
    add_model(bake, stored=True)
    add_erasures(bake)

    text = "write a recipe, stack.json: saved erasures and their scales"
    add_erasures(add_command(commands, "recipe", _recipe, text, output="file, .json, or folder"))


def _calibrate(options: argparse.Namespace) -> None:
    from ..stacks.calibrate import calibrate
    from ..stacks.recipe import Recipe, check_file

    check_file(options.output)
    given = _given_scales(options)
    read_erasures(options.erasures)  # for their errors, before the model is loaded
    scales = calibrate(load_pipeline(options), given)
    for source, scale in scales.items():
        print(f"{source}={scale:.3f}")
    print(Recipe.of(scales).save(options.output))


def _refine(options: argparse.Namespace) -> None:
    from ..stacks.refine import refine
    from ..training.launch import joined

    check_output(options)
    erasures, fields = read_erasures(options.erasures), {"rank": options.rank, "name": options.name}
    pipe = load_pipeline(options)
    erasure = refine(pipe, erasures, iterations=options.iterations, **fields)
    joined(pipe.device).from_main(lambda: save(erasure, options))
    if not erasure.provenance.complete:
        raise KeyboardInterrupt


def _merge(options: argparse.Namespace) -> None:
    from ..stacks.merge import merge

    check_output(options)
    save(merge(read_erasures(options.erasures), rank=options.rank, name=options.name), options)


def _bake(options: argparse.Namespace) -> None:
    from ..stacks.bake import bake, check_new

    check_new(options.output)
    erasures = read_erasures(options.erasures)
    bake(load_stored_pipeline(options), erasures, save_to=options.output)
    print(options.output)


def _recipe(options: argparse.Namespace) -> None:
    from ..stacks.recipe import Recipe

    print(Recipe.of(_given_scales(options)).save(options.output))


def _given_scales(options: argparse.Namespace) -> dict[str, float]:
    """Scales by source."""
    scales: dict[str, float] = dict(options.erasures)
    if len(scales) < len(options.erasures):
        raise ValueError("An erasure is given twice; give it once, with the sum of its scales.")
    return scales
