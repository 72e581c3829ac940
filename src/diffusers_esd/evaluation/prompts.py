"""Prompts: what an evaluation draws. The first of its four stages.

A prompt has its own seed, and what a judge looks for in its image. A CSV file of another project is read with the names
that its columns usually have.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..arguments import integer_from, number_in

_CASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SEED = integer_from(0)
_GUIDANCE = number_in("0 or more", lambda value: value >= 0)
_SIDE = integer_from(8)
_LARGEST_SEED = 2**63 - 1

ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "text", "caption"),
    "seed": ("seed", "evaluation_seed", "sd_seed"),
    "case": ("case_number", "case", "image_id", "row"),
    "guidance_scale": ("guidance_scale", "evaluation_guidance", "guidance", "sd_guidance_scale"),
    "width": ("width", "sd_image_width"),
    "height": ("height", "sd_image_height"),
    "negative_prompt": ("negative_prompt",),
}
"""Names of a column in CSV files of other projects; the first that a file has is read."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One image to draw, and what is asked about it.

    Attributes:
        case: Name of the image's file, without its ending; letters, digits, dots, dashes and underscores.
        text: The prompt; it may be empty.
        seed: Seed of its noise, 0 or more.
        group: The part of the report that it belongs to, such as `"named"` or `"neighbours"`.
        concept: The erased concept that it is about; `""` if it is about something else, which must stay.
        labels: What a judge looks for, by question: `{"subject": "a cat"}`. A recogniser answers one question.
        negative_prompt: What classifier-free guidance moves away from.
        guidance_scale: Classifier-free guidance; `None` means that of the evaluation.
        width: In pixels; `None`, for both sides, means the model's own.
        height: In pixels.
    """

    case: str
    text: str
    seed: int
    group: str = "prompts"
    concept: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    negative_prompt: str = ""
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        if not _CASE.fullmatch(self.case):
            raise ValueError(f"`case` must be letters, digits, '.', '_' and '-', 100 at most; got {self.case!r}.")
        if _SEED("seed", self.seed) > _LARGEST_SEED:
            raise ValueError(f"`seed` must be less than 2**63, got {self.seed}.")
        if self.guidance_scale is not None:
            _GUIDANCE("guidance_scale", self.guidance_scale)
        for name, side in (("width", self.width), ("height", self.height)):
            if side is not None:
                _SIDE(name, side)
        if (self.width is None) != (self.height is None):  # diffusers would ignore one without the other
            raise ValueError(f"`width` and `height` must be given together, got {self.width} and {self.height}.")


@dataclass(frozen=True)
class PromptSet:
    """Prompts, and where they are from.

    Attributes:
        name: What the set is called.
        prompts: The prompts; no two have the same case.
        source: Publisher or address of the prompts, or how they were made.
        licence: Their licence; `""` if it is not known.
    """

    name: str
    prompts: tuple[Prompt, ...]
    source: str = ""
    licence: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))
        if not self.prompts:
            raise ValueError(f"The prompt set {self.name!r} is empty; give at least one prompt.")
        seen: set[str] = set()
        twice = sorted({p.case for p in self.prompts if p.case in seen or seen.add(p.case)})  # type: ignore[func-returns-value]
        if twice:
            raise ValueError(f"The prompt set {self.name!r} has cases twice: {_some(twice)}; each needs its own.")

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    def where(self, test: Callable[[Prompt], bool]) -> PromptSet:
        """The prompts that pass a test.

        Raises:
            ValueError: If there is none.
        """
        return replace(self, prompts=tuple(prompt for prompt in self.prompts if test(prompt)))

    def digest(self) -> str:
        """A text that is the same for the same prompts: SHA-256 of their fields."""
        fields = [asdict(prompt) for prompt in self.prompts]
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """Name, source, licence, number and digest, for a report."""
        facts = {"name": self.name, "source": self.source, "licence": self.licence}
        return {**facts, "prompts": len(self.prompts), "digest": self.digest()}


def repeated(
    prompts: Sequence[tuple[str, Mapping[str, Any]]], seeds: int, *, first_seed: int, prefix: str
) -> list[Prompt]:
    """Each prompt with several seeds; every image has a seed of its own.

    Args:
        prompts: Texts, and the other fields of `Prompt`.
        seeds: Images of each.
        first_seed: Seed of the first image; the others follow.
        prefix: Of the cases: `named-0000`, `named-0001` and so on.
    """
    pairs = [(text, fields) for text, fields in prompts for _ in range(seeds)]
    return [
        Prompt(case=f"{prefix}-{i:04d}", text=text, seed=first_seed + i, **fields)
        for i, (text, fields) in enumerate(pairs)
    ]


def read_prompts(
    file: Path,
    *,
    name: str | None = None,
    source: str = "",
    licence: str = "",
    fields: Callable[[Mapping[str, str]], Mapping[str, Any] | None] = lambda row: {},
) -> PromptSet:
    """Prompts of a CSV file.

    Args:
        file: The file, with a header. `ALIASES` has the names that its columns may have; prompt and seed are needed.
            Without a column of cases, they are the numbers of the rows.
        name: Name of the set; `None` means the file's.
        source: Where the file is from.
        licence: Its licence.
        fields: Further fields of `Prompt` from a row (group, labels), or `None` to leave the row out.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, a value is wrong, a case occurs twice, or no row is left.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file of prompts at {file}.")
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened)
        columns = _columns(file, reader.fieldnames or ())
        prompts = []
        for number, row in enumerate(reader):
            more = fields(row)
            if more is None:
                continue
            try:
                prompts.append(Prompt(**{**_values(columns, row, number), **more}))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{file}, line {reader.line_num}: {error}") from error
    return PromptSet(name or file.stem, tuple(prompts), source, licence)


def _columns(file: Path, names: Iterable[str]) -> dict[str, str]:
    """The file's column of each field that it has."""
    names = list(names)
    columns = {key: next((alias for alias in aliases if alias in names), "") for key, aliases in ALIASES.items()}
    for key in ("prompt", "seed"):
        if not columns[key]:
            raise ValueError(
                f"{file} has no column for the {key}: it may be called {', '.join(ALIASES[key])}; the file has "
                f"{', '.join(names) or 'no columns'}."
            )
    return {key: column for key, column in columns.items() if column}


def _values(columns: Mapping[str, str], row: Mapping[str, str], number: int) -> dict[str, Any]:
    """Fields of a prompt."""
    given = {key: row[column] for key, column in columns.items() if row[column] not in (None, "")}
    values: dict[str, Any] = {"case": str(given.get("case", number)), "text": given.get("prompt", "")}
    if "seed" not in given:
        raise ValueError("the seed is missing")
    values["seed"] = int(float(given["seed"])) if "." in given["seed"] else int(given["seed"])
    if "guidance_scale" in given:
        values["guidance_scale"] = float(given["guidance_scale"])
    for side in ("width", "height"):
        if side in given:
            values[side] = int(float(given[side]))
    if "negative_prompt" in given:
        values["negative_prompt"] = given["negative_prompt"]
    return values


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
