"""The key of a study: written and read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusers_esd.study import Candidate, Key
from diffusers_esd.study.key import read_key

KEY = Key(
    "s1",
    {
        "p1": Candidate('Ada, "Round"', "esd-x", "Ada/esd-x/ü.png"),
        "p2": Candidate("Bo", "base", "Bo/base/0.png"),
        "p3": Candidate("Bo", "esd-x", "Bo/esd-x/0.png"),
    },
)


def test_a_key_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "key.csv"
    file.write_text(KEY.to_csv(), encoding="utf-8")
    assert read_key(file) == KEY
    assert KEY.conditions == {"esd-x": ["p1", "p3"], "base": ["p2"]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("s1,p2", "s2,p2", r" must be the key of one study, got s1, s2\.$"),
        ("s1,p2", "s1,p1", r", line 3: the id p1 is there twice\.$"),
        (
            "condition",
            "kind",
            r" must have the columns study, id, artist, condition, picture, .*; condition is missing\.",
        ),
    ],
)
def test_what_is_not_a_key_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "key.csv"
    file.write_text(KEY.to_csv().replace(old, new), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_key(file)
