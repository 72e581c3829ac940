"""The benchmarks, at small size: the published loop trains what it should, and costs are counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from benchmarks.models import NAMES, pipeline
from benchmarks.processes import seconds
from benchmarks.published_loop import PublishedTraining
from benchmarks.speed import Cost, cost, table
from controls import must_fail
from published import MODELS
from tiny import tiny_pipeline

from diffusers_esd import ESDConfig, ESDTrainer


def test_the_published_loop_trains_the_weights_of_a_group_in_a_copy() -> None:
    pipe = tiny_pipeline()
    before = {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    training = PublishedTraining(pipe, "a cat", ESDConfig.paper("esd-x", num_inference_steps=5, learning_rate=1e-3))
    assert len(list(training.run(3))) == 3
    after = training.student.unet.state_dict()
    assert all(torch.equal(value, pipe.unet.state_dict()[name]) for name, value in before.items())
    for name, value in before.items():
        is_trained = ".attn2." in name and "norm" not in name
        assert torch.equal(value, after[name]) is not is_trained, name
    # The steps of the three trajectories are 2, 0 and 3 of 5.
    assert training.evaluations == 2 * (2 + 0 + 3) + 3 * 3
    with must_fail("a new denoiser has other weights"):
        assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_ways_are_measured_side_by_side() -> None:
    fields = {"group": "esd-x", "num_inference_steps": 5, "rank": 2}
    published, ours = (cost("emoji_sd", way, "cpu", fields, 2) for way in ("published loop", "ours"))
    assert ours.evaluations < 3.2 < published.evaluations, "three for an update, and a few at the start"
    assert min(ours.seconds, published.seconds) > 0
    lines = list(table([("ours", Cost(3.0, 0.5, 1.25, 2**30, 2**31, "why"))]))
    assert lines[-1] == "| ours (why) | 3.0 | 0.5000 | 1.2 | 1.00 (2.00) |"


SMALL: dict[str, dict[str, Any]] = {
    "SD 1.4": {"block_out_channels": (32, 32, 64, 64), "attention_head_dim": 4, "norm_num_groups": 8},
    "SDXL": {
        "block_out_channels": (32, 32, 64), "attention_head_dim": 4, "norm_num_groups": 8,
        "transformer_layers_per_block": 1,
    },
    "Flux.1 dev": {
        "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
        "axes_dims_rope": (4, 6, 6),
    },
}  # fmt: skip
"""Sizes of denoisers that take the published text encoders' states."""


@pytest.mark.parametrize("name", SMALL)
def test_the_random_pipelines_train(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]
    monkeypatch.setitem(MODELS, name, replace(model, config={**model.config, **SMALL[name]}))
    pipe = pipeline(name, "cpu", torch.bfloat16)
    fields = {"group": "esd-x", "size": 128, "num_inference_steps": 2, "iterations": 1}
    erasure = ESDTrainer(pipe, **fields, preserve=(), null_space=False).erase("a cat")
    assert erasure.provenance.iterations == 1
    assert erasure.provenance.layers > 0
    assert set(SMALL) == {*NAMES} - {"emoji_sd"}


def test_the_processes_of_a_launcher_measure_their_updates() -> None:
    options = {"device": "cpu", "threads": 1, "model": "emoji_sd", "batch_size": 1, "updates": 2}
    deltas, cpu = seconds(options, "plain", together=True)
    assert len(deltas) == 2
    assert min(deltas) > 0
    assert cpu > 0
