"""A report as text: a table in Markdown with a bar beside each figure, for cards and `report.md`.

The bars are characters, so that they are there wherever Markdown is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

from .report import Report
from .report_rows import Row

_WIDTH, _LIST = 10, 4


def table(report: Report) -> str:
    """A line for each row, a column for each method.

    Args:
        report: The report.
    """
    names = [_cell(name) for name in report.methods]
    lines = ["| | " + " | ".join(names) + " | images |", "|---" * (len(names) + 2) + "|"]
    for row in report.rows:
        figures = [row.figures.get(name) for name in report.methods]
        highest = _highest(row)
        cells = [
            "" if figure is None else f"{bar(figure.value / highest)} {figure.shown(row.measure)}" for figure in figures
        ]
        counts = {f"{figure.judged} of {figure.expected}" for figure in figures if figure is not None}
        lines.append("| " + " | ".join([_cell(_title(row)), *cells, ", ".join(sorted(counts))]) + " |")
    return "\n".join(lines)


def markdown(report: Report) -> str:
    """The whole report in Markdown."""
    prompts = report.prompts
    facts = [
        f"- Prompts: {prompts.get('prompts')}, {prompts.get('source') or prompts.get('name')}"
        + (f", licence {prompts['licence']}" if prompts.get("licence") else ""),
        *[f"- Judge: {name}, {_facts(record)}" for name, record in report.judges.items()],
        *[f"- Attack: {name}, {_facts(record)}" for name, record in report.attacks.items()],
        f"- Images: {_facts(report.options) or 'as the pipeline draws them'}",
        f"- Versions: {_facts(report.versions)}",
    ]
    groups = [f"- **{name}**: {text}" for name, text in report.groups.items() if _is_in(report, name)]
    notes = [f"- {note}" for note in report.notes]
    parts = [
        f"# Evaluation, suite {report.suite}\n",
        table(report),
        "\nIntervals are of 95 %. Every method draws the same prompts from the same seeds.\n",
        "\n".join(groups),
        "\n## Notes\n\n" + "\n".join(notes) if notes else "",
        "\n## How it was made\n\n" + "\n".join(facts),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def bar(share: float) -> str:
    """A bar of characters for a share from 0 to 1."""
    filled = round(_WIDTH * min(max(share, 0.0), 1.0))
    return "█" * filled + "░" * (_WIDTH - filled)


def _highest(row: Row) -> float:
    """What a full bar means: 1 for a rate, otherwise the largest figure."""
    largest = max((abs(figure.value) for figure in row.figures.values()), default=0.0)
    return 1.0 if row.measure == "rate" else largest or 1.0


def _title(row: Row) -> str:
    kind = {"rate": "", "mean": ", mean", "count": ", number", "distance": ", distance"}[row.measure]
    return f"{row.title} ({row.judge}{kind})"


def _is_in(report: Report, group: str) -> bool:
    return any(row.group == group for row in report.rows)


def _facts(record: object) -> str:
    if not isinstance(record, dict):
        return str(record)
    return ", ".join(f"{key} {_short(value)}" for key, value in record.items())


def _short(value: object) -> str:
    if isinstance(value, list | tuple) and len(value) > _LIST:
        return f"{len(value)} values"
    text = value if isinstance(value, str) else str(value)
    return text[:12] if isinstance(value, str) and len(text) == 64 else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def summary(report: Report, method: str) -> dict[str, Row]:
    """The rows that say most about a method: rates of its own concepts, and of what must stay.

    Args:
        report: The report.
        method: Name of the method.

    Returns:
        Rows by title, `"named: a cat"`; with the judge if there are several.
    """
    erases: Sequence[str] = next(column.erases for column in report.columns if column.name == method)
    rates = [row for row in report.rows if row.measure == "rate" and method in row.figures]
    own = [row for row in rates if not row.concept or row.concept in erases]
    several = len({row.judge for row in own}) > 1
    return {f"{row.title} ({row.judge})" if several else row.title: row for row in own}
