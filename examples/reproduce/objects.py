"""Table 2: ten classes of Imagenette, each erased by an ESD-u of its own, and what a classifier still recognises."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers_esd.cli.options import positive
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.judges.imagenet import EfficientNetLite0, ResNet50
from diffusers_esd.evaluation.prompt_sets import IMAGENETTE, imagenette
from diffusers_esd.evaluation.suite import Suite

from . import paper
from .command import add_experiment, device_of, judges_or, limited
from .experiment import Experiment, Measured, Training
from .tables import notes, percent, printed, table


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_experiment(commands, "objects", run, "Table 2: ten classes of Imagenette, each erased alone")
    parser.add_argument("--images", type=positive, default=500, help="images of each class (default: %(default)s)")
    add_classifier(parser)


def add_classifier(parser: Any) -> None:
    """Add the options of `classifier`."""
    text = "who recognises; efficientnet-lite0 comes with its weights, and is for trials (default: %(default)s)"
    parser.add_argument("--classifier", choices=("resnet50", "efficientnet-lite0"), default="resnet50", help=text)
    text = "torchvision's weights; the paper does not say which (default: %(default)s)"
    parser.add_argument("--tag", choices=("IMAGENET1K_V1", "IMAGENET1K_V2"), default="IMAGENET1K_V2", help=text)
    parser.add_argument("--classifier-weights", type=Path, metavar="FILE", help="its weights (default: look for them)")


def classifier(options: argparse.Namespace) -> Judge:
    """The judge that recognises the classes."""
    given = {"weights": options.classifier_weights, "device": device_of(options)}
    if options.classifier == "resnet50":
        return ResNet50(options.tag, allow_download=options.allow_download, **given)
    return EfficientNetLite0(**given)


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None) -> str:
    """Evaluate, and return the tables."""
    found = judges_or(judges, lambda: [classifier(options)])
    suite = Suite("objects", limited(imagenette(options.images), options), found)
    measured = Experiment(options, [Training(name, "esd-u") for name in IMAGENETTE]).measured(suite)
    erasing = {training.concept: method for method, training in measured.erasures.items()}
    missing = [name for name in IMAGENETTE if name not in erasing]
    facts = notes(measured.report, options, 5000, [f"No erasure of: {', '.join(missing)}."] if missing else [])
    return "\n\n".join([table_2(measured, erasing), "Rate of each class in percent:", matrix(measured), facts])


def table_2(measured: Measured, erasing: Mapping[str, str]) -> str:
    """The paper's table, the paper's figures beside ours.

    Args:
        measured: What was found.
        erasing: The method that erases a class, for each class that was erased.
    """
    base = measured.base
    header = ["erased class"]
    header += [
        f"{who}: {what}"
        for what in ("the class", "other classes")
        for who in ("paper, SD", base, "paper, ESD-u", "ours")
    ]
    rows, ours = [], []
    for name in IMAGENETTE:
        theirs, method = paper.OBJECTS[name], erasing.get(name)
        own = [of_class(measured, base, name), of_class(measured, method, name)]
        others = [of_others(measured, base, name), of_others(measured, method, name)]
        ours.append([own[0], own[1], others[0], others[1]])
        rows.append([name, *_beside(theirs, ours[-1])])
    whole = [row for row in ours if None not in row]
    average = [sum(column) / len(whole) for column in zip(*whole, strict=True)] if whole else [None] * 4
    label = "average" if len(whole) in (0, len(rows)) else f"average, ours of {len(whole)}"
    rows.append([label, *_beside(paper.OBJECTS_AVERAGE, average)])
    return table(header, rows)


def _beside(theirs: paper.Object, ours: Sequence[float | None]) -> list[str]:
    return [text for pair in zip(theirs, ours, strict=True) for text in map(printed, pair)]


def of_class(measured: Measured, method: str | None, name: str) -> float | None:
    """Rate of a class in percent; `None` if there is no such method."""
    return None if method is None else 100 * measured.row(name).figures[method].value


def of_others(measured: Measured, method: str | None, name: str) -> float | None:
    """Mean rate of the other nine classes in percent."""
    if method is None:
        return None
    rates = [100 * measured.row(other).figures[method].value for other in IMAGENETTE if other != name]
    return sum(rates) / len(rates)


def matrix(measured: Measured) -> str:
    """The rate of each class under each method, in percent, with its interval."""
    figures = [measured.row(name).figures for name in IMAGENETTE]
    rows = [[method, *(percent(rates.get(method)) for rates in figures)] for method in measured.report.methods]
    return table(["", *IMAGENETTE], rows)
