"""A training does not depend on what surrounds it, and what surrounds it does not notice."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from controls import must_fail
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import Erasure, ESDTrainer, Limits
from diffusers_esd.families import family_for
from diffusers_esd.training.surroundings import silent

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 6, "rank": 2, "learning_rate": 1e-2}
CONFINED: dict[str, Any] = {"preserve": ("a dog", "a bus"), "limits": Limits(largest_leak=float("inf"), trajectories=8)}
FREE: dict[str, Any] = {"preserve": ()}


def trained(options: dict[str, Any], surroundings: AbstractContextManager[Any]) -> Erasure:
    pipe = tiny_pipeline()
    with surroundings:
        return ESDTrainer(pipe, **{**QUICK, **options}).erase("a cat")


@contextmanager
def default_type(dtype: torch.dtype = torch.float64) -> Iterator[None]:
    """Another default type of new tensors, for as long as it lasts."""
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "another default device": lambda: torch.device("meta"),
    "another default type": default_type,
    "a default type of fewer bits": lambda: default_type(torch.bfloat16),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, Erasure]:
    return {"free": trained(FREE, nullcontext()), "confined": trained(CONFINED, nullcontext())}


@pytest.mark.parametrize("name", SURROUNDINGS)
@pytest.mark.parametrize("kind", ["free", "confined"])
def test_a_training_is_the_same_inside(name: str, kind: str, expected: dict[str, Erasure]) -> None:
    found = trained({"free": FREE, "confined": CONFINED}[kind], SURROUNDINGS[name]())
    assert found.weights.keys() == expected[kind].weights.keys()
    for key, value in expected[kind].weights.items():
        assert torch.equal(found.weights[key], value), key
        assert not found.weights[key].is_inference()
    assert found.provenance.history == expected[kind].provenance.history


def test_autocast_would_keep_the_student_as_it_was() -> None:
    """The control: the cast of a weight is cached for as long as autocast lasts."""
    layer = torch.nn.Linear(4, 4)
    x = torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        with torch.no_grad():
            layer.weight.add_(1.0)
        with must_fail("the change of the weight is not seen"):
            assert not torch.equal(layer(x), before)


def test_two_trainings_in_two_threads_do_not_disturb_each_other() -> None:
    def erase(concept: str, found: dict[str, Erasure], pipe: Any) -> None:
        found[concept] = ESDTrainer(pipe, **QUICK, **CONFINED).erase(concept)

    apart: dict[str, Erasure] = {}
    together: dict[str, Erasure] = {}
    for concept in ("a cat", "a rocket"):
        erase(concept, apart, tiny_pipeline())
    pipes = {concept: tiny_pipeline() for concept in apart}
    state, filters = torch.get_rng_state(), list(warnings.filters)
    threads = [threading.Thread(target=erase, args=(concept, together, pipes[concept])) for concept in apart]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for concept, erasure in apart.items():
        assert together[concept].weights.keys() == erasure.weights.keys()
        for key, value in erasure.weights.items():
            torch.testing.assert_close(together[concept].weights[key], value, rtol=1e-4, atol=1e-6)
    assert torch.equal(torch.get_rng_state(), state)
    assert warnings.filters == filters


def test_nothing_frightens_for_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    """Our own calls on a pipeline with an adapter: no warning of PEFT's or of diffusers'."""
    pipe = tiny_pipeline()
    style_adapter(pipe)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error", UserWarning)
        erasure = ESDTrainer(pipe, **QUICK, **FREE).erase("a cat")
        erasure.save_pretrained(tmp_path / "cat")
        erasure.remove(pipe)
        Erasure.from_pretrained(tmp_path / "cat").apply(pipe)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_long_prompt_is_named_once_and_the_wall_of_text_kept_back(caplog: pytest.LogCaptureFixture) -> None:
    long = "a dog " * 30
    other = "a bus " * 30
    concept = "a cat " * 30
    pipe = tiny_pipeline()
    keep = {**CONFINED, "preserve": (long, "a dog", other)}
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        ESDTrainer(pipe, **QUICK, **keep).erase(concept)
    named = [str(w.message).split("'")[1] for w in caught if "is longer than" in str(w.message)]
    assert sorted(named) == sorted([concept, other, long]), "and not the concept in each of its contexts"
    assert {w.filename for w in caught if "is longer than" in str(w.message)} == {__file__}
    assert not [record for record in caplog.records if "truncated" in record.getMessage()]
    with caplog.at_level(logging.WARNING):
        pipe.encode_prompt(long, "cpu", 1, False)
    with must_fail("the pipeline's own calls log it"):
        assert not [record for record in caplog.records if "truncated" in record.getMessage()]


def test_one_process_of_several_is_silent_and_then_as_before() -> None:
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(desc="mine")
    family = family_for(pipe)
    for enabled in (True, False):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            with silent(family, enabled=enabled):
                warnings.warn("a warning", UserWarning, stacklevel=1)
                assert pipe.progress_bar(total=1).disable is enabled
            assert len(found) == (not enabled)
        assert pipe.progress_bar(total=1).desc == "mine"
