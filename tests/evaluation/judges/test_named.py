"""Judges by name, and those of one's own."""

from __future__ import annotations

import pytest
from emoji_sd.recogniser import EmojiJudge

from diffusers_esd.evaluation.judges.named import NAMES, judge_named


def test_a_judge_of_ones_own() -> None:
    assert isinstance(judge_named("emoji_sd.recogniser:EmojiJudge"), EmojiJudge)


def test_other_names_are_refused() -> None:
    with pytest.raises(ValueError, match=rf"^There is no judge 'clip'; there are {', '.join(NAMES)}, and module:name"):
        judge_named("clip")
    with pytest.raises(ImportError, match="no_such_module"):
        judge_named("no_such_module:Judge")
    for name, value in (("emoji_sd:OBJECTS", r"\("), ("emoji_sd:nothing", "None"), ("builtins:dict", "{}")):
        with pytest.raises(ValueError, match=rf"^{name} must be a Judge, or return one; got {value}"):
            judge_named(name)
