"""Smoothed alignment, and what a callback gets."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from dataclasses import asdict, fields
from typing import Any

import pytest
import torch
from controls import must_fail
from made import is_equal, made, with_provenance
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import Erasure, ESDTrainer, Limits, Progress, refine
from diffusers_esd.training.progress import Alignments


def test_alignment_is_a_ratio_of_averages_and_a_concept_may_rise_again() -> None:
    found = Alignments(-0.5)
    a, b = 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    for visit in range(40):
        forward, length = torch.randn(2, generator=generator), torch.rand(2, generator=generator) + 0.1
        found.update(["a cat", "a cat"], forward.tolist(), length.tolist())
        a, b = 0.95 * a + forward.sum().item(), 0.95 * b + length.sum().item()
        assert found.values() == {"a cat": pytest.approx(a / b, rel=1e-5)}
        if visit < 19:
            assert not found.is_done("a cat")
    for _ in range(200):
        found.update(["a cat"], [-1.0], [1.0])
    assert found.is_done("a cat")
    for _ in range(20):
        found.update(["a cat", "a dog"], [1.0, -1.0], [1.0, 1.0])
    assert not found.is_done("a cat")
    assert found.is_done("a dog")
    assert found.mean() == pytest.approx(sum(found.values().values()) / 2)


OPTIONS: dict[str, Any] = {
    "group": "esd-x", "num_inference_steps": 4, "iterations": 5, "rank": 2, "lora_alpha": 3, "learning_rate": 1e-2,
    "preserve": ("a dog", "a bus"),
    "limits": Limits(largest_leak=float("inf"), trajectories=8, concept_trajectories=4, steps=2),
}  # fmt: skip


def test_the_erasure_so_far_is_that_of_a_training_that_stops_there() -> None:
    kept: list[Erasure] = []

    def keep(progress: Progress) -> str | None:
        kept.append(progress.erasure())
        return "stop" if progress.iteration == 3 else None

    pipe = tiny_pipeline()
    style_adapter(pipe)
    erasure = ESDTrainer(pipe, **OPTIONS).erase("a cat", callback=keep)
    assert [e.provenance.iterations for e in kept] == [1, 2, 3]
    assert not any(e.provenance.complete for e in kept)
    assert is_equal(with_provenance(kept[-1], seconds=0.0), with_provenance(erasure, seconds=0.0))
    assert kept[-1].provenance.active == {"style": pytest.approx(0.6)}
    with must_fail("the copy of the second iteration stays as it was"):
        assert is_equal(with_provenance(kept[1], seconds=0.0), with_provenance(kept[2], seconds=0.0))
    kept[0].apply(tiny_pipeline())


def test_the_erasure_so_far_of_a_refinement_names_its_parts() -> None:
    kept: list[Erasure] = []
    pipe = tiny_pipeline()
    parts = {made(pipe, "a cat", rank=1): 1.0, made(pipe, "a dog", rank=1, seed=1): 0.5}
    options: dict[str, Any] = {"iterations": 20, "preserve": ("a bus", "a rocket"), "num_inference_steps": 4}
    refine(pipe, parts, callback=lambda p: kept.append(p.erasure()) or "stop", **options)
    assert kept[0].provenance.origin == "refined"
    assert kept[0].provenance.parts == (("no-a-cat", 1.0), ("no-a-dog", 0.5))


def test_after_the_callback_there_is_no_erasure_of_that_moment() -> None:
    seen: list[Progress] = []
    ESDTrainer(tiny_pipeline(), **OPTIONS).erase("a cat", callback=lambda p: seen.append(p))
    message = "^`progress.erasure()` is the erasure at this moment; call it in the callback, and keep the result.$"
    with pytest.raises(RuntimeError, match=message.replace("(", r"\(").replace(")", r"\)")):
        seen[0].erasure()


def test_progress_is_a_value() -> None:
    """It can be compared, copied and pickled in a callback, and does not keep the training in memory."""
    found: list[bool] = []
    kept: list[Progress] = []

    def look(progress: Progress) -> None:
        copies = copy.deepcopy(progress), pickle.loads(pickle.dumps(progress)), Progress(**asdict(progress))
        found.extend(other == progress for other in copies)
        found.append(list(asdict(progress)) == [field.name for field in fields(Progress)])
        kept.append(progress)

    pipe = tiny_pipeline()
    ESDTrainer(pipe, **OPTIONS).erase("a cat", callback=look)
    assert found == [True] * 20
    unet = weakref.ref(pipe.unet)
    del pipe
    gc.collect()
    assert unet() is None
