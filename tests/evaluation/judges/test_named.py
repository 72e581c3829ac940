"""Judges by name, and those of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from emoji_sd.recogniser import EmojiJudge

from diffusers_esd.evaluation.judges.named import NAMES, judge_named


def test_a_judge_of_ones_own() -> None:
    assert isinstance(judge_named("emoji_sd.recogniser:EmojiJudge"), EmojiJudge)


def test_the_page_lists_the_names() -> None:
    text = (Path(__file__).parents[3] / "docs" / "judges.md").read_text(encoding="utf-8")
    table = text.split("takes these names:")[1].split("`CLIPZeroShot` needs labels")[0]
    assert tuple(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)) == NAMES


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match=rf"^There is no judge 'clip'; there are {', '.join(NAMES)}, and module:name"):
        judge_named("clip")
    with pytest.raises(ImportError, match="no_such_module"):
        judge_named("no_such_module:Judge")
    for name, value in (("emoji_sd:OBJECTS", r"\("), ("emoji_sd:nothing", "None"), ("builtins:dict", "{}")):
        with pytest.raises(ValueError, match=rf"^{name} must be a Judge, or return one; got {value}"):
            judge_named(name)
