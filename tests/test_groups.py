"""Which layers a group selects."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tiny import tiny_pipeline, tiny_unet

from diffusers_esd import ESDTrainer
from diffusers_esd.denoiser import base_layers
from diffusers_esd.groups import select

QUICK: dict[str, Any] = {"num_inference_steps": 3, "iterations": 1, "rank": 2, "preserve": ()}


def test_groups() -> None:
    message = (
        "`group`='xattn', as a regular expression, selects no layer of this denoiser; "
        "groups that do: 'esd-x' (16 layers), 'esd-x-strict' (8 layers), 'esd-u' (67 layers), 'full' (83 layers)."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ESDTrainer(tiny_pipeline(), group="xattn")
    message = (
        "`group`='esd-x' selects no layer of this denoiser; groups that do: 'esd-u' (1 layers), 'full' (1 layers)."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        select(["conv_in"], ["", "conv_in"], "esd-x")


def test_a_group_of_ones_own_is_counted_like_the_others() -> None:
    """The paper's other sets of parameters: self-attentions alone, and everything but the layers of the timestep."""
    modules = [name for name, _ in tiny_unet().named_modules()]
    layers = base_layers(tiny_unet())
    selfs = select(layers, modules, r".*\.attn1\..*")
    assert set(selfs.names) == {name for name in layers if ".attn1." in name}
    timeless = select(layers, modules, r"(?!time_embedding)((?!time_emb_proj).)*")
    assert set(layers) - set(timeless.names) == {name for name in layers if "time_emb" in name}
    for selection in (selfs, timeless):
        assert {name for name in modules if re.fullmatch(selection.pattern, name)} == set(selection.names)
    erasure = ESDTrainer(tiny_pipeline(), **QUICK, group=r".*\.attn1\..*").erase("a cat")
    assert erasure.layers().keys() == set(selfs.names)


def test_a_group_that_the_null_space_leaves_out_whole_is_refused_at_once() -> None:
    group = r".*attn2\.to_q"
    with pytest.raises(ValueError, match=r"selects only queries and outputs .* null_space=False or preserve=\(\).$"):
        ESDTrainer(tiny_pipeline(), group=group)
    assert ESDTrainer(tiny_pipeline(), **QUICK, group=group).erase("a cat").provenance.layers == 4
