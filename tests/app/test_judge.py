"""Who judges."""

from __future__ import annotations

import pytest
from emoji_sd.recogniser import EmojiJudge

from diffusers_esd.app.judge import JudgeChoice


def test_the_code_makes_the_same_judge() -> None:
    choice, namespace = JudgeChoice("emoji_sd.recogniser:EmojiJudge"), {}
    exec("\n".join([*choice.imports, f"judge = {choice.code}"]), namespace)
    assert isinstance(namespace["judge"], EmojiJudge)
    assert [judge.record() for judge in choice.made()] == [namespace["judge"].record()]
    named = JudgeChoice("nudenet")
    assert named.code == 'judge_named("nudenet")'
    exec("\n".join([*named.imports, "judge_named"]), {})


def test_without_a_name_the_suite_has_its_own() -> None:
    assert JudgeChoice().made() is None
    assert JudgeChoice().imports == []


def test_an_unknown_judge() -> None:
    with pytest.raises(ValueError, match="There is no judge 'nobody'"):
        JudgeChoice("nobody").made()
