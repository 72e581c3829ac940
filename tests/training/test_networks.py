"""Evaluations are counted."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer

STEPS = 10


@pytest.mark.parametrize(("batch_size", "preserve"), [(1, ()), (4, ()), (2, ("a dog",))])
def test_evaluations_are_two_without_and_one_with_gradient(batch_size: int, preserve: tuple[str, ...]) -> None:
    pipe, counted = tiny_pipeline(), {"no_grad": 0, "grad": 0}
    iterations = 8

    def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        counted["grad" if torch.is_grad_enabled() else "no_grad"] += len(inputs[0])

    pipe.unet.register_forward_pre_hook(count)
    erasure = ESDTrainer(
        pipe,
        num_inference_steps=STEPS,
        iterations=iterations,
        batch_size=batch_size,
        rank=2,
        preserve=preserve,
        null_space=False,
    ).erase("a cat")
    pools = 2 if preserve else 1
    samples = iterations * batch_size * pools
    assert counted["grad"] == samples
    started = pools * 4 * batch_size * 2 * 5  # four members per state, five steps of two evaluations at most
    assert 2 * samples < counted["no_grad"] <= 2 * samples + started
    assert erasure.provenance.evaluations == counted
