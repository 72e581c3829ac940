"""Offloading: other models are away while the denoiser trains."""

from __future__ import annotations

from typing import Any

import pytest
from controls import must_fail
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer

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


def test_eight_bits_need_bitsandbytes() -> None:
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        with pytest.raises(ImportError, match=r"^`optimizer`='adam8bit' needs bitsandbytes: pip install"):
            ESDTrainer(tiny_pipeline(), optimizer="adam8bit")
    else:
        assert ESDTrainer(tiny_pipeline(), **QUICK, optimizer="adam8bit").erase("a cat").provenance.complete
