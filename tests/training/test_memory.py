"""Offloading: other models are away while the denoiser trains, or gone."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from controls import must_fail
from made import is_equal, with_provenance
from tiny import tiny_pipeline, tiny_xl

from diffusers_esd import ESDTrainer, RunConfig
from diffusers_esd.families import family_for
from diffusers_esd.training.memory import offloaded

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 4, "rank": 2, "learning_rate": 1e-2, "preserve": ()}


def test_offload_keeps_other_models_away_while_training(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[tuple[str, str]] = []
    pipe = tiny_pipeline()
    names = {id(model): name for name, model in pipe.components.items()}
    for model in (pipe.vae, pipe.text_encoder):
        real = model.to
        monkeypatch.setattr(model, "to", lambda d, m=model, r=real: moved.append((names[id(m)], str(d))) or r(d))
    during: list[int] = []
    monkeypatch.setattr("diffusers_esd.training.memory.free_memory", lambda: during.append(len(moved)))
    ESDTrainer(pipe, **QUICK, offload=True).erase("a cat")
    assert during[-1] % 4 == 2, "away before training"
    assert sorted(moved[-4:]) == [("text_encoder", "cpu")] * 2 + [("vae", "cpu")] * 2, "away, and back"
    moved.clear()
    ESDTrainer(pipe, **QUICK).erase("a dog")
    with must_fail("without offload nothing is moved"):
        assert moved


def test_free_text_encoders_are_gone_before_the_denoiser_is_needed() -> None:
    expected, pipe = ESDTrainer(tiny_xl(), **QUICK, size=16).erase("a cat"), tiny_xl()
    encoders = [weakref.ref(pipe.text_encoder), weakref.ref(pipe.text_encoder_2)]
    seen: list[bool] = []
    pipe.unet.register_forward_pre_hook(lambda *_: seen.append(any(encoder() is not None for encoder in encoders)))
    trainer = ESDTrainer(pipe, **QUICK, size=16, free_text_encoders=True)
    erasure = trainer.erase("a cat")
    assert set(seen) == {False}, "not even in memory"
    assert is_equal(with_provenance(erasure, seconds=0.0), with_provenance(expected, seconds=0.0))
    assert pipe.text_encoder is None
    assert pipe.text_encoder_2 is None
    assert pipe.tokenizer is not None
    for needs_them in (lambda: trainer.erase("a dog"), lambda: erasure.check(pipe)):
        with pytest.raises(ValueError, match=r"^The text encoder is missing \(text_encoder=None\), and prompts must"):
            needs_them()
    seen.clear()
    other = tiny_xl()
    encoders[:] = [weakref.ref(other.text_encoder)]
    other.unet.register_forward_pre_hook(lambda *_: seen.append(encoders[0]() is not None))
    ESDTrainer(other, **QUICK, size=16).erase("a cat")
    with must_fail("without it they stay"):
        assert set(seen) == {False}


def test_what_cannot_work_with_free_text_encoders_is_refused(tmp_path: Path) -> None:
    message = (
        r"^`sample_every`=2 draws with the text encoders, which `free_text_encoders` drops\. Leave one of them out;"
    )
    with pytest.raises(ValueError, match=message):
        RunConfig(free_text_encoders=True, sample_every=2, output_dir=tmp_path)
    pipe = tiny_pipeline()
    add_hook_to_module(pipe.text_encoder, ModelHook())
    with pytest.raises(ValueError, match=r"^`free_text_encoders` cannot drop text encoders that hooks move, such as"):
        ESDTrainer(pipe, **QUICK, free_text_encoders=True)
    blind = tiny_pipeline()
    blind.text_encoder = None
    assert ESDTrainer(pipe, **QUICK).run.free_text_encoders is False, "the control"
    with pytest.raises(
        ValueError, match=r"^`sample_every`=2 needs a pipeline that can draw, and this one has no text e"
    ):
        ESDTrainer(blind, **QUICK, output_dir=tmp_path, sample_every=2)


@pytest.mark.parametrize("how", ["offload", "free_text_encoders"])
def test_a_denoiser_that_waits_on_the_cpu_moves_to_the_device_and_back(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = family_for(tiny_pipeline())
    moves: list[str] = []
    monkeypatch.setattr(type(family), "device", torch.device("meta"))  # a second device; nothing is computed
    monkeypatch.setattr(family.denoiser, "to", lambda device: moves.append(str(device)))
    with offloaded(family, RunConfig()):
        assert moves == [], "its user put it there"
    with offloaded(family, RunConfig(**{how: True})):
        assert moves == ["meta"]
    assert moves == ["meta", "cpu"]


def test_eight_bits_need_bitsandbytes() -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        with pytest.raises(ImportError, match=r"^`optimizer`='adam8bit' needs bitsandbytes: pip install"):
            ESDTrainer(tiny_pipeline(), optimizer="adam8bit")
    else:
        assert ESDTrainer(tiny_pipeline(), **QUICK, optimizer="adam8bit").erase("a cat").provenance.complete
