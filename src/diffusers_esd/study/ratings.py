"""`read_ratings`: what participants answered, from the CSV files that their pages gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from .key import Key, read_key
from .table import read_table

LOWEST, HIGHEST = 1, 5
_COLUMNS = ("study", "participant", "id", "rating")


@dataclass(frozen=True)
class Ratings:
    """The ratings of all candidates by all participants.

    Attributes:
        key: What the candidates are.
        participants: By participant, the rating of each id, 1 to 5.
    """

    key: Key
    participants: Mapping[str, Mapping[str, int]]

    def by_condition(self) -> dict[str, list[list[int]]]:
        """For each condition a row for each participant: ratings of the condition's candidates, in the key's order."""
        return {
            condition: [[ratings[item] for item in items] for ratings in self.participants.values()]
            for condition, items in self.key.conditions.items()
        }


def read_ratings(files: Iterable[str | Path], key: str | Path) -> Ratings:
    """Read the ratings of a study.

    Args:
        files: A file for each participant, in any order.
        key: The key that was written with the page.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a file is damaged or of another study, a participant is there twice, a candidate was not rated,
            or a rating is not a whole number from 1 to 5.
    """
    known = read_key(Path(key))
    participants: dict[str, dict[str, int]] = {}
    read: dict[str, Path] = {}
    for file in map(Path, files):
        participant, ratings = _read(file, known, Path(key))
        if participant in participants:
            raise ValueError(f"{read[participant]} and {file} are both of participant {participant}; give only one.")
        participants[participant], read[participant] = ratings, file
    if not participants:
        raise ValueError("`files` is empty; give at least one file of ratings.")
    return Ratings(known, participants)


def _read(file: Path, key: Key, key_file: Path) -> tuple[str, dict[str, int]]:
    """The participant of a file, and their ratings."""
    rows = read_table(file, _COLUMNS)
    participant = rows[0][1]["participant"]
    ratings: dict[str, int] = {}
    for line, row in rows:
        place, item = f"{file}, line {line}", row["id"]
        if row["study"] != key.study:
            raise ValueError(f"{place}: study {row['study']} is not {key.study}, the study of {key_file}.")
        if row["participant"] != participant:
            raise ValueError(f"{place}: participant {row['participant']} is not {participant}; a file has only one.")
        if item not in key.candidates:
            raise ValueError(f"{place}: the id {item} is not in {key_file}.")
        if item in ratings:
            raise ValueError(f"{place}: the id {item} is there twice.")
        ratings[item] = _rating(place, row["rating"])
    if missing := len(key.candidates) - len(ratings):
        raise ValueError(f"{file} lacks {missing} of {len(key.candidates)} ratings; it is not whole.")
    return participant, ratings


def _rating(place: str, text: str) -> int:
    if text not in map(str, range(LOWEST, HIGHEST + 1)):
        raise ValueError(f"{place}: a rating must be a whole number from {LOWEST} to {HIGHEST}, got {text!r}.")
    return int(text)
