"""One optimiser update."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from controls import must_fail
from tiny import tiny_pipeline
from torch import Tensor

from diffusers_esd import ESDTrainer

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 4, "rank": 2, "learning_rate": 1e-2, "preserve": ()}


def test_gradients_too_small_for_half_precision_are_scaled() -> None:
    """The scaler's own test: without it the first update of a float16 model has zeros where float32 has none."""

    @contextmanager
    def unscaled(enabled: bool) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            if enabled:
                real = torch.amp.GradScaler
                patch.setattr(torch.amp, "GradScaler", lambda *a, **k: real(*a, **{**k, "enabled": False}))
            yield

    def untouched(without_scaler: bool) -> int:
        pipe = tiny_pipeline().to(torch.float16)
        with torch.no_grad():
            pipe.unet.conv_out.weight.mul_(1e-3)
        with unscaled(without_scaler):
            erasure = ESDTrainer(pipe, **{**QUICK, "iterations": 1}).erase("a cat")
        return sum(int((value == 0).sum()) for key, value in erasure.weights.items() if "lora_B" in key)

    assert untouched(without_scaler=False) < untouched(without_scaler=True)


def test_an_overflow_is_an_error_with_a_remedy() -> None:
    pipe = tiny_pipeline().to(torch.float16)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(1e6)
    with pytest.raises(ValueError, match=r"^The loss is (nan|inf): predictions in torch.float16 overflow; load the"):
        ESDTrainer(pipe, **QUICK).erase("a cat")
    assert not hasattr(pipe.unet, "peft_config") or not pipe.unet.peft_config


def test_an_update_that_overflows_is_made_again_at_a_smaller_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    real = torch.optim.Adam.step

    def step(optimizer: Any, *arguments: Any) -> Any:
        if not optimizer.found_inf:  # the scaler's finding; the optimiser makes no step after an overflow
            steps.append(1)
        return real(optimizer, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    pipe = tiny_pipeline().to(torch.float16)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(100)
    erasure = ESDTrainer(pipe, **QUICK).erase("a cat")
    assert len(steps) == erasure.provenance.iterations == 4
    with must_fail("some attempts were made again"):
        assert erasure.provenance.evaluations["grad"] <= 4


def gradient_of_first_update(**options: Any) -> list[Tensor]:
    """What the optimiser is given first."""
    seen: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:

        def step(optimizer: torch.optim.Adam, closure: None = None) -> None:
            seen.extend(p.grad.clone() for group in optimizer.param_groups for p in group["params"])

        patch.setattr(torch.optim.Adam, "step", step)
        ESDTrainer(tiny_pipeline(), **{**QUICK, "iterations": 1, **options}).erase("a cat")
    return seen


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    calls: list[int] = []
    real = torch.utils.checkpoint.checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: calls.append(1) or real(*a, **k))
        checkpointed = gradient_of_first_update(gradient_checkpointing=True)
    with must_fail("blocks are checkpointed"):
        assert not calls
    plain = gradient_of_first_update()
    for ours, theirs in zip(plain, checkpointed, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_accumulated_gradients_are_the_mean_of_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two halves of a batch, one after the other, are as the whole."""
    from diffusers_esd.training.trajectory import FreshTrajectory, States

    generator = torch.Generator().manual_seed(0)
    noise, position = torch.randn((4, 4, 8, 8), generator=generator), torch.tensor([0, 1, 2, 3])

    def draw(n: int) -> Iterator[States]:
        for start in range(0, 4, n):
            here = slice(start, start + n)
            yield States(noise[here], position[here], ("a cat",) * n)

    found = []
    for batch_size, steps in ((4, 1), (2, 2)):
        batches = draw(batch_size)
        monkeypatch.setattr(FreshTrajectory, "draw", lambda self, batches=batches: next(batches))
        options = {"batch_size": batch_size, "gradient_accumulation_steps": steps, "trajectory": "fresh"}
        found.append(gradient_of_first_update(**options))
    for whole, halves in zip(*found, strict=True):
        torch.testing.assert_close(whole, halves, rtol=1e-3, atol=1e-6)
