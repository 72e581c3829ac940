"""`Key`: the condition of each candidate of a study. It is a file beside the page, and not in it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from .table import read_table

_COLUMNS = ("study", "id", "artist", "condition", "picture")


@dataclass(frozen=True)
class Candidate:
    """What a candidate is.

    Attributes:
        artist: Name of the artist whose references it is compared with.
        condition: Name of its condition.
        picture: Path of its file, in the folder of the study.
    """

    artist: str
    condition: str
    picture: str


@dataclass(frozen=True)
class Key:
    """What the candidates of a study are.

    Attributes:
        study: Id of the study, a digest of its pictures.
        candidates: By id.
    """

    study: str
    candidates: Mapping[str, Candidate]

    @property
    def conditions(self) -> dict[str, list[str]]:
        """The ids of each condition's candidates."""
        ids: dict[str, list[str]] = {}
        for candidate_id, candidate in self.candidates.items():
            ids.setdefault(candidate.condition, []).append(candidate_id)
        return ids

    def to_csv(self) -> str:
        """The text of its file."""
        text = StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for candidate_id, candidate in self.candidates.items():
            writer.writerow((self.study, candidate_id, candidate.artist, candidate.condition, candidate.picture))
        return text.getvalue()


def read_key(file: Path) -> Key:
    """Read the file of a key.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a key, has rows of several studies, or an id twice.
    """
    rows = read_table(file, _COLUMNS)
    studies = sorted({row["study"] for _, row in rows})
    if len(studies) > 1:
        raise ValueError(f"{file} must be the key of one study, got {', '.join(studies)}.")
    candidates: dict[str, Candidate] = {}
    for line, row in rows:
        if row["id"] in candidates:
            raise ValueError(f"{file}, line {line}: the id {row['id']} is there twice.")
        candidates[row["id"]] = Candidate(row["artist"], row["condition"], row["picture"])
    return Key(studies[0], candidates)
