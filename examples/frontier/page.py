"""The table and the plots of the frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log2

from .rates import Row

Table = Mapping[str, Mapping[str, Row]]
"""Rows by recipe and name, see `Ground.rows`."""

_COLOURS = ("#0a7d5a", "#c2410c", "#2563eb", "#a21caf", "#6b7280")
_DARK = ("#34d399", "#fb923c", "#60a5fa", "#e879f9", "#9ca3af")


def markdown(table: Table) -> str:
    """A line for each recipe and number of erasures."""
    lines = [
        "| recipe | erased together | erased | worst | listed | withheld | styles | unnamed | siblings | images |",
        "|---" * 10 + "|",
    ]
    for name, rows in table.items():
        for n, row in rows.items():
            unnamed = f"{row.unnamed.value:.3f} ({row.unnamed_of_base.value:.2f} of base)"
            kept = (row.listed, row.withheld, row.styles)
            images = f"{row.images // row.seeds} x {row.seeds}"
            cells = (name, n, row.erased, f"{row.worst:.2f}", *kept, unnamed, row.siblings, images)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def plot(table: Table, lines: Mapping[str, str], title: str, sizes: Sequence[int]) -> str:
    """An SVG with two panels: what is kept of listed and of withheld objects, by the number of erasures.

    It is readable on a light and a dark background, and on a phone: every line has its label at its end.

    Args:
        table: The rows.
        lines: Labels by recipe, at most five.
        title: What is shown.
        sizes: Numbers of erasures, each twice the one before.
    """
    if len(lines) > len(_COLOURS):
        raise ValueError(f"A plot has at most {len(_COLOURS)} lines, got {len(lines)}.")
    style = "".join(
        f".c{i}{{stroke:{light};fill:{light}}}.l{i}{{fill:{light}}}"
        f"@media(prefers-color-scheme:dark){{.c{i}{{stroke:{dark};fill:{dark}}}.l{i}{{fill:{dark}}}}}"
        for i, (light, dark) in enumerate(zip(_COLOURS, _DARK, strict=True))
    )
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 800" role="img" '
        f'font-family="system-ui,sans-serif" font-size="17"><title>{title}</title><style>'
        "text{fill:#1f2937;stroke:none}line{stroke:#9ca3af55}polyline{fill:none!important;stroke-width:3}"
        f"@media(prefers-color-scheme:dark){{text{{fill:#e5e7eb}}}}{style}</style>",
    ]
    for k, (field, heading) in enumerate((("listed", "preserved by name"), ("withheld", "in no list"))):
        parts += _panel(table, lines, field, f"other objects, {heading}, % of the base model", sizes, top=30 + 390 * k)
    return "\n".join([*parts, "</svg>\n"])


def _panel(
    table: Table, lines: Mapping[str, str], field: str, heading: str, sizes: Sequence[int], top: int
) -> list[str]:
    left, right, height = 46, 440, 280

    def x(n: str) -> float:
        return left + (right - left) * log2(int(n) / sizes[0]) / log2(sizes[-1] / sizes[0])

    def y(value: float) -> float:
        return top + 24 + height * (1 - min(value, 1.05) / 1.05)

    names = [str(n) for n in sizes]
    parts = [f'<text x="{left}" y="{top}" font-weight="600">{heading}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(share) + 6:.1f}" text-anchor="end">{100 * share:.0f}</text>')
    parts += [f'<text x="{x(n):.1f}" y="{y(0) + 26:.1f}" text-anchor="middle">{n}</text>' for n in names]
    parts.append(
        f'<text x="{(left + right) / 2}" y="{y(0) + 48:.1f}" text-anchor="middle">erasures active together</text>'
    )
    shown = {name: [(n, getattr(table[name][n], field)) for n in names if n in table.get(name, {})] for name in lines}
    labels = _spread({name: y(values[-1][1].value) for name, values in shown.items() if values})
    for i, name in enumerate(lines):
        if not shown[name]:
            continue
        points = " ".join(f"{x(n):.1f},{y(value.value):.1f}" for n, value in shown[name])
        parts.append(f'<polyline class="c{i}" points="{points}"/>')
        for n, value in shown[name]:
            ends = f'x1="{x(n):.1f}" x2="{x(n):.1f}" y1="{y(value.low):.1f}" y2="{y(value.high):.1f}"'
            parts.append(f'<line class="c{i}" style="stroke-width:1.5" {ends}/>')
            parts.append(f'<circle class="c{i}" cx="{x(n):.1f}" cy="{y(value.value):.1f}" r="4.5"/>')
        parts.append(f'<text class="l{i}" x="{right + 14}" y="{labels[name] + 6:.1f}">{lines[name]}</text>')
    return parts


def _spread(heights: Mapping[str, float], least: float = 21.0) -> dict[str, float]:
    """Heights of labels, moved down so that none covers another."""
    placed: dict[str, float] = {}
    last = float("-inf")
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        last = max(height, last + least)
        placed[name] = last
    return placed
