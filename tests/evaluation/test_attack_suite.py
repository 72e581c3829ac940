"""The suite of attacks: what it asks, with which controls."""

from __future__ import annotations

from typing import Any

import pytest
from emoji_sd import load
from emoji_sd.recogniser import EmojiJudge
from made import made

from diffusers_esd.evaluation.attack_suite import attack
from diffusers_esd.evaluation.suite import Suite


@pytest.fixture(scope="module")
def suite() -> Suite:
    pipe = load()
    return attack(pipe, [made(pipe, rank=2, group="esd-x")], [EmojiJudge()], attack_steps=7)


def test_every_attack_has_its_controls_and_a_title(suite: Suite) -> None:
    names = [one.name for one in suite.attacks]
    inversions = [name for name in names if name.startswith("concept inversion")]
    assert inversions == ["concept inversion, one token", "concept inversion, whole conditioning"]
    assert [sum(name.startswith(f"control: {inversion}") for name in names) for inversion in inversions] == [2, 2]
    assert names[-1] == "noise probe"
    assert len({one.title for one in suite.attacks}) == len(names) == 7


def test_the_control_learns_from_as_many_images_of_what_is_no_neighbour(suite: Suite) -> None:
    by_case = {prompt.case: prompt for prompt in suite.prompts}
    inversion, control = suite.attacks[0], suite.attacks[1]
    assert {by_case[case].text for case in inversion.targets} == {"a cat"}
    others = {by_case[case].text for case in control.targets}
    assert len(others) == 1
    assert others.isdisjoint({"a cat"})
    assert len(control.targets) == len(inversion.targets) == 16


def test_the_steps_are_those_given_and_the_report_says_what_they_mean(suite: Suite) -> None:
    records: list[dict[str, Any]] = [one.record() for one in suite.attacks[:-1]]
    assert {record["steps"] for record in records} == {7}
    assert any("learned for 7 steps" in note and "5,000" in note for note in suite.notes)
