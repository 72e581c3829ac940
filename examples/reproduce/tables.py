"""How figures are printed: tables in Markdown, and what a reader of them must know."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from diffusers_esd.report import Report
from diffusers_esd.report_rows import Estimate

MISSING = "-"
"""What a table shows where nothing was measured."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(estimate: Estimate | None) -> str:
    """A rate in percent, with its interval."""
    return _shown(estimate, lambda value: f"{100 * value:.1f}")


def number(estimate: Estimate | None, digits: int = 0) -> str:
    """A number, with its interval."""
    return _shown(estimate, partial(_rounded, digits))


def printed(value: float | None, digits: int = 1) -> str:
    """A number of the paper."""
    return MISSING if value is None else _rounded(digits, value)


def _rounded(digits: int, value: float) -> str:
    return f"{value:.{digits}f}"


def _shown(estimate: Estimate | None, show: Callable[[float], str]) -> str:
    if estimate is None:
        return MISSING
    if estimate.low is None or estimate.high is None:
        return show(estimate.value)
    return f"{show(estimate.value)} ({show(estimate.low)} to {show(estimate.high)})"


def notes(report: Report, options: argparse.Namespace, full: int, texts: Sequence[str] = ()) -> str:
    """What a reader of the tables must know."""
    judged = report.prompts["prompts"]
    facts = [f"{judged} images of each method." + ("" if judged == full else f" The whole experiment has {full}.")]
    facts += [": ".join(filter(None, [name, _record(record)])) for name, record in report.judges.items()]
    facts += [*report.notes, *texts, f"Report: {options.output / 'evaluation' / 'report.json'}"]
    return "\n".join(f"- {fact}" for fact in facts)


def _record(record: Mapping[str, Any]) -> str:
    """The short values of a judge's record."""
    return ", ".join(f"{key} {value}" for key, value in record.items() if isinstance(value, str | int | float))
