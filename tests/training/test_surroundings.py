"""A training does not depend on what surrounds it, and what surrounds it does not notice."""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import Erasure, ESDTrainer, Limits
from diffusers_esd.families import family_for
from diffusers_esd.training.surroundings import Guard, silent

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 6, "rank": 2, "learning_rate": 1e-2}
LIMITS = Limits(largest_leak=float("inf"), trajectories=8, concept_trajectories=4, steps=2)
CONFINED: dict[str, Any] = {"preserve": ("a dog", "a bus"), "limits": LIMITS}
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


# Callbacks.


def set_global_state(pipe: Any) -> None:
    """Everything that PyTorch offers to change for a whole process or thread."""
    torch.manual_seed(7)
    torch.rand(3)
    torch.set_grad_enabled(False)
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.bfloat16)
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")


def change_adapters(pipe: Any) -> None:
    style_adapter(pipe, name=f"further-{len(pipe.unet.peft_config)}", scale=3.0)
    pipe.set_adapters(["style"], [2.0])


HOSTILE: dict[str, Callable[[Any], object]] = {
    "global state": set_global_state,
    "training mode": lambda pipe: pipe.unet.train(),
    "no gradient": lambda pipe: pipe.unet.requires_grad_(False),
    "gradients of all": lambda pipe: pipe.unet.requires_grad_(True),
    "gradients set to None": lambda pipe: pipe.unet.zero_grad(),
    "adapters off": lambda pipe: pipe.disable_lora(),
    "other adapters": change_adapters,
    "an image": lambda pipe: pipe("a dog", num_inference_steps=2),
    "inference mode": lambda pipe: torch.inference_mode().__enter__(),
}


def noisy_pipeline() -> Any:
    """A pipeline with dropout and a LoRA of its user's, so that modes and adapters matter."""
    pipe = tiny_pipeline()
    for module in pipe.unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    style_adapter(pipe)
    return pipe


@pytest.fixture(scope="module")
def undisturbed() -> Erasure:
    return ESDTrainer(noisy_pipeline(), **QUICK, **FREE).erase("a cat", name="ours")


@pytest.fixture
def settings() -> Iterator[None]:
    """PyTorch's settings as they were, after a callback that has changed them."""
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    yield
    torch.set_default_device(None)
    torch.set_default_dtype(torch.float32)
    torch.set_autocast_enabled("cpu", autocast[0])
    torch.set_autocast_dtype("cpu", autocast[1])
    torch.set_grad_enabled(True)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.usefixtures("settings")
def test_a_callback_cannot_change_a_training(name: str, undisturbed: Erasure) -> None:
    pipe, called = noisy_pipeline(), []

    def callback(progress: Any) -> None:
        called.append(progress.iteration)
        HOSTILE[name](pipe)

    found = ESDTrainer(pipe, **QUICK, **FREE).erase("a cat", name="ours", callback=callback)
    assert called == [1, 2, 3, 4, 5, 6]
    assert found.provenance.history == undisturbed.provenance.history
    for key, value in undisturbed.weights.items():
        assert torch.equal(found.weights[key], value), key
        assert not found.weights[key].is_inference()
    assert pipe.get_active_adapters()[:2] == ["style", "ours"]
    scales = [layer.scaling for layer in pipe.unet.modules() if "style" in getattr(layer, "scaling", ())]
    assert {scale["style"] for scale in scales} == {0.6}


@pytest.mark.parametrize("name", ["training mode", "other adapters"])
def test_without_the_guard_it_would(name: str, undisturbed: Erasure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Guard, "__exit__", lambda *_: None)
    pipe = noisy_pipeline()
    found = ESDTrainer(pipe, **QUICK, **FREE).erase("a cat", name="ours", callback=lambda _: HOSTILE[name](pipe))
    with must_fail("nothing is restored"):
        assert found.provenance.history == undisturbed.provenance.history


def change_a_weight(pipe: Any) -> None:
    with torch.no_grad():
        pipe.unet.conv_in.weight.add_(1e-3)


def replace_a_weight(pipe: Any) -> None:
    pipe.unet.conv_in.weight.data = pipe.unet.conv_in.weight.data + 1e-3


CANNOT_BE_RESTORED: dict[str, tuple[Callable[[Any], object], str]] = {
    "a weight": (change_a_weight, "has changed or moved the weights of the denoiser. `progress.erasure()` returns"),
    "another weight": (replace_a_weight, "has changed or moved the weights of the denoiser"),
    "our adapter": (lambda pipe: pipe.delete_adapters("ours"), "has changed the pipeline. There is no adapter 'ours'"),
    "fused": (lambda pipe: pipe.fuse_lora(), "has changed the pipeline. The pipeline has a fused LoRA"),
}


@pytest.mark.parametrize("name", CANNOT_BE_RESTORED)
@pytest.mark.parametrize("also_fails", [False, True])
def test_what_cannot_be_restored_is_an_error(name: str, also_fails: bool, tmp_path: Path) -> None:
    hostile, message = CANNOT_BE_RESTORED[name]
    pipe = noisy_pipeline()

    def callback(progress: Any) -> None:
        if progress.iteration == 3:
            hostile(pipe)
            if also_fails:
                raise ZeroDivisionError

    trainer = ESDTrainer(pipe, **QUICK, **FREE, output_dir=tmp_path, checkpoint_every=2)
    with pytest.raises(RuntimeError, match=re.escape(f"The callback {message}")) as caught:
        trainer.erase("a cat", name="ours", callback=callback)
    assert [path.name for path in (tmp_path / "ours").glob("checkpoint-*")] == ["checkpoint-2"], "not what it changed"
    assert "checkpoint-2" in caught.value.__notes__[0]


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
