"""Inputs of layers, through hooks that are gone afterwards."""

from __future__ import annotations

import pytest
import torch
from emoji_sd import load, settings
from torch import nn

from diffusers_esd import ESDTrainer
from diffusers_esd.training.inputs import layer_inputs, observed


def test_rows_of_a_convolution_are_what_its_kernel_sees() -> None:
    layer = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False)
    x = torch.randn(2, 3, 8, 8)
    out = layer_inputs(layer, x) @ layer.weight.flatten(1).T
    torch.testing.assert_close(out, layer(x).flatten(2).transpose(1, 2).reshape(-1, 5))


def test_hooks_are_gone_and_modes_as_they_were() -> None:
    pipe = load()
    pipe.unet.train()
    before = [len(module._forward_pre_hooks) for module in pipe.unet.modules()]
    ESDTrainer(pipe, **{**settings("esd-x"), "iterations": 1}).erase("a cat")
    pipe.unload_lora_weights()
    assert [len(module._forward_pre_hooks) for module in pipe.unet.modules()] == before
    assert pipe.unet.training

    with pytest.raises(ZeroDivisionError), observed(pipe.unet, ["conv_in"], lambda name, h: None, 0, "test"):
        1 / (len(pipe.unet.conv_in._forward_pre_hooks) - 1)
    assert not pipe.unet.conv_in._forward_pre_hooks
