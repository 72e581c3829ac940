"""What a training records."""

from __future__ import annotations

from typing import Any

import torch
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer, Limits

QUICK: dict[str, Any] = {"num_inference_steps": 10, "rank": 2}


SMALL = Limits(largest_leak=float("inf"), trajectories=8, concept_trajectories=4, steps=2, words=50, pairs=30)


def test_what_was_active_and_beside_is_recorded() -> None:
    pipe = tiny_pipeline()
    options: dict[str, Any] = {"iterations": 1, "preserve": (), **QUICK}
    ESDTrainer(pipe, **options).erase("a cat")
    ESDTrainer(pipe, **options).erase("a dog")
    pipe.set_adapters(["no-a-cat", "no-a-dog"], [0.5, 1.0])
    facts = ESDTrainer(pipe, **options).erase("a bus", beside=["no-a-dog"]).provenance
    assert facts.active == {"no-a-cat": 0.5}
    assert facts.beside == ("no-a-dog",)
    assert facts.origin == "trained"
    assert facts.base_fingerprint == ESDTrainer(tiny_pipeline(), **options).erase("a bus").provenance.base_fingerprint
    other = ESDTrainer(tiny_pipeline(seed=1), **options).erase("a bus").provenance
    assert facts.base_fingerprint != other.base_fingerprint
    assert torch.__version__.startswith(facts.versions["torch"].split("+")[0])
