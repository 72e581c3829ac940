"""What the page shows of a report: bars in percent of their scale, matrices, curves. The template only lays it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ...report import Report
from ...report_rows import Estimate, Row

Aim = Literal["gone", "kept", "base", ""]


@dataclass(frozen=True)
class Bar:
    """One figure of a row.

    Attributes:
        method: Name of the method.
        text: The figure and its interval.
        share: Length, in percent of the row's scale.
        low: Lower end of the interval, in percent; `None` if there is none.
        high: Upper end.
        aim: Whether the method should bring the figure down (`"gone"`), leave it (`"kept"`), or neither.
    """

    method: str
    text: str
    share: float
    low: float | None
    high: float | None
    aim: Aim


@dataclass(frozen=True)
class Bars:
    """A row of a report.

    Attributes:
        title: The row.
        note: Judge, measure, number of images.
        bars: Its figures.
    """

    title: str
    note: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Cell:
    """A figure of a matrix; `share` is from 0 to 1, `None` if nothing was measured."""

    share: float | None
    text: str
    own: bool


@dataclass(frozen=True)
class Matrix:
    """Rates by method (rows) and by what was asked for (columns)."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


@dataclass(frozen=True)
class Curve:
    """Loss or alignment over a training, as points of an SVG of 100 by 40."""

    title: str
    points: str
    levels: tuple[tuple[str, float], ...]
    last: str


def bars_of(report: Report, row: Row, methods: Sequence[str] | None = None) -> Bars:
    """The bars of a row."""
    names = [name for name in methods or report.methods if name in row.figures]
    figures = {name: row.figures[name] for name in names}
    top = 1.0 if row.measure == "rate" else max([figure.high or figure.value for figure in figures.values()] + [1e-12])
    erases = {column.name: column.erases for column in report.columns}
    bars = [
        Bar(
            method=name,
            text=figure.shown(row.measure),
            share=_percent(figure.value, top) or 0.0,
            low=_percent(figure.low, top),
            high=_percent(figure.high, top),
            aim=_aim(row, name == report.methods[0], erases[name]),
        )
        for name, figure in figures.items()
    ]
    return Bars(row.title, _note(row, list(figures.values())), tuple(bars))


def _percent(value: float | None, top: float) -> float | None:
    return None if value is None else round(100 * min(max(value / top, 0.0), 1.0), 2)


def _aim(row: Row, is_base: bool, erases: Sequence[str]) -> Aim:
    if is_base:
        return "base"
    if not row.concept and row.measure != "count" and row.better == "lower":
        return "kept"  # such as FID: low is good, and nothing should be gone
    return {"lower": "gone", "higher": "kept", "": ""}[row.is_better(erases)]  # type: ignore[return-value]


def _note(row: Row, figures: Sequence[Estimate]) -> str:
    kind = {"rate": "share of images", "mean": "mean", "count": "number", "distance": "distance"}[row.measure]
    judged, expected = {f.judged for f in figures}, {f.expected for f in figures}
    counts = f"{min(judged)} images" if judged == expected else f"{min(judged)} of {max(expected)} images"
    return f"{kind}, {row.judge}, {counts} each"


def matrix_of(report: Report, title: str, own: Mapping[str, str]) -> Matrix:
    """The rate of everything that is asked for, under every method.

    Args:
        report: The report; rows of one concept and rows by label both count. If several ask for the same, the rate is
            of all their images.
        title: Of the matrix.
        own: What each method erases, as a label; these cells are marked.
    """
    figures: dict[str, dict[str, Estimate]] = {}
    for row in report.rows:
        if row.measure == "rate":
            for label, by_method in (row.by_label or {row.concept or row.title: row.figures}).items():
                pooled = figures.setdefault(label, {})
                for method, figure in by_method.items():
                    pooled[method] = _pooled(pooled[method], figure) if method in pooled else figure
    rows = [
        (
            method,
            tuple(_cell(by_method.get(method), own=own.get(method) == label) for label, by_method in figures.items()),
        )
        for method in report.methods
    ]
    return Matrix(title, tuple(figures), tuple(rows))


def matrices_of(report: Report, title: str, own: Mapping[str, str]) -> tuple[Matrix, ...]:
    """A matrix for each judge that has rates.

    Args:
        report: The report.
        title: Of the matrices; if there are several, with the name of the judge.
        own: What each method erases, as a label.
    """
    judges = list(dict.fromkeys(row.judge for row in report.rows if row.measure == "rate"))
    return tuple(
        matrix_of(
            replace(report, rows=tuple(row for row in report.rows if row.judge == judge)),
            f"{title} ({judge})" if len(judges) > 1 else title,
            own,
        )
        for judge in judges
    )


def _pooled(a: Estimate, b: Estimate) -> Estimate:
    """The rate of the images of both; it has no interval."""
    judged = a.judged + b.judged
    value = (a.value * a.judged + b.value * b.judged) / judged
    return Estimate(value, None, None, judged, a.expected + b.expected)


def _cell(figure: Estimate | None, *, own: bool) -> Cell:
    return Cell(None, "", own) if figure is None else Cell(round(figure.value, 3), str(figure), own)


def curves_of(name: str, history: Sequence[tuple[float, float]], eta: float) -> tuple[Curve, ...]:
    """Loss and alignment of a training.

    Args:
        name: Of the erasure.
        history: Loss and alignment of each iteration.
        eta: The alignment's scale is from 1 (intact) to -eta (the target), in every figure.
    """
    if len(history) < 2:
        return ()
    losses, alignments = zip(*history, strict=True)
    top = max(losses) or 1.0
    levels = (("intact", 1.0), ("0", 0.0), ("target", -eta))
    return (
        Curve(f"{name}: loss", _points(losses, 0.0, top), (), f"{losses[-1]:.2g}"),
        Curve(
            f"{name}: alignment",
            _points(alignments, -eta, 1.0),
            tuple((label, _height(level, -eta, 1.0)) for label, level in levels),
            f"{alignments[-1]:.2f}",
        ),
    )


def _points(values: Sequence[float], low: float, high: float) -> str:
    """At most 200 points: the mean of as many iterations as there are in one."""
    each = -(-len(values) // 200)
    means = [sum(values[i : i + each]) / len(values[i : i + each]) for i in range(0, len(values), each)]
    last = max(1, len(means) - 1)
    return " ".join(f"{100 * i / last:.1f},{_height(value, low, high):.1f}" for i, value in enumerate(means))


def _height(value: float, low: float, high: float) -> float:
    return round(40 * (1 - (min(max(value, low), high) - low) / (high - low or 1.0)), 2)
