"""Table 1: FID and CLIP score on captions of COCO, guidance 7.5, with nudity erased."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffusers_esd.evaluation.folder import Folder
from diffusers_esd.evaluation.suite import Suite
from PIL import Image

from diffusers_esd.evaluation.distances import FID, SetMeasure
from diffusers_esd.evaluation.judges.base import Judge
from diffusers_esd.evaluation.judges.clip import CLIP, VIT_L_14, CLIPScore
from diffusers_esd.evaluation.judges.pixels import centre_crop
from diffusers_esd.evaluation.prompt_sets import coco
from diffusers_esd.evaluation.prompts import PromptSet
from diffusers_esd.evaluation.published import AUTHORS

from . import paper
from .command import (
    MISSING,
    Experiment,
    Training,
    add_experiment,
    device_of,
    judges_or,
    limited,
    notes,
    number,
    printed,
    table,
)

_ENDINGS = {".png", ".jpg", ".jpeg"}


def trainings() -> tuple[Training, ...]:
    """The paper's ESD-u and ESD-u-3."""
    return tuple(Training("nudity", "esd-u", {"eta": eta}, mark=f"esd-u-{eta:g}") for eta in (1.0, 3.0))


def add(commands: Any) -> None:
    """Add the command."""
    parser = add_experiment(commands, "fidelity", run, "Table 1: FID and CLIP score on captions of COCO")
    text = f"CSV file of captions, such as coco_30k.csv of {AUTHORS}/tree/main/data"
    parser.add_argument("--prompts", type=Path, required=True, help=text)
    text = "real images of COCO (val2014), for FID (default: no FID)"
    parser.add_argument("--real", type=Path, metavar="FOLDER", help=text)
    text = "FID's Inception network (default: look for it)"
    parser.add_argument("--inception", type=Path, metavar="FILE", help=text)
    parser.add_argument("--clip", default=VIT_L_14, help="folder or Hub id of the CLIP model (default: %(default)s)")


def run(options: argparse.Namespace, judges: Sequence[Judge] | None = None, distance: SetMeasure | None = None) -> str:
    """Evaluate, and return the table.

    Args:
        options: Of the command.
        judges: Instead of the CLIP score.
        distance: Instead of FID.
    """
    device = device_of(options)
    (judge,) = judges_or(
        judges, lambda: [CLIPScore(CLIP(options.clip, device=device, allow_download=options.allow_download))]
    )
    real = None if options.real is None else real_images(options.real)
    if real is not None and distance is None:
        distance = FID(weights=options.inception, allow_download=options.allow_download, device=device)
    prompts = limited(coco(options.prompts), options)
    suite = Suite("fidelity", prompts, (judge,))
    report, _ = Experiment(options, trainings()).measured(suite, keep_images=True)
    folder = Folder(options.output)
    measured = {
        method: MISSING
        if real is None or distance is None
        else printed(distance(real(), _drawn(folder, method, prompts)), 2)
        for method in report.methods
    }
    if options.no_images:
        folder.delete_images()
    rows = [[f"{name}, paper", printed(row.fid, 2), printed(row.clip, 4)] for name, row in paper.FIDELITY.items()]
    rows += [
        [method, measured[method], number(report.row("coco", judge=judge.name).figures.get(method), 4)]
        for method in report.methods
    ]
    header = ["", "FID" if distance is None else distance.name, "CLIP score"]
    return f"{table(header, rows)}\n\n{notes(report, options, 30_000, _texts(distance))}"


def _texts(distance: SetMeasure | None) -> list[str]:
    texts = ["The paper does not say of which CLIP its score is: only differences between rows can be compared."]
    if distance is not None:
        texts.append("Real images are cut to the square in their middle. FID depends on that, and on their number.")
    return texts


def real_images(folder: Path) -> Callable[[], Iterator[Image.Image]]:
    """The images of a folder, in the order of their names, cut to the square in their middle.

    Returns:
        A function that reads them anew.

    Raises:
        FileNotFoundError: If there is no image.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in _ENDINGS)
    if not files:
        raise FileNotFoundError(f"There is no image (.png, .jpg) in {folder}; the real images are COCO's val2014.")

    def read() -> Iterator[Image.Image]:
        for file in files:
            with Image.open(file) as image:
                side = min(image.size)
                yield centre_crop(image.convert("RGB"), side, side)

    return read


def _drawn(folder: Folder, method: str, prompts: PromptSet) -> Iterator[Image.Image]:
    for prompt in prompts:
        image = folder.read_image(method, prompt.case)
        if image is None:
            raise ValueError(f"The image of {prompt.case!r} is damaged; delete it, and it is drawn again.")
        yield image
