"""Portable weights: one rank, the same products as before; weights that are not portable or do not fit are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from made import made
from tiny import tiny_pipeline, tiny_unet
from torch import Tensor

from diffusers_esd import Erasure
from diffusers_esd.portable import check_fit, check_portable, from_portable, lora_metadata, to_portable

LAYERS = {
    "linear": (torch.randn(2, 5), torch.randn(3, 2)),
    "conv": (torch.randn(3, 4, 3, 3), torch.randn(6, 3, 1, 1)),
}


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return made(tiny_pipeline(), group="esd-x", rank=2)


def test_padding_keeps_the_products() -> None:
    weights = to_portable(LAYERS, "unet", 4)
    check_portable(weights, "unet", 4)
    layers = from_portable(weights, "unet")
    assert layers.keys() == LAYERS.keys()
    for name, (a, b) in layers.items():
        before_a, before_b = LAYERS[name]
        assert len(a) == b.shape[1] == 4
        torch.testing.assert_close(b.flatten(1) @ a.flatten(1), before_b.flatten(1) @ before_a.flatten(1))
    assert not torch.equal(layers["linear"][0][:2], layers["linear"][0][2:]), "padded, not repeated"


def test_what_diffusers_reads_from_the_header() -> None:
    assert json.loads(lora_metadata("unet", "conv_in|conv_out", 4)) == {
        "unet.r": 4,
        "unet.lora_alpha": 4,
        "unet.target_modules": "conv_in|conv_out",
        "unet.rank_pattern": {},
        "unet.alpha_pattern": {},
    }


@pytest.mark.parametrize(
    ("component", "rank", "change", "message"),
    [
        ("vae", 4, lambda w: None, "the component must be 'unet' or 'transformer', got 'vae'"),
        ("unet", 4, lambda w: w.clear(), "its keys are not those of an adapter"),
        ("unet", 4, lambda w: w.popitem(), "its keys are not those of an adapter"),
        ("transformer", 4, lambda w: None, "does not belong to the transformer"),
        ("unet", 3, lambda w: None, "has shape (4, 5), but the rank is 3"),
        (
            "unet",
            4,
            lambda w: w.update({"unet.linear.lora_A.weight": torch.zeros(4, 5, dtype=torch.int64)}),
            "'unet.linear.lora_A.weight' must be a matrix or a kernel of floats, got torch.int64, 2 dims",
        ),
    ],
)
def test_weights_that_are_not_portable_are_refused(
    component: str, rank: int, change: Callable[[Any], Any], message: str
) -> None:
    weights: dict[str, Tensor] = to_portable(LAYERS, "unet", 4)
    change(weights)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_portable(weights, component, rank)


def test_weights_that_do_not_fit_are_refused(erasure: Erasure) -> None:
    check_fit(tiny_unet(), "unet", erasure.weights)
    wider = tiny_unet(block_out_channels=(16, 64))
    with pytest.raises(ValueError, match=r"^The erasure was trained on another architecture: layer '.*' has"):
        check_fit(wider, "unet", erasure.weights)
    renamed = {key.replace("attn2", "attn3"): value for key, value in erasure.weights.items()}
    with pytest.raises(ValueError, match=r"another architecture: this denoiser does not have a layer '.*attn3"):
        check_fit(tiny_unet(), "unet", renamed)
