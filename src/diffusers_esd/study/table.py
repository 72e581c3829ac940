"""A CSV file of a study, read with checks."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, str]


def read_table(file: Path, columns: Sequence[str]) -> list[tuple[int, Row]]:
    """Number of its line, and cells by column, of each row.

    Args:
        file: A file with commas, in UTF-8.
        columns: The columns that it must have. Others are read too.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file, a column or a cell is missing, or it does not have a row.
    """
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}.")
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:  # spreadsheets write a mark at the start
            reader = csv.DictReader(opened, strict=True)
            header = reader.fieldnames or ()
            rows = [(reader.line_num, row) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{file} is not a CSV file in UTF-8 ({error}).") from error
    if missing := [column for column in columns if column not in header]:
        names = ", ".join(columns)
        raise ValueError(f"{file} must have the columns {names}, separated by commas; {missing[0]} is missing.")
    if not rows:
        raise ValueError(f"{file} does not have a row.")
    for line, row in rows:
        if None in row or not all(row.values()):
            raise ValueError(f"{file}, line {line}: must have a value in each of {len(header)} columns.")
    return rows
