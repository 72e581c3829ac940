"""Inputs of layers, through hooks that are gone afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from emoji_sd import load, settings
from torch import nn
from torch.nn import functional

from diffusers_esd import ESDTrainer
from diffusers_esd.training.inputs import observed, sampled_inputs


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        (3, {"stride": 2, "padding": 1}),
        (1, {}),
        ((3, 2), {"padding": (2, 0), "dilation": (1, 3)}),
        (3, {"dilation": 2}),
    ],
)
def test_rows_of_a_convolution_are_what_its_kernel_sees(kernel: Any, options: dict[str, Any]) -> None:
    layer = nn.Conv2d(3, 5, kernel, bias=False, **options)
    x = torch.randn(2, 3, 8, 8)
    rows = sampled_inputs(layer, x, 64, generator())
    torch.testing.assert_close(rows @ layer.weight.flatten(1).T, layer(x).flatten(2).transpose(1, 2).reshape(-1, 5))
    unfolded = functional.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    assert torch.equal(rows, unfolded.transpose(1, 2).reshape(len(rows), -1))


@pytest.mark.parametrize("shape", [(2, 100, 7), (2, 10, 10, 7)])
def test_a_sample_has_rows_of_all_parts_of_each_image(shape: tuple[int, ...]) -> None:
    layer = nn.Linear(7, 3)
    x = torch.arange(200.0).reshape(*shape[:-1], 1).expand(shape)
    rows = sampled_inputs(layer, x, 20, generator())
    assert rows.shape == (40, 7)
    places = rows[:, 0].long()
    assert torch.equal(places // 5, torch.arange(40)), "one of each five places"
    assert len(set((places % 5).tolist())) == 5
    assert torch.equal(rows, sampled_inputs(layer, x, 20, generator()))
    with must_fail("another generator takes other places"):
        assert torch.equal(rows, sampled_inputs(layer, x, 20, torch.Generator().manual_seed(1)))
    assert torch.equal(sampled_inputs(layer, x, 100, generator()), x.reshape(-1, 7)), "all places, in order"
    time = torch.randn(2, 7)
    assert torch.equal(sampled_inputs(layer, time, 20, generator()), time), "one input of each image"


def test_hooks_are_gone_and_modes_as_they_were() -> None:
    pipe = load()
    pipe.unet.train()
    before = [len(module._forward_pre_hooks) for module in pipe.unet.modules()]
    ESDTrainer(pipe, **{**settings("esd-x"), "iterations": 1}).erase("a cat")
    pipe.unload_lora_weights()
    assert [len(module._forward_pre_hooks) for module in pipe.unet.modules()] == before
    assert pipe.unet.training

    with pytest.raises(ZeroDivisionError), observed(pipe.unet, ["conv_in"], 4, lambda name, h: None, 0, "test"):
        1 / (len(pipe.unet.conv_in._forward_pre_hooks) - 1)
    assert not pipe.unet.conv_in._forward_pre_hooks
