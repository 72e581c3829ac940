"""When a training ends, and which concepts rest."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer
from diffusers_esd.training.loop import Training

EARLY: dict[str, Any] = {
    "num_inference_steps": 5,
    "iterations": 400,
    "batch_size": 4,
    "rank": 4,
    "learning_rate": 5e-3,
    "group": "esd-u",
}


def test_training_stops_at_the_alignment_asked_for() -> None:
    erasure = ESDTrainer(tiny_pipeline(), **EARLY, stop_at_alignment=0.5, preserve=()).erase("a cat")
    assert erasure.provenance.alignment <= 0.5
    assert 20 <= erasure.provenance.iterations < 400


def test_concepts_that_are_done_rest_and_training_ends_when_all_are() -> None:
    concepts = ["a cat", "a dog", "a rocket"]
    erasure = ESDTrainer(tiny_pipeline(), **EARLY, stop_at_alignment=0.3, preserve=()).erase(concepts)
    facts = erasure.provenance
    assert facts.complete
    assert facts.iterations < 400
    assert facts.alignments.keys() == set(concepts)
    assert max(facts.alignments.values()) <= 0.3
    assert facts.alignment == pytest.approx(sum(facts.alignments.values()) / 3)
    looks = facts.evaluations["no_grad"] - 2 * facts.evaluations["grad"]
    assert looks > 3 * 4, "those that rest are looked at now and then"


def test_before_the_end_every_concept_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the alignments that are recorded are those of the end."""
    trainings: list[Training] = []
    run = Training.run
    monkeypatch.setattr(Training, "run", lambda training, *rest: trainings.append(training) or run(training, *rest))
    concepts = ["a cat", "a dog", "a rocket"]
    options = {**EARLY, "batch_size": 1, "group": "esd-x"}
    facts = ESDTrainer(tiny_pipeline(), **options, stop_at_alignment=0.5, preserve=()).erase(concepts).provenance
    assert facts.complete
    assert facts.iterations < 400
    (training,) = trainings
    assert training.state.last_seen.keys() == set(concepts)
    assert min(training.state.last_seen.values()) >= facts.iterations - 1
