"""Prompts of different lengths in one tensor."""

from __future__ import annotations

import torch

from diffusers_esd.families.padding import padded, unpadded


def test_padding_repeats_the_prompts_own_states_and_is_not_read() -> None:
    rows = [torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]]), torch.tensor([[4.0], [5.0], [6.0], [7.0]])]
    states, mask = padded(rows, 3)
    assert states[..., 0].tolist() == [[1, 2, 1], [3, 3, 3], [4, 5, 6]]
    assert mask.tolist() == [[True, True, False], [True, False, False], [True, True, True]]
    for row, own in zip(rows, unpadded(states, mask), strict=True):
        assert torch.equal(own, row[:3]), "a longer prompt is cut"
