"""Smoothed alignment."""

from __future__ import annotations

import pytest
import torch

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
