"""A suite: it has a judge, and every image has a case of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluated import Bright, small_suite

from diffusers_esd.evaluation.attacks.concept_inversion import concept_inversion
from diffusers_esd.evaluation.suite import Suite


def test_it_has_a_judge() -> None:
    suite = small_suite()
    with pytest.raises(ValueError, match=r"^The suite 'small' has no judge; give at least one\.$"):
        Suite("small", suite.prompts, ())


def test_a_judge_that_is_asked_nothing_is_refused() -> None:
    class People(Bright):
        name, question = "people", "person"

    suite = small_suite()
    message = (
        r"^The judge 'people' answers the question 'person', and knows none of the prompts' labels; they ask subject"
    )
    with pytest.raises(ValueError, match=message):
        replace(suite, judges=(*suite.judges, People()))


def test_prompts_and_those_of_attacks_have_cases_of_their_own() -> None:
    suite = small_suite()
    assert suite.everything == suite.prompts.prompts
    attack = concept_inversion("a cat", ["named-0000"], labels={"subject": "bright"}, images=2, first_seed=9)
    assert replace(suite, attacks=(attack,)).everything == (*suite.prompts, *attack.prompts)
    with pytest.raises(ValueError, match=r"^The prompt set 'small' has cases twice: "):
        replace(suite, attacks=(attack, attack))
