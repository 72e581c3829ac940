"""Probes: the naive alignment at the base model's states, and measured as often as wanted. (`test_check` has more.)"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from made import made
from tiny import tiny_pipeline

from diffusers_esd import ESDConfig
from diffusers_esd.families import family_for
from diffusers_esd.objective import projections
from diffusers_esd.probe import Probe, Question, ensure_loaded, questions
from diffusers_esd.streams import stream
from diffusers_esd.training.encoding import Encoded

STEPS = 3


def probe_of(pipe: Any, question: Question) -> Probe:
    family = family_for(pipe)
    schedule, encoded = family.schedule(STEPS, (4, 8, 8), 3.0), Encoded(family)
    encoded.add(question.prompts)
    return Probe(schedule, encoded, question, schedule.noise(stream(0, "test"), 2))


@torch.no_grad()
def naive(erased: Any, question: Question) -> float:
    """From a second pipeline, without our adapters."""
    pipe = tiny_pipeline()
    schedule = family_for(pipe).schedule(STEPS, (4, 8, 8), 3.0)
    states = {p: pipe.encode_prompt(p, "cpu", 1, False)[0].expand(2, -1, -1) for p in question.prompts}
    x_t, sums = schedule.noise(stream(0, "test"), 2), torch.zeros(2)
    for i, t in enumerate(schedule.timesteps):
        e = {prompt: pipe.unet(x_t, t, rows).sample for prompt, rows in states.items()}
        student = erased.unet(x_t, t, states[question.student]).sample
        origin = e[question.erase_from] if question.erase_from else None
        along, length = projections(student, e[question.concept], e[question.anchor], origin)
        sums += torch.stack([along.sum(), length.sum()])
        position = torch.full((2,), i)
        x_t = schedule.step(e[""] + 3.0 * (e[question.student] - e[""]), x_t, position, position + 1)
    return (sums[0] / sums[1]).item()


@pytest.mark.parametrize(
    "question", [Question("a cat"), Question("a cat", "an animal"), Question("a cat", "", "a dog")], ids=str
)
def test_a_probe_measures_the_active_adapters_at_the_states_of_the_base_model(question: Question) -> None:
    pipe = tiny_pipeline()
    erasure = made(pipe)
    probe = probe_of(pipe, question)
    intact = probe.named()
    assert intact == pytest.approx(0.0 if question.erase_from else 1.0, abs=1e-4)
    assert probe.unnamed() == pytest.approx(0.0, abs=1e-4)
    erasure.apply(pipe)
    named = probe.named()
    assert named == pytest.approx(naive(pipe, question), abs=1e-3)
    with must_fail("the erasure does something"):
        assert named == pytest.approx(intact, abs=1e-2)
    erasure.remove(pipe)
    assert probe.named() == pytest.approx(intact, abs=1e-4), "again, at the same states"


def test_questions_are_those_of_the_training() -> None:
    erasure = made(tiny_pipeline())
    assert questions(None, erasure.provenance) == [Question("a cat")]
    (asked,) = questions(ESDConfig(erase_from="an animal"), erasure.provenance)
    assert asked.student == "an animal"
    assert asked.prompts == ["", "a cat", "an animal"]


def test_an_erasure_is_loaded_once() -> None:
    pipe = tiny_pipeline()
    erasure = made(pipe)
    for _ in range(2):
        assert ensure_loaded(pipe.unet, erasure.weights, "no-a-cat", "unet") == ("no-a-cat", [])
    other = made(pipe, seed=1)
    assert ensure_loaded(pipe.unet, other.weights, "no-a-cat", "unet") == ("no-a-cat-checked", [])
