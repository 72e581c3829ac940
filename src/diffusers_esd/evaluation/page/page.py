"""`page`: sections as one HTML file that needs nothing else: pictures, styles and curves are in it."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from PIL.Image import Image, Resampling

from ...provenance import Provenance
from ...report import Report
from ...report_rows import short
from ...report_table import summary
from .view import Bars, Curve, Matrix, bars_of, curves_of

_SIDE = 256
_END = (
    "An adapter can be removed, and erasure is seldom complete. Figures of attacks here are lower bounds: an attack "
    "that inverts a picture without text is reported to recover 79 to 93 % of nudity against published methods "
    "(arXiv:2603.17828).",
)

Facts = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
"""Tables of names and values, each with a heading."""


@dataclass(frozen=True)
class Tile:
    """What says most about a method: titles and figures."""

    method: str
    figures: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side: labels of the columns, and a row for each method, as data URIs."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: Its heading.
        anchor: Its name in links.
        text: Paragraphs.
        tiles: What says most about each method.
        galleries: Pictures.
        hidden: Why there are no pictures.
        matrices: Rates by method and by what was asked.
        rows: Bars.
        curves: Of trainings.
        facts: How it was made.
    """

    title: str = ""
    anchor: str = "report"
    text: tuple[str, ...] = ()
    tiles: tuple[Tile, ...] = ()
    galleries: tuple[Gallery, ...] = ()
    hidden: str = ""
    matrices: tuple[Matrix, ...] = ()
    rows: tuple[Bars, ...] = ()
    curves: tuple[Curve, ...] = ()
    facts: Facts = ()


def page(
    title: str, sections: Sequence[Section], *, lead: Sequence[str] = (), command: str = "", created: str = ""
) -> str:
    """The page.

    Args:
        title: Its heading.
        sections: Its parts.
        lead: Paragraphs at the beginning.
        command: How it was made, for the reader to repeat.
        created: Date.
    """
    from jinja2 import Environment

    template = files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    values = {"title": title, "sections": sections, "lead": lead, "command": command, "created": created, "end": _END}
    return environment.from_string(template).render(**values)


def data_uri(image: Image, side: int = _SIDE) -> str:
    """An image as the source of an `img`: small ones as they are, larger ones at most so many pixels wide."""
    image = image.convert("RGB")
    if image.width > side:
        image = image.resize((side, round(image.height * side / image.width)), Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=88, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def tiles_of(report: Report) -> tuple[Tile, ...]:
    """A tile for each method but the base model: its figures beside the base model's."""
    base = report.methods[0]
    tiles = []
    for method in report.methods[1:]:
        figures = [
            (
                title,
                " → ".join(
                    short(row.figures[name].value, row.measure) for name in (base, method) if name in row.figures
                ),
            )
            for title, row in summary(report, method).items()
        ]
        tiles.append(Tile(method, tuple(figures)))
    return tuple(tiles)


def rows_of(report: Report, methods: Sequence[str] | None = None) -> tuple[Bars, ...]:
    """Bars of every row."""
    return tuple(bars_of(report, row, methods) for row in report.rows)


def curves_of_all(trainings: Mapping[str, tuple[Provenance, float]]) -> tuple[Curve, ...]:
    """Loss and alignment of trainings, by name, each with its eta."""
    return tuple(curve for name, (record, eta) in trainings.items() for curve in curves_of(name, record.history, eta))


def facts_of(report: Report) -> Facts:
    """Everything that is needed to repeat a report."""
    groups = [(name, text) for name, text in report.groups.items() if any(row.group == name for row in report.rows)]
    tables: list[tuple[str, Sequence[tuple[str, object]]]] = [
        ("Groups of prompts", groups),
        ("Notes", [(str(i + 1), note) for i, note in enumerate(report.notes)]),
        ("Prompts", list(report.prompts.items())),
        ("Images", list(report.options.items())),
        *[(f"Method: {column.name}", list(column.record.items())) for column in report.columns],
        *[(f"Judge: {name}", list(record.items())) for name, record in report.judges.items()],
        *[(f"Attack: {name}", list(record.items())) for name, record in report.attacks.items()],
        ("Versions", list(report.versions.items())),
    ]
    return tuple(
        (heading, tuple((name, str(value)) for name, value in entries)) for heading, entries in tables if entries
    )
