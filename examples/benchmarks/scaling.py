"""What the default training costs against its number of updates, concepts, rank, size of images, batch and processes.

One of them changes at a time. The others are those of `BASE`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import nan
from pathlib import Path
from statistics import mean, median
from typing import Any

from emoji_sd import OBJECTS, phrase

from . import processes
from .speed import Cost, cost

BASE = {"rank": 16, "batch_size": 1, "num_inference_steps": 25}
UPDATES = 15  # that are timed
AXES: dict[str, tuple[float, ...]] = {
    "updates": (25, 50, 100, 200),
    "concepts": (1, 2, 4, 8, 16),
    "rank": (4, 8, 16, 32, 64),
    "size": (0.5, 1, 1.5, 2),  # of the model's own
    "batch": (1, 2, 4, 8),
    "processes": (1, 2),
}

_INK, _LINES = "#010203", ("#010204", "#010205")  # replaced in the SVG
_STYLE = (
    ":root{--ink:#1f2937;--seconds:#2563eb;--memory:#c2410c}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e5e7eb;--seconds:#60a5fa;--memory:#fb923c}}"
)


@dataclass(frozen=True)
class Point:
    """A training that was measured.

    Attributes:
        axis: What changes, see `AXES`.
        value: Its value.
        updates: Optimiser updates that were timed.
        cost: What they cost.
    """

    axis: str
    value: float
    updates: int
    cost: Cost

    @property
    def states_per_second(self) -> float:
        """Training states in all processes."""
        return self.value / self.cost.median

    @property
    def seconds(self) -> float:
        """Of the whole training along the axis `updates`, of one update along the others."""
        whole = self.cost.set_up + self.updates * self.cost.median
        return whole if self.axis == "updates" else self.cost.median


Measure = Callable[..., Cost]
"""Calls `speed.cost`, perhaps in another process."""


def together(model: str, device: str, n: int) -> Cost:
    """An update of n processes of batch 1, on a CPU of one thread each. The memory is not measured."""
    options = {"model": model, "device": device, "batch_size": 1, "updates": UPDATES, "threads": 1}
    deltas, _ = processes.run(n, options, "default", together=True)
    return Cost(nan, mean(deltas), nan, 0, median=median(deltas))


def points(model: str, device: str, group: str, own_size: int, measure: Measure = cost) -> Iterator[Point]:
    """Measure every value of every axis.

    Args:
        model: Name in `models.NAMES`.
        device: `"cpu"` or `"cuda"`.
        group: Which layers train.
        own_size: Height and width of the model's images in pixels.
        measure: How to call `speed.cost`.
    """
    for axis, values in AXES.items():
        for value in values:
            change = {"size": {"size": int(own_size * value)}, "rank": {"rank": value}, "batch": {"batch_size": value}}
            fields = {**BASE, "group": group, **change.get(axis, {})}
            updates = int(value) if axis == "updates" else UPDATES
            concepts = [phrase(word) for word in OBJECTS[: int(value) if axis == "concepts" else 1]]
            call = partial(measure, model, "ours, default", device, fields, updates, concepts)
            if axis == "processes":
                call = partial(together, model, device, int(value))
            yield Point(axis, value, updates, call())


def table(measured: Iterable[Point]) -> Iterator[str]:
    """Lines of Markdown, one after the other."""
    yield "| | | seconds per update | set-up, s | peak GiB |"
    yield "|---|---|---|---|---|"
    for point in measured:
        found = point.cost
        memory, set_up = (f"{found.memory / 2**30:.2f}", f"{found.set_up:.1f}") if found.memory else ("", "")
        yield f"| {point.axis} | {point.value:g} | {found.median:.4f} | {set_up} | {memory} |"


def plot(measured: Iterable[Point], path: Path, title: str) -> None:
    """An SVG for a light and a dark background: a row for each axis, seconds on the left and memory on the right."""
    import matplotlib.pyplot as plt

    rows: dict[str, list[Point]] = {}
    for point in measured:
        rows.setdefault(point.axis, []).append(point)
    colours = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    with plt.rc_context({**colours, "svg.fonttype": "none", "svg.hashsalt": "", "font.size": 11}):
        figure, all_axes = plt.subplots(len(rows), 2, figsize=(7, 2.1 * len(rows)), squeeze=False, layout="constrained")
        for (axis, row), panels in zip(rows.items(), all_axes, strict=True):
            x = [point.value for point in row]
            whole = axis == "updates"
            _panel(panels[0], x, [point.seconds for point in row], axis, _LINES[0])
            shares = axis == "processes"
            right = [point.states_per_second if shares else point.cost.memory / 2**30 for point in row]
            _panel(panels[1], x, right, axis, _LINES[1])
            panels[0].set_title("seconds in all" if whole else "seconds per update", fontsize=11)
            panels[1].set_title("states per second" if shares else "peak GiB", fontsize=11)
        figure.savefig(path, transparent=True, metadata={"Date": None, "Title": title})
        plt.close(figure)
    _recolour(path)


def _panel(panel: Any, x: list[float], y: list[float], axis: str, colour: str) -> None:
    panel.plot(x, y, color=colour, marker="o", linewidth=2)
    panel.set_ylim(0, 1.15 * max(y))
    panel.set_xticks(x, [f"{value:g}" for value in x])
    panel.set_xlabel("size, of the model's own" if axis == "size" else axis)
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis="y", alpha=0.3)


def _recolour(path: Path) -> None:
    """Colours become variables that depend on the background."""
    names: Mapping[str, str] = {_INK: "ink", _LINES[0]: "seconds", _LINES[1]: "memory"}
    text = path.read_text(encoding="utf-8")
    for colour, name in names.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"(<svg [^>]*>)", rf"\1<style>{_STYLE}</style>", text, count=1)
    path.write_text(text.replace('font: 11px "DejaVu Sans"', "font: 11px system-ui"), encoding="utf-8")
