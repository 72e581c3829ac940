"""Several processes train as one with their batches together; what one of them decides, all do."""

from __future__ import annotations

from typing import Any

import torch
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDTrainer

PLAIN: dict[str, Any] = {
    "group": "esd-x-strict", "num_inference_steps": 4, "iterations": 8, "rank": 2, "learning_rate": 1e-2,
    "preserve": (),
}  # fmt: skip


def train(concept: Any = "a cat", *, dtype: torch.dtype = torch.float32, **options: Any) -> Erasure:
    """A training of a new pipeline."""
    return ESDTrainer(tiny_pipeline().to(dtype), **{**PLAIN, **options}).erase(concept, name="ours")
