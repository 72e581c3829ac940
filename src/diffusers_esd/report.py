"""`Report`: what an evaluation found, with everything that is needed to repeat it. JSON both ways, without PyTorch.

Its rows are in `report_rows`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import read_png
from .json_values import list_of, mapping_to, text
from .report_rows import Column, Row, read_column, read_row

if TYPE_CHECKING:
    from PIL.Image import Image

REPORT_NAME, PICTURE_NAME = "report.json", "report.png"
_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation found.

    Attributes:
        suite: Name of the suite.
        columns: The methods; the first is the base model.
        rows: The figures.
        prompts: Name, source, licence, number and digest of the prompts.
        groups: What each group of prompts asks, in a sentence.
        options: Arguments of the pipeline's call.
        judges: What the findings of each judge depend on.
        attacks: The settings of each attack.
        versions: Versions of the packages.
        created: Date, `2026-01-31`.
        notes: What a reader must know, such as labels that a judge does not know.
        picture: Images of every method side by side (PIL), or `None`. It is a file of its own, `report.png`.
    """

    suite: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    prompts: dict[str, Any]
    groups: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    judges: dict[str, dict[str, Any]] = field(default_factory=dict)
    attacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    notes: tuple[str, ...] = ()
    picture: Image | None = field(default=None, compare=False, repr=False)

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    def row(self, group: str, concept: str = "", *, judge: str | None = None, label: str = "") -> Row:
        """One row.

        Raises:
            KeyError: If there is none, or several of different judges.
        """
        fitting = [
            row
            for row in self.rows
            if (row.group, row.concept, row.label) == (group, concept, label) and judge in (None, row.judge)
        ]
        if len(fitting) != 1:
            titles = ", ".join(sorted({f"{row.title} ({row.judge})" for row in self.rows}))
            raise KeyError(f"{len(fitting)} rows are {group!r} of {concept!r}; the report has {titles}.")
        return fitting[0]

    def beside(self, other: Report) -> Report:
        """One report with the columns of both.

        Args:
            other: A report on the same prompts, with the same options and judges.

        Raises:
            ValueError: If prompts, options or judges differ, so that figures cannot be compared, or a method is in
                both and its figures differ.
        """
        for name in ("suite", "prompts", "options", "judges", "attacks"):
            mine, others = getattr(self, name), getattr(other, name)
            if mine != others:
                raise ValueError(
                    f"The reports cannot be compared, because their {name} differ: {_differing(mine, others)}. "
                    "Evaluate both with the same."
                )
        rows = []
        for row, more in zip(self.rows, other.rows, strict=True):
            both = row.figures.keys() & more.figures.keys()
            if any(row.figures[method] != more.figures[method] for method in both):
                raise ValueError(f"Both reports have figures of {', '.join(sorted(both))}, and they differ.")
            labels = {label: {**row.by_label[label], **more.by_label[label]} for label in row.by_label}
            merged = {**row.figures, **more.figures}, {**row.differences, **more.differences}
            rows.append(replace(row, figures=merged[0], differences=merged[1], by_label=labels))
        columns = {column.name: column for column in (*self.columns, *other.columns)}
        notes = tuple(dict.fromkeys([*self.notes, *other.notes]))
        return replace(self, columns=tuple(columns.values()), rows=tuple(rows), notes=notes)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON types, without the picture."""
        values = asdict(replace(self, picture=None))
        del values["picture"]
        return {"version": _VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Report:
        """The report that `to_dict` returned.

        Raises:
            ValueError: If it is of a newer version, or damaged.
        """
        if values.get("version") != _VERSION:
            raise ValueError(f"The report is of version {values.get('version')!r}; this version reads {_VERSION}.")
        try:
            fields = {name: _READERS[name](values[name]) for name in _READERS}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"The report is damaged ({error!r}); make it again.") from error
        return cls(**fields)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str]) -> Report:
        """Read a report, with its picture if there is one.

        Args:
            path: `report.json`, or the folder that it is in.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If it is damaged.
        """
        file = Path(path)
        file = file / REPORT_NAME if file.is_dir() else file
        if not file.is_file():
            raise FileNotFoundError(f"There is no report at {path}.")
        try:
            report = cls.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{file}: {error}") from error
        return replace(report, picture=read_png(file.with_name(PICTURE_NAME)))

    def is_about(self, weights: str) -> bool:
        """Whether one of its methods has an erasure of these weights.

        Args:
            weights: Their `files.digest`.
        """
        parts = [part for column in self.columns for part in column.record.get("erasures", [])]
        return any(part["weights"] == weights for part in parts)


def _differing(mine: Any, others: Any) -> str:
    """Where two values differ."""
    if isinstance(mine, Mapping) and isinstance(others, Mapping):
        keys = sorted(key for key in {*mine, *others} if mine.get(key) != others.get(key))
        return "; ".join(f"{key}: {_differing(mine.get(key), others.get(key))}" for key in keys)
    return f"{mine!r} and {others!r}"


def _anything(value: Any) -> Any:
    return value


_READERS = {
    "suite": text,
    "columns": list_of(read_column),
    "rows": list_of(read_row),
    "prompts": mapping_to(_anything),
    "groups": mapping_to(text),
    "options": mapping_to(_anything),
    "judges": mapping_to(mapping_to(_anything)),
    "attacks": mapping_to(mapping_to(_anything)),
    "versions": mapping_to(text),
    "created": text,
    "notes": list_of(text),
}
