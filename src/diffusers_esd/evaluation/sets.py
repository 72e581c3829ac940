"""Measures of sets of images, such as FID: all images of a method beside a set of reference.

The reference is a folder of real images, or the base model's images. Beside the base model's images, the base model
itself has the distance 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from ..report_rows import Estimate, Row
from .distances import SetMeasure
from .folder import Folder
from .suite import Suite

_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def of_sets(measure: SetMeasure, methods: Sequence[str], suite: Suite, folder: Folder) -> Row:
    """The row of a measure. It has no intervals.

    Args:
        measure: The measure.
        methods: The methods, the base model first.
        suite: Its prompts, and its folder of reference if it has one.
        folder: Where the images are.

    Raises:
        ValueError: If an image is damaged, or there are too few.
    """
    cases = [prompt.case for prompt in suite.prompts]

    def drawn(method: str) -> Iterator[Image.Image]:
        for case in cases:
            image = folder.read_image(method, case)
            if image is None:
                raise ValueError(f"The image {case!r} of {method!r} is damaged; delete it, and it is drawn again.")
            yield image

    def reference() -> Iterator[Image.Image]:
        return drawn(methods[0]) if suite.reference is None else _of_folder(suite.reference)

    measured = methods[1:] if suite.reference is None else methods
    distance_of = measure.beside(reference())
    n = len(cases)
    return Row(
        group=suite.prompts.name,
        concept="",
        judge=measure.name,
        label="" if suite.reference is None else "beside real images",
        measure="distance",
        better=measure.better,
        figures={method: Estimate(distance_of(drawn(method)), None, None, n, n) for method in measured},
    )


def check_reference(folder: Path) -> None:
    """Refuse a folder without images.

    Raises:
        FileNotFoundError: If it does not exist or contains no image.
    """
    if not folder.is_dir() or not _files(folder):
        raise FileNotFoundError(f"{folder} contains no images ({', '.join(_ENDINGS)}).")


def _of_folder(folder: Path) -> Iterator[Image.Image]:
    for file in _files(folder):
        with Image.open(file) as opened:
            yield opened.convert("RGB")


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in _ENDINGS)
