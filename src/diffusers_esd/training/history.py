"""`History`: `history.jsonl`, a line for each iteration of a training, written while it runs.

A line is a JSON object: the fields of `Progress`, and `seconds`, the time of the training so far. A training that is
resumed drops the lines after its checkpoint, so that its file equals that of a training without interruption, apart
from `seconds`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..arguments import warn_user
from ..files import sync, write_text

HISTORY_NAME = "history.jsonl"


class History:
    """Writes the file.

    Args:
        file: The file.
        earlier: The file of the training that is resumed, which may be the same one; `None` begins a new file.
        iterations: Number of its iterations that stay.
    """

    def __init__(self, file: Path, earlier: Path | None, iterations: int) -> None:
        self._file: Path | None = file
        self._try(lambda path: write_text(path, "" if earlier is None else "".join(_lines(earlier, iterations))))

    def append(self, values: Mapping[str, Any]) -> None:
        """Write a line."""
        line = json.dumps(values) + "\n"
        self._try(lambda path: _append(path, line))

    def sync(self) -> None:
        """Wait until the lines are on the disk."""
        self._try(sync)

    def _try(self, write: Callable[[Path], object]) -> None:
        """Write to the file. If that is not possible, warn and write no more: the training is worth more."""
        if self._file is None:
            return
        try:
            write(self._file)
        except OSError as error:
            warn_user(f"{self._file} could not be written ({error}); the training goes on without it.")
            self._file = None


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as opened:
        opened.write(line)


def _lines(file: Path, iterations: int) -> Iterator[str]:
    """The lines of the first iterations. A line that was cut off, and all after it, are left out."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            values = json.loads(line)
        except ValueError:
            return
        number = values.get("iteration") if isinstance(values, dict) else None
        if not line.endswith("\n") or not isinstance(number, int) or number > iterations:
            return
        yield line
