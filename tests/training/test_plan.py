"""What a dry run says is what happens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from emoji_sd import load, settings
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer, Limits, Plan

QUICK: dict[str, Any] = {"num_inference_steps": 10, "rank": 2}
SMALL = Limits(largest_leak=float("inf"), trajectories=8, concept_trajectories=4, steps=2, words=50, pairs=30)


@pytest.mark.parametrize(
    ("concepts", "options"),
    [
        (1, {"iterations": 20, "preserve": ()}),
        (1, {"iterations": 20, "batch_size": 2, "gradient_accumulation_steps": 2, "preserve": ()}),
        (1, {"iterations": 20, "preserve": (), "erase_from": "a dog"}),
        (4, {"iterations": 40, "preserve": ()}),
        (1, {"iterations": 30, "batch_size": 2}),
        (1, {"iterations": 30, "group": "esd-x"}),
        (1, {"iterations": 5, "limits": replace(SMALL, steps=3, samples=1)}),
        (2, {"iterations": 20, "trajectory": "fresh", "preserve": ()}),
    ],
)
def test_evaluations_are_as_planned(concepts: int, options: dict[str, Any]) -> None:
    words = ["a cat", "a pizza", "a rocket", "a bus"][:concepts]
    trainer = ESDTrainer(tiny_pipeline(), **{**QUICK, "limits": SMALL, **options})
    plan = trainer.erase(words, dry_run=True)
    facts = trainer.erase(words).provenance
    assert plan.evaluations["grad"] == facts.evaluations["grad"]
    tolerance = 0.25 if "trajectory" in options else 0.1
    assert plan.evaluations["no_grad"] == pytest.approx(facts.evaluations["no_grad"], rel=tolerance)
    numbers = {"prompts": len(plan.preserved), "moments": plan.of_moments, "loss": plan.of_loss}
    assert facts.preserved == {**numbers, "words": plan.words[0], "vocabulary": plan.words[1]}
    assert facts.layers == len(plan.layers)


def test_a_dry_run_evaluates_no_denoiser_and_leaves_no_trace() -> None:
    pipe = load()

    def fail(*_: Any) -> None:
        raise AssertionError("the denoiser was evaluated")

    pipe.unet.register_forward_pre_hook(fail)
    plan = ESDTrainer(pipe, **settings("esd-u")).erase("a cat", dry_run=True)
    assert isinstance(plan, Plan)
    assert not hasattr(pipe.unet, "peft_config")
    assert plan.name == "no-a-cat"
    assert "cat" not in {word for prompt in plan.preserved for word in prompt.split()}
    assert plan.memory["denoiser"] == sum(p.nbytes for p in pipe.unet.parameters())
    text = str(plan)
    assert "no-a-cat: erases 'a cat'" in text
    assert f"layers: {len(plan.layers)}" in text


def test_synonyms_are_named() -> None:
    near = ESDTrainer(load(), **settings("esd-x"), limits=Limits(near=0.3)).erase("a cat", dry_run=True)
    assert near.synonyms
    assert not set(near.synonyms) & {word for prompt in near.preserved for word in prompt.split()}
    assert ", ".join(near.synonyms) in str(near)
    assert not ESDTrainer(load(), **settings("esd-x"), limits=Limits(near=2.0)).erase("a cat", dry_run=True).synonyms


def test_by_default_esd_x_trains_the_layers_of_esd_x_strict_and_says_so() -> None:
    plans = {
        (group, keep): ESDTrainer(tiny_pipeline(), group=group, **({} if keep else {"preserve": ()})).erase(
            "a cat", dry_run=True
        )
        for group in ("esd-x", "esd-x-strict")
        for keep in (True, False)
    }
    assert plans["esd-x", True].layers == plans["esd-x-strict", True].layers == plans["esd-x-strict", False].layers
    assert len(plans["esd-x", False].layers) == 16, "the paper's plain training has the queries and outputs as well"
    ((reason, left_out),) = plans["esd-x", True].left_out.items()
    assert "queries and outputs of cross-attentions" in reason
    assert {*left_out, *plans["esd-x", True].layers} == set(plans["esd-x", False].layers)
    assert f"left out: 8 ({reason})" in str(plans["esd-x", True])


def test_the_null_space_costs_what_is_planned_exactly() -> None:
    """A training with it and one without, planned and done."""
    options: dict[str, Any] = {**QUICK, "group": "esd-u", "iterations": 2, "limits": SMALL, "preserve_weight": 1.0}
    trainers = [ESDTrainer(tiny_pipeline(), **options, null_space=null_space) for null_space in (True, False)]
    planned = [trainer.erase("a cat", dry_run=True).evaluations for trainer in trainers]
    spent = [trainer.erase("a cat").provenance.evaluations for trainer in trainers]
    difference = spent[0]["no_grad"] - spent[1]["no_grad"]
    assert planned[0]["no_grad"] - planned[1]["no_grad"] == difference == (8 + 4) * SMALL.steps
    assert spent[0]["grad"] == spent[1]["grad"]


def test_the_null_space_needs_less_than_a_fifth_of_the_default_trainings_evaluations() -> None:
    trainers = [ESDTrainer(tiny_pipeline(), null_space=null_space) for null_space in (True, False)]
    with_it, without = (sum(t.erase("a cat", dry_run=True).evaluations.values()) for t in trainers)
    assert with_it - without == (96 + 32) * 6 == 768
    assert with_it - without < without / 5
