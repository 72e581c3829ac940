"""The page: all parts in one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffusers_esd import Erasure, Report
from diffusers_esd.evaluation.folder import Folder
from diffusers_esd.evaluation.page.page import Section, page
from diffusers_esd.evaluation.page.view import matrices_of
from diffusers_esd.evaluation.write import pictures_of, samples, section_of

from .parts import Part

_LEAD = (
    "emoji_sd is a Stable Diffusion of the real classes at 64 px that draws forty objects in five drawing styles. Its "
    "judge, a classifier that was trained on drawn emoji only, looks at every image. Every figure stands beside the "
    "base model's on the same prompts and seeds.",
    "The model is small: a text encoder of 77 words, and objects that are far apart. Figures of this page compare "
    "methods and settings; they say nothing about the size of an effect on a large model.",
)


def written(
    parts: Sequence[Part], reports: Sequence[Report], cache: Path, output: Path, command: str = "make report"
) -> str:
    """The page.

    Args:
        parts: The parts.
        reports: The report of each.
        cache: Where the erasures are.
        output: Where the images are.
        command: How the page is made.
    """
    sections = [_section(part, report, cache, output) for part, report in zip(parts, reports, strict=True)]
    title = "What is gone, what stayed, and what an attack brings back"
    return page(title, sections, lead=_LEAD, command=command, created=max(report.created for report in reports))


def _section(part: Part, report: Report, cache: Path, output: Path) -> Section:
    erasures: list[Erasure] = [] if part.matrix else [trained.read(cache) for trained in part.needs.values()]
    named = [replace(e, name=name) for name, e in zip(part.needs, erasures, strict=False)]
    asked = [] if part.matrix else samples(part.suite(erasures).everything)
    shown, pictures = pictures_of(report, asked, Folder(output / part.slug))
    section = section_of(report, shown, pictures, named, title=part.title, text=part.text)
    if not part.matrix:
        return section
    own = {column.name: column.erases[0] for column in report.columns if column.erases}
    matrices = matrices_of(report, "What is drawn", own)
    return replace(section, matrices=matrices, tiles=(), rows=())
