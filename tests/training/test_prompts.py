"""Which prompts have which role."""

from __future__ import annotations

import pytest
from controls import must_fail
from emoji_sd import OBJECTS, STYLES, load, phrase, settings

from diffusers_esd import ESDConfig, ESDTrainer, Limits
from diffusers_esd.families import family_for
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.prompts import choose


def test_a_users_list_is_used_whole_or_drawn_from_evenly() -> None:
    keep = tuple(phrase(word, style) for word in OBJECTS for style in STYLES if word != "cat")
    quick = {**settings("esd-u"), "num_inference_steps": 5, "preserve": keep}
    trainer = ESDTrainer(load(), **quick, limits=Limits(trajectories=48, loss_prompts=64))
    plan = trainer.erase("a cat", dry_run=True)
    assert set(plan.preserved) == set(keep)
    assert (len(plan.preserved), plan.of_moments, plan.of_loss) == (195, 48, 64)
    first = {prompt.split()[1] for prompt in plan.preserved[:64]}
    assert len(first) > 25, "drawn from all over the list"
    with must_fail("the first 64 of the list are few objects"):
        assert len({prompt.split()[1] for prompt in keep[:64]}) > 25
    few = ESDTrainer(load(), **{**quick, "preserve": keep[:10]}).erase("a cat", dry_run=True)
    assert (few.of_moments, few.of_loss) == (10, 10)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_both_halves_of_the_contexts_are_of_every_concept(n: int) -> None:
    concepts = [phrase(word) for word in OBJECTS[:n]]
    found = choose(Encoded(family_for(load())), ESDConfig(**settings("esd-x")), Limits(), concepts).contexts
    for half in (found[::2], found[1::2]):
        assert {prompt.split(" in ")[0] for prompt in half} == set(concepts)


def test_all_of_many_concepts_are_looked_at() -> None:
    concepts = [phrase(word) for word in OBJECTS[:20]]
    prompts = choose(Encoded(family_for(load())), ESDConfig(**settings("esd-u")), Limits(), concepts)
    half = len(prompts.concept_runs) // 2
    for part in (prompts.concept_runs[:half], prompts.concept_runs[half:]):
        assert all(any(prompt.startswith(concept) for prompt in part) for concept in concepts)
        assert set(concepts) & set(part)
        assert any(" style" in prompt for prompt in part)
