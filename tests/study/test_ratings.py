"""Ratings: read with the key, refused if they are damaged, of another study, or there twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusers_esd.study import Candidate, Key, read_ratings

KEY = Key("s1", {f"p{i}": Candidate("Ada", "esd-x" if i < 2 else "base", f"{i}.png") for i in range(3)})
GOOD = "study,participant,position,id,rating\ns1,a1,1,p2,5\ns1,a1,2,p0,1\ns1,a1,3,p1,2\n"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key.csv"
    file.write_text(KEY.to_csv())
    return file


def written(folder: Path, *texts: str) -> list[Path]:
    files = [folder / f"{i}.csv" for i in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return files


def test_ratings_are_read_by_participant_and_condition(tmp_path: Path, key: Path) -> None:
    ratings = read_ratings(written(tmp_path, GOOD, GOOD.replace("a1", "a2").replace("p1,2", "p1,4")), key)
    assert ratings.key == KEY
    assert ratings.participants == {"a1": {"p0": 1, "p1": 2, "p2": 5}, "a2": {"p0": 1, "p1": 4, "p2": 5}}
    assert ratings.by_condition() == {"esd-x": [[1, 2], [1, 4]], "base": [[5], [5]]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("s1,a1,2", "s9,a1,2", "{file}, line 3: study s9 is not s1, the study of {key}."),
        ("s1,a1,2", "s1,a9,2", "{file}, line 3: participant a9 is not a1; a file has only one."),
        ("p0", "p9", "{file}, line 3: the id p9 is not in {key}."),
        ("p0", "p2", "{file}, line 3: the id p2 is there twice."),
        ("s1,a1,2,p0,1\n", "", "{file} lacks 1 of 3 ratings; it is not whole."),
        *(
            ("p0,1", f"p0,{text}", f"{{file}}, line 3: a rating must be a whole number from 1 to 5, got {text!r}.")
            for text in ("0", "6", "-1", "2.5", "two", "\u0663")
        ),
        ("rating", "score", "{file} must have the columns study, participant, id, rating, separated by commas; rating"),
    ],
)
def test_damaged_ratings_are_refused(old: str, new: str, message: str, tmp_path: Path, key: Path) -> None:
    [file] = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(ValueError, match=f"^{re.escape(message.format(file=file, key=key))}"):
        read_ratings([file], key)


def test_a_participant_counts_once(tmp_path: Path, key: Path) -> None:
    files = written(tmp_path, GOOD, GOOD.replace("p0,1", "p0,2"))
    message = re.escape(f"{files[0]} and {files[1]} are both of participant a1; give only one.")
    with pytest.raises(ValueError, match=f"^{message}$"):
        read_ratings(files, key)
    with pytest.raises(ValueError, match=r"^`files` is empty; give at least one file of ratings\.$"):
        read_ratings([], key)
