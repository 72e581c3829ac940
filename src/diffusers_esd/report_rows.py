"""The rows and columns of a report. JSON both ways, without PyTorch.

Every figure stands beside the base model's on the same prompts and seeds, with an interval of 95 % and the numbers of
images that were expected and judged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .json_values import count, list_of, literal, mapping_to, number, optional, text

Measure = Literal["rate", "mean", "count", "distance"]
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Estimate:
    """A figure.

    Attributes:
        value: The figure.
        low: Lower end of its interval of 95 %; `None` if it has none.
        high: Upper end.
        judged: Number of images that were judged.
        expected: Number of images that the prompts asked for.
    """

    value: float
    low: float | None
    high: float | None
    judged: int
    expected: int

    def shown(self, measure: Measure) -> str:
        """The figure and its interval: a rate in two digits after the point, anything else in three that count."""
        low, high = self.low, self.high
        interval = "" if low is None or high is None else f" ({short(low, measure)} to {short(high, measure)})"
        return short(self.value, measure) + interval

    def __str__(self) -> str:
        return self.shown("rate")


@dataclass(frozen=True)
class Row:
    """One question, answered for every method.

    Attributes:
        group: Which prompts it is about, such as `"named"` or `"neighbours"`.
        concept: The erased concept that the prompts are about; `""` if they are about what must stay.
        judge: Name of the judge.
        label: What was counted, of a judge that detects; otherwise `""`.
        measure: `"rate"`, `"mean"`, `"count"`, or `"distance"` (of a set of images).
        better: Whether a higher or a lower figure is better, if that does not depend on the method; otherwise `""`.
        figures: By method.
        differences: Method minus base on the same cases, by method, with an interval of their own.
        by_label: Figures by what the prompts ask for and by method, of a rate; empty if they ask for one thing.
    """

    group: str
    concept: str
    judge: str
    label: str
    measure: Measure
    better: Better
    figures: dict[str, Estimate]
    differences: dict[str, Estimate] = field(default_factory=dict)
    by_label: dict[str, dict[str, Estimate]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The row in words: `named: a cat`, `neighbours`."""
        return ": ".join(part for part in (self.group, self.concept, self.label) if part)

    def is_better(self, erases: Sequence[str]) -> Better:
        """Whether a higher or a lower figure is better for a method that erases some concepts.

        What is erased should be gone, and everything else should stay.
        """
        if self.better or self.measure != "rate":
            return self.better
        return "lower" if self.concept and self.concept in erases else "higher"


@dataclass(frozen=True)
class Column:
    """A method.

    Attributes:
        name: Its name.
        erases: The concepts that it should keep out of images.
        record: What its images depend on.
    """

    name: str
    erases: tuple[str, ...]
    record: dict[str, Any]


def short(value: float, measure: Measure) -> str:
    """A number: 0.42 for a rate, 0.159, 13.7 or 4703 for anything else."""
    if measure == "rate":
        return f"{value:.2f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _finite(value: Any) -> float:
    if not math.isfinite(number(value)):
        raise ValueError(f"expected a finite number, got {value!r}")
    return float(value)


def _estimate(value: Any) -> Estimate:
    return Estimate(
        _finite(value["value"]),
        optional(_finite)(value["low"]),
        optional(_finite)(value["high"]),
        count(value["judged"]),
        count(value["expected"]),
    )


def read_row(value: Any) -> Row:
    """A row of a JSON file."""
    texts = {name: text(value[name]) for name in ("group", "concept", "judge", "label")}
    return Row(
        **texts,
        measure=literal(Measure)(value["measure"]),
        better=literal(Better)(value["better"]),
        figures=mapping_to(_estimate)(value["figures"]),
        differences=mapping_to(_estimate)(value["differences"]),
        by_label=mapping_to(mapping_to(_estimate))(value["by_label"]),
    )


def read_column(value: Any) -> Column:
    """A column of a JSON file."""
    return Column(text(value["name"]), list_of(text)(value["erases"]), mapping_to(lambda entry: entry)(value["record"]))
