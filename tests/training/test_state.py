"""The optimiser and its learning rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import tiny_pipeline

from diffusers_esd import ESDTrainer

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 8, "rank": 2, "preserve": (), "group": "esd-x-strict"}


def rates(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[float]:
    """The learning rate of each update."""
    found: list[float] = []
    step = torch.optim.Adam.step

    def note(optimizer: torch.optim.Adam, *arguments: Any, **named: Any) -> Any:
        found.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", note)
        ESDTrainer(tiny_pipeline(), **QUICK, learning_rate=1e-3, **options).erase("a cat")
    return found


def test_the_learning_rate_follows_its_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rates(monkeypatch) == [1e-3] * 8
    warm = rates(monkeypatch, lr_warmup_steps=4)
    assert warm == pytest.approx([0, 0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3, 1e-3])
    linear = rates(monkeypatch, lr_scheduler="linear", lr_warmup_steps=2)
    assert linear == pytest.approx([0, 0.5e-3, *[1e-3 * (8 - i) / 6 for i in range(2, 8)]])
    cosine = rates(monkeypatch, lr_scheduler="cosine")
    expected = 0.5e-3 * (1 + torch.cos(torch.pi * torch.arange(8) / 8))
    assert cosine == pytest.approx(expected.tolist(), rel=1e-4)
