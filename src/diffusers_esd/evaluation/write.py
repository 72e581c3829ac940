"""The files of a report: `report.json`, `report.md`, `report.html` and, with pictures, `report.png`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from PIL.Image import Image

from ..erasure import Erasure
from ..files import whole, write_text
from ..gallery import is_explicit
from ..pictures.grid import grid
from ..report import PICTURE_NAME, REPORT_NAME, Report
from ..report_table import markdown
from .folder import Folder
from .page.page import Gallery, Section, curves_of_all, data_uri, facts_of, page, rows_of, tiles_of
from .page.view import Matrix, matrices_of
from .prompts import Prompt
from .suite import Suite

_OF_CONCEPT, _OF_OTHERS, _MOST, _SIDE = 2, 4, 16, 160
_HIDDEN = "Pictures are not shown, because a concept or a prompt is explicit. They are in the folder of the evaluation."


def write_report(report: Report, suite: Suite, folder: Folder, erasures: Sequence[Erasure]) -> Report:
    """Write all files of a report, and return it with its picture.

    Args:
        report: The report.
        suite: What was drawn.
        folder: Where the images are, and the files are written.
        erasures: Whose trainings are shown.
    """
    asked = suite.everything
    concepts = [*(c for column in report.columns for c in column.erases), *(prompt.concept for prompt in asked)]
    explicit = is_explicit([*concepts, *(prompt.text for prompt in asked)])
    shown, pictures = ([], {}) if explicit else pictures_of(report, samples(asked), folder)
    write_text(folder.path / REPORT_NAME, json.dumps(report.to_dict(), indent=1) + "\n")
    write_text(folder.path / "report.md", markdown(report))
    section = section_of(report, shown, pictures, erasures, hidden=_HIDDEN if explicit else "")
    lead = (f"Suite {report.suite}: {len(asked)} images of each method, from the same prompts and seeds.",)
    write_text(folder.path / "report.html", page(_title(report), [section], lead=lead, created=report.created))
    if not pictures:
        (folder.path / PICTURE_NAME).unlink(missing_ok=True)
        return report
    picture = grid([*pictures.items()], [_label(prompt) for prompt in shown], _SIDE)
    with whole(folder.path / PICTURE_NAME) as temporary:
        picture.save(temporary, format="PNG", optimize=True)
    return replace(report, picture=picture)


def section_of(
    report: Report,
    shown: Sequence[Prompt],
    pictures: dict[str, list[Image]],
    erasures: Sequence[Erasure],
    *,
    title: str = "",
    text: Sequence[str] = (),
    hidden: str = "",
) -> Section:
    """A report as a section of a page.

    Args:
        report: The report.
        shown: The prompts whose pictures are shown.
        pictures: Their images, by method; empty for none.
        erasures: Whose trainings are shown.
        title: Its heading.
        text: Paragraphs.
        hidden: Why there are no pictures.
    """
    rows = tuple((name, tuple(data_uri(image) for image in images)) for name, images in pictures.items())
    galleries = (Gallery("", tuple(map(_label, shown)), rows),) if rows else ()
    single = [row for row in report.rows if row.group == "named" and row.measure == "rate"]
    conflicts: tuple[Matrix, ...] = ()
    if len(single) > 1:
        own = {column.name: column.erases[0] for column in report.columns if len(column.erases) == 1}
        named = Report(suite=report.suite, columns=report.columns, rows=tuple(single), prompts={})
        conflicts = matrices_of(named, "Which erasure harms which concept", own)
    trainings = {e.name: (e.provenance, 1.0 if e.config is None else e.config.eta) for e in erasures}
    return Section(
        title=title,
        anchor="-".join(title.lower().split()) or "report",
        text=tuple(text),
        tiles=tiles_of(report),
        galleries=galleries,
        hidden=hidden,
        matrices=conflicts,
        rows=rows_of(report),
        curves=curves_of_all(trainings),
        facts=facts_of(report),
    )


def samples(prompts: Sequence[Prompt]) -> list[Prompt]:
    """A few prompts of every group: more of what is not erased, of which each is about something else.

    If they are too many, every group has fewer.
    """
    chosen: list[tuple[int, Prompt]] = []
    for key in dict.fromkeys((prompt.group, prompt.concept) for prompt in prompts):
        part = [prompt for prompt in prompts if (prompt.group, prompt.concept) == key]
        by_text = {prompt.text: prompt for prompt in reversed(part)}
        few = _OF_CONCEPT if key[1] else _OF_OTHERS
        chosen += enumerate(([*by_text.values()][::-1] if len(by_text) > 1 else part)[:few])
    first = sorted(range(len(chosen)), key=lambda i: chosen[i][0])[:_MOST]
    return [chosen[i][1] for i in sorted(first)]


def pictures_of(
    report: Report, prompts: Sequence[Prompt], folder: Folder
) -> tuple[list[Prompt], dict[str, list[Image]]]:
    """The prompts whose images are damaged under no method, and their images by method."""
    shown: list[Prompt] = []
    pictures: dict[str, list[Image]] = {}
    for prompt in prompts:
        images = {name: folder.read_image(name, prompt.case) for name in report.methods}
        if None not in images.values():
            shown.append(prompt)
            for name, image in images.items():
                pictures.setdefault(name, []).append(image)  # type: ignore[arg-type]
    return shown, pictures


def _label(prompt: Prompt) -> str:
    return f"{prompt.group}\n{prompt.text or 'the empty prompt'}"


def _title(report: Report) -> str:
    concepts = dict.fromkeys(concept for column in report.columns for concept in column.erases)
    if not concepts:
        return f"What {report.columns[0].record.get('model', 'the base model')} draws"
    return f"What is left of {', '.join(map(repr, concepts))}, and of everything else"
