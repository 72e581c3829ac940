"""Controls differ from the attack in one thing, and have names and cases of their own."""

from __future__ import annotations

from dataclasses import replace

from diffusers_esd.evaluation.attacks.concept_inversion import concept_inversion
from diffusers_esd.evaluation.attacks.controls import with_controls


def test_controls_differ_in_one_thing() -> None:
    attack = concept_inversion("a cat", ["c0", "c1"], labels={"subject": "cat"}, images=2)
    same, another, negatives = with_controls(attack, ["d0", "d1"])
    assert same is attack
    assert replace(another, name=attack.name, prompts=attack.prompts, targets=attack.targets) == attack
    assert replace(negatives, name=attack.name, prompts=attack.prompts, inverted=False) == attack
    assert another.targets == ("d0", "d1")
    assert negatives.inverted
    cases = [prompt.case for one in (same, another, negatives) for prompt in one.prompts]
    assert len(set(cases)) == 6
    for one in (another, negatives):
        assert one.name.startswith("control: concept inversion, whole conditioning, learned from")
        assert {prompt.group for prompt in one.prompts} == {one.name}
        assert [p.seed for p in one.prompts] == [p.seed for p in attack.prompts], "the same noise"
