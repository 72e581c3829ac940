"""CARE: how often a small model, which has learned four of COCO's words, prefers "person"."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from controls import must_fail
from tiny_clip import COLOURS, colour_of, picture, save_trained

from diffusers_esd.evaluation.judges.care import COCO_WORDS, PersonJudge
from diffusers_esd.evaluation.judges.clip_model import CLIP


@pytest.fixture(scope="module")
def judge(once: Callable[[str, Callable[[Path], object]], Path]) -> PersonJudge:
    return PersonJudge(CLIP(once("clip", save_trained)))


def test_there_are_80_words() -> None:
    assert len(COCO_WORDS) == len(set(COCO_WORDS)) == 80


def test_a_person_is_found_where_there_is_one(judge: PersonJudge) -> None:
    images = [colour_of(word, change) for word in COLOURS for change in (10, 40)]
    found = judge([picture(image, person="person") for image in images])
    assert [finding.label for (finding,) in found] == [word for word in COLOURS for _ in range(2)]
    ranks = judge.ranks(images, "person")
    assert [rank == 1 for rank in ranks] == [word == "person" for word in COLOURS for _ in range(2)]
    assert all(1 <= rank <= 80 for rank in ranks)
    with must_fail("without a person, the rank is not 1"):
        assert max(ranks) == 1


def test_it_answers_the_question_person(judge: PersonJudge) -> None:
    assert (judge.name, judge.kind, judge.question) == ("care", "recognises", "person")
    assert judge.knows("person")
    assert judge.record()["labels"] == list(COCO_WORDS)
    assert judge.record()["question"] == "person"
