"""Prompts of different lengths in one tensor, for denoisers that read each prompt's own tokens and no padding.

The padding repeats the prompt's token states. The denoiser does not read it, so what it holds does not matter there.
But a null space samples the inputs of layers at random places, and averages token states. With zeros it would see
almost nothing but padding: a prompt has about ten tokens of 300 or 512.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padded(states: Sequence[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Token states of all prompts, and which of them the denoiser reads.

    Args:
        states: Those of each of N prompts, (tokens, width), at least one.
        length: Tokens that a prompt gets. A longer prompt is cut.

    Returns:
        States (N, length, width), and a mask (N, length), true at a prompt's own tokens.
    """
    places = torch.arange(length, device=states[0].device)
    return torch.stack([row[places % len(row)] for row in states]), torch.stack([places < len(row) for row in states])


def unpadded(states: Tensor, mask: Tensor) -> list[Tensor]:
    """Token states of each prompt, (tokens, width), of states (N, length, width) and a mask (N, length)."""
    return [row[chosen.bool()] for row, chosen in zip(states, mask, strict=True)]
