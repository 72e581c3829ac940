"""Anchors: which candidates are left, which is nearest, and what is recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from emoji_sd import CLASSES, load, phrase
from tiny import tiny_pipeline, tiny_sd3, unmarked_tokenizer

from diffusers_esd import ESDConfig, ESDTrainer, Limits, Progress
from diffusers_esd.families import family_for
from diffusers_esd.streams import stream
from diffusers_esd.training.anchors import AnchorFinder
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.vocabulary import generic, nearness
from diffusers_esd.training.words import words

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 2, "rank": 2, "preserve": (), "group": "esd-x-strict"}


def find(pipe: Any, concepts: list[str], anchor: Any, **limits: Any) -> Any:
    family = family_for(pipe)
    encoded = Encoded(family)
    finder = AnchorFinder(
        family, ESDConfig(anchor=anchor), Limits(**limits), concepts, encoded, family.latent_shape(None)
    )
    encoded.add(["", *concepts, *finder.prompts])
    return finder.find()


def test_given_anchors_are_taken_and_cost_nothing() -> None:
    for anchor, expected in (("", ["", ""]), ("an animal", ["an animal"] * 2), (("", "food"), ["", "food"])):
        anchors = find(tiny_pipeline(), ["a cat", "a pizza"], anchor)
        assert anchors.prompts == dict(zip(["a cat", "a pizza"], expected, strict=True))
        assert not anchors.distances
        assert anchors.evaluations == 0


def test_an_object_is_nearest_to_its_class() -> None:
    pipe = load()
    expected = {"cat": "animal", "pizza": "food", "tulip": "plant"}
    anchors = find(pipe, [phrase(word) for word in expected], "auto")
    assert set(expected.values()) <= set(CLASSES)
    assert anchors.prompts == {phrase(word): phrase(name) for word, name in expected.items()}
    assert all(0 < distance < 1 for distance in anchors.distances.values()), anchors.distances


@torch.no_grad()
def test_distances_are_the_naive_ones() -> None:
    pipe = tiny_pipeline()
    prompts = ("an animal", "food", "a plant")
    anchors = find(pipe, ["a cat"], "auto", generic=prompts, near=2.0)
    schedule = family_for(pipe).schedule(6, (4, 8, 8), ESDConfig().guidance_scale)
    states = {p: pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("", "a cat", *prompts)}
    x_t = torch.randn((12, 4, 8, 8), generator=stream(0, "anchors", "a cat"))
    sums = dict.fromkeys(states, 0.0)
    for i, t in enumerate(schedule.timesteps):
        e = {p: pipe.unet(x_t, t, s.expand(12, -1, -1)).sample for p, s in states.items()}
        if i in (1, 3, 5):
            sums = {p: total + (e[p] - e["a cat"]).square().mean().item() for p, total in sums.items()}
        position = torch.full((12,), i)
        x_t = schedule.step(e[""] + 3.0 * (e["a cat"] - e[""]), x_t, position, position + 1)
    relative = {p: sums[p] / sums[""] for p in ("", *prompts)}
    by_text = generic(Encoded(family_for(pipe)), ["a cat"], (), Limits(generic=prompts, near=2.0))
    expected = next(p for p in [*by_text, ""] if relative[p] <= 1.1 * min(relative.values()))
    assert anchors.prompts == {"a cat": expected}
    assert anchors.distances == {"a cat": pytest.approx(relative[expected], rel=1e-4)}
    assert anchors.evaluations == 12 * (6 * 2 + 3 * 3)
    with must_fail("the farthest is another"):
        assert anchors.distances["a cat"] == pytest.approx(max(relative.values()), rel=1e-2)


def test_which_candidates_are_left() -> None:
    family = family_for(load())
    known = generic(Encoded(family), ["a cat"], (), Limits())
    assert set(known) == {"an animal", "a plant", "food", "a vehicle", "a thing", "art"}, "words of its tokenizer"
    assert "an animal" not in generic(Encoded(family), ["an animal"], (), Limits()), "the concept's own word"
    assert generic(Encoded(family), ["a cat"], (), Limits(generic=("a cat",))) == []
    assert generic(Encoded(family), ["a cat"], (), Limits(generic=())) == []
    assert find(load(), ["an animal"], "auto", generic=("an animal",)).prompts == {"an animal": ""}, "none is left"
    compared = list(dict.fromkeys([*known, *(f"a {word}" for word in words(family.tokenizer)[:64])]))
    every = dict(zip(compared, nearness(Encoded(family), compared, ["a cat"]).tolist(), strict=True))
    near = {prompt: every[prompt] for prompt in known}
    assert known == sorted(known, key=lambda prompt: -near[prompt]), "nearest by text first"
    assert "an animal" not in generic(Encoded(family), ["a cat"], ["animal"], Limits()), "a synonym that the user names"
    together = find(load(), ["a pizza", "food"], "auto", generic=("food",)).prompts
    assert together == {"a pizza": "", "food": ""}, "what is erased as well is not an anchor"
    bound = sorted(near.values())[-1] - 1e-4  # for rounding: another batch of prompts
    synonym = generic(Encoded(family), ["a cat"], (), Limits(near=bound))
    assert synonym == known[1:], "as near as a synonym"


def test_without_marked_words_all_words_count_as_known() -> None:
    pipe = tiny_pipeline()
    pipe.tokenizer = unmarked_tokenizer()
    assert "a person" in generic(Encoded(family_for(pipe)), ["a cat"], (), Limits(near=2.0))


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_sd3])
@pytest.mark.parametrize("eta", [0.5, 2.0])
def test_the_first_loss_is_the_closed_form_and_alignment_starts_at_one(build: Any, eta: float) -> None:
    """MSE(e_cond, e_a - eta (e_cond - e_a)) = (1 + eta)^2 MSE(e_cond, e_a), at the same first state for any eta."""
    seen: list[Progress] = []
    for value in (eta, 0.0):
        trainer = ESDTrainer(build(), **QUICK, eta=value, anchor="an animal", size=16)
        trainer.erase("a cat", callback=seen.append)
    first, plain = seen[0], seen[2]
    assert first.loss == pytest.approx((1 + eta) ** 2 * plain.loss, rel=1e-4)
    assert first.alignment == pytest.approx(1.0, abs=1e-3)
    towards_nothing: list[Progress] = []
    ESDTrainer(build(), **QUICK, eta=eta, size=16).erase("a cat", callback=towards_nothing.append)
    with must_fail("the empty prompt gives another loss"):
        assert towards_nothing[0].loss == pytest.approx(first.loss, rel=1e-3)


def test_an_anchor_costs_one_evaluation_more_and_is_recorded_and_planned() -> None:
    longer = {**QUICK, "iterations": 20}
    options = {**longer, "anchor": ("an animal", "")}
    concepts = ["a cat", "a bus"]
    plan = ESDTrainer(tiny_pipeline(), **options).erase(concepts, dry_run=True)
    provenance = ESDTrainer(tiny_pipeline(), **options).erase(concepts).provenance
    paper = ESDTrainer(tiny_pipeline(), **longer).erase(concepts).provenance
    assert plan.anchors == provenance.anchors == {"a cat": "an animal", "a bus": ""}
    assert "  'a cat' towards 'an animal'\n" in str(plan)
    assert provenance.evaluations["no_grad"] == paper.evaluations["no_grad"] + 20
    assert paper.anchors == {"a cat": "", "a bus": ""}


def test_auto_is_resolved_in_a_dry_run_and_recorded() -> None:
    limits = Limits(generic=("an animal", "food"), near=2.0)
    plan = ESDTrainer(tiny_pipeline(), **QUICK, anchor="auto", limits=limits).erase("a cat", dry_run=True)
    provenance = ESDTrainer(tiny_pipeline(), **QUICK, anchor="auto", limits=limits).erase("a cat").provenance
    assert plan.anchors == provenance.anchors
    assert provenance.anchor_distances.keys() == {"a cat"}
    assert provenance.evaluations["no_grad"] > 12 * (6 * 2 + 3 * 2)


@pytest.mark.parametrize(
    ("anchor", "kind", "message"),
    [
        (3, TypeError, "^`anchor` must be a prompt, a list of prompts or 'auto', got 3 of type int.$"),
        ((3,), TypeError, "^`anchor` must be a prompt or a list of prompts, got 3 in the list.$"),
        (("a", "auto"), ValueError, "^`anchor`='auto' chooses for all concepts; it cannot be in a list"),
        (("a", "b"), ValueError, "^`anchor` must have one prompt for each of 1 concepts, got 2.$"),
    ],
)
def test_wrong_anchors(anchor: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        ESDTrainer(tiny_pipeline(), **QUICK, anchor=anchor).erase("a cat")


def test_an_anchor_is_json_both_ways() -> None:
    for anchor in ("", "auto", "an animal", ("a", "")):
        config = ESDConfig(anchor=anchor)
        assert ESDConfig.from_json(config.to_json()) == config
    assert ESDConfig(anchor=["a", "b"]).anchor == ("a", "b")  # type: ignore[arg-type]
    assert ESDConfig(anchor="  ").anchor == ""
