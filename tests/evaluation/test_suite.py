"""A suite: it has a judge, and every image has a case of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluated import small_suite

from diffusers_esd.evaluation.attacks.concept_inversion import concept_inversion
from diffusers_esd.evaluation.suite import Suite


def test_it_has_a_judge() -> None:
    suite = small_suite()
    with pytest.raises(ValueError, match=r"^The suite 'small' has no judge; give at least one\.$"):
        Suite("small", suite.prompts, ())


def test_prompts_and_those_of_attacks_have_cases_of_their_own() -> None:
    suite = small_suite()
    assert suite.everything == suite.prompts.prompts
    attack = concept_inversion("a cat", ["named-0000"], labels={"subject": "bright"}, images=2, first_seed=9)
    assert replace(suite, attacks=(attack,)).everything == (*suite.prompts, *attack.prompts)
    with pytest.raises(ValueError, match=r"^The prompt set 'small' has cases twice: "):
        replace(suite, attacks=(attack, attack))
