"""`figure` and `markdown`: the mean rating of each condition, as an SVG and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .mean import DRAWS, Mean
from .ratings import HIGHEST, LOWEST

_WIDTH, _TOP, _ROW, _LETTER = 280, 44, 34, 8.5  # units of the SVG: the axis, its top, a row, a letter
_STYLE = (
    "text{fill:#1f2937}.quiet{fill:#5b6472}.grid{stroke:#9ca3af;stroke-opacity:.35}"
    ".own{stroke:#1f5fa8;fill:#1f5fa8}.paper{stroke:#b45309;fill:none;stroke-width:2}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.quiet{fill:#a3acb9}.own{stroke:#7db4f0;fill:#7db4f0}"
    ".paper{stroke:#fbbf24}}"
)


def markdown(means: Sequence[Mean]) -> str:
    """A table with a row for each condition, and below it what the interval is.

    Args:
        means: At least one, from `means`.
    """
    lines = ["| condition | mean | 95 % interval | ratings | pictures | paper |", "|---" * 6 + "|"]
    for each in means:
        bounds = "-" if each.interval is None else f"{each.interval[0]:.2f} to {each.interval[1]:.2f}"
        published = "-" if each.published is None else f"{each.published:.2f}"
        name = each.condition.replace("|", "\\|")
        lines.append(f"| {name} | {each.mean:.2f} | {bounds} | {each.ratings} | {each.pictures} | {published} |")
    lines += [
        "",
        f"{_participants(means)}. The interval is a percentile bootstrap of participants and pictures, {DRAWS} draws.",
        "`paper` is the mean in Gandikota et al. 2023, of other participants and pictures.",
    ]
    return "\n".join(lines) + "\n"


def figure(means: Sequence[Mean]) -> str:
    """An SVG: for each condition a dot at the mean, a line for the interval, and a diamond at the paper's mean.

    It is readable on a light and on a dark background.

    Args:
        means: At least one, from `means`.
    """
    bottom = _TOP + _ROW * len(means)
    margin = max(120.0, 40 + _LETTER * max(len(each.condition) for each in means))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {margin + _WIDTH + 90:g} {bottom + 88}" role="img" '
        'font-family="system-ui,sans-serif" font-size="16"><title>Mean rating of each condition</title>'
        f"<style>{_STYLE}</style>",
        f'<text x="16" y="28" font-weight="600">Mean rating, {_participants(means)}</text>',
        *_axis(margin, bottom),
    ]
    for i, each in enumerate(means):
        parts += _row(each, margin, _TOP + _ROW * i + _ROW / 2)
    return "\n".join([*parts, *_legend(means, bottom + 74), "</svg>\n"])


def _axis(margin: float, bottom: float) -> list[str]:
    """A line down for each rating, with its number, and a name at both ends."""
    names = {LOWEST: "1 certainly not", HIGHEST: "5 certainly"}
    parts = []
    for rating in range(LOWEST, HIGHEST + 1):
        x, name = _x(margin, rating), names.get(rating, str(rating))
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="quiet" x="{x}" y="{bottom + 22}" text-anchor="middle" font-size="14">{name}</text>')
    return parts


def _row(mean: Mean, margin: float, y: float) -> list[str]:
    """Name, interval, dot, number, and the paper's diamond."""
    x = _x(margin, mean.mean)
    parts = [f'<text x="{margin - 20:g}" y="{y + 5:g}" text-anchor="end">{escape(mean.condition)}</text>']
    if mean.interval is not None:
        low, high = (_x(margin, bound) for bound in mean.interval)
        parts.append(f'<line class="own" stroke-width="3" x1="{low}" x2="{high}" y1="{y:g}" y2="{y:g}"/>')
    parts.append(f'<circle class="own" cx="{x}" cy="{y:g}" r="5.5"/>')
    if mean.published is not None:
        parts.append(_diamond(_x(margin, mean.published), y))
    parts.append(f'<text x="{margin + _WIDTH + 30:g}" y="{y + 5:g}">{mean.mean:.2f}</text>')
    return parts


def _legend(means: Sequence[Mean], y: float) -> list[str]:
    parts = [
        f'<line class="own" stroke-width="3" x1="16" x2="44" y1="{y - 5:g}" y2="{y - 5:g}"/>',
        f'<circle class="own" cx="30" cy="{y - 5:g}" r="5.5"/>',
        f'<text class="quiet" x="52" y="{y:g}" font-size="14">mean, 95 % interval</text>',
    ]
    if any(each.published is not None for each in means):
        parts.append(_diamond(230, y - 5))
        parts.append(f'<text class="quiet" x="246" y="{y:g}" font-size="14">mean in Gandikota et al. 2023</text>')
    return parts


def _diamond(x: float, y: float) -> str:
    return f'<path class="paper" d="M{x:g} {y - 7:g}l7 7l-7 7l-7 -7z"/>'


def _x(margin: float, rating: float) -> float:
    return round(margin + _WIDTH * (rating - LOWEST) / (HIGHEST - LOWEST), 1)


def _participants(means: Sequence[Mean]) -> str:
    participants, pictures = means[0].participants, sum(each.pictures for each in means)
    return f"{_counted(participants, 'participant')}, {_counted(pictures, 'picture')}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
