"""`history.jsonl`: what is kept when a training is resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusers_esd.training.history import HISTORY_NAME, History


def lines(*iterations: int) -> str:
    written = [{"iteration": i, "alignments": {"ä\u2028cat": 0.5}} for i in iterations]
    return "".join(json.dumps(line) + "\n" for line in written)


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (lines(1, 2, 3, 4), lines(1, 2, 3)),
        (lines(1, 2, 3), lines(1, 2, 3)),
        (lines(1, 2) + '{"iteration": 3, "lo', lines(1, 2)),
        (lines(1, 2) + lines(3)[:-1], lines(1, 2)),
        (lines(1) + "damage\n" + lines(2), lines(1)),
        (lines(1) + "[2]\n" + lines(2), lines(1)),
        (lines(1) + '{"loss": 0}\n', lines(1)),
        ("", ""),
        (None, ""),
    ],
    ids=["later", "none", "cut off", "no end of line", "damaged", "no object", "no number", "empty", "missing"],
)
def test_only_whole_lines_of_the_checkpoints_iterations_are_kept(
    content: str | None, kept: str, tmp_path: Path
) -> None:
    file = tmp_path / HISTORY_NAME
    if content is not None:
        file.write_text(content, encoding="utf-8")
    history = History(file, file, 3)
    assert file.read_text(encoding="utf-8") == kept
    history.append({"iteration": 4, "alignments": {"ä\u2028cat": 0.5}})
    history.sync()
    assert file.read_text(encoding="utf-8") == kept + lines(4)


def test_a_new_training_begins_a_new_file_and_another_folder_gets_a_copy(tmp_path: Path) -> None:
    first, second = tmp_path / "first" / HISTORY_NAME, tmp_path / "second" / HISTORY_NAME
    History(first, None, 0).append({"iteration": 1})
    History(second, first, 1).append({"iteration": 2})
    assert [json.loads(line) for line in second.read_text().splitlines()] == [{"iteration": 1}, {"iteration": 2}]
    History(first, None, 0)
    assert first.read_text() == ""


def test_what_cannot_be_written_is_warned_of_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / HISTORY_NAME).mkdir()
    history = History(tmp_path / HISTORY_NAME, None, 0)
    history.append({"iteration": 1})
    history.sync()
    (warning,) = recwarn
    assert "history.jsonl could not be written (" in str(warning.message)
    assert str(warning.message).endswith("; the training goes on without it.")
