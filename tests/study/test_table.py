"""CSV files of a study: read with the numbers of lines, refused if damaged."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusers_esd.study.table import read_table


def test_rows_have_their_lines_and_further_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes('\ufeffa,b,c\r\n1,"x, y",3\r\n4,5,6\r\n'.encode())
    assert read_table(file, ("a", "b")) == [
        (2, {"a": "1", "b": "x, y", "c": "3"}),
        (3, {"a": "4", "b": "5", "c": "6"}),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a;b\n1;2\n", " must have the columns a, b, separated by commas; a is missing."),
        (b"a,c\n1,2\n", " must have the columns a, b, separated by commas; b is missing."),
        (b"", " must have the columns a, b, separated by commas; a is missing."),
        (b"a,b\n", " does not have a row."),
        (b"a,b\n1,2\n1\n", ", line 3: must have a value in each of 2 columns."),
        (b"a,b\n1,\n", ", line 2: must have a value in each of 2 columns."),
        (b"a,b\n1,2,3\n", ", line 2: must have a value in each of 2 columns."),
        (b'a,b\n1,"2\n', " is not a CSV file in UTF-8 (unexpected end of data)."),
        (b"a,b\n\xff,2\n", " is not a CSV file in UTF-8 ('utf-8' codec"),
    ],
)
def test_damaged_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file) + message)}"):
        read_table(file, ("a", "b"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no file .*a\.csv\.$"):
        read_table(tmp_path / "a.csv", ("a",))
