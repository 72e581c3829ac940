"""The benchmarks, at small size: the published loop trains what it should, and costs are counted."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import erasing, memory, scaling
from benchmarks.models import NAMES, pipeline
from benchmarks.processes import seconds
from benchmarks.published_loop import PublishedTraining
from benchmarks.speed import Cost, cost, table
from controls import must_fail
from emoji_sd import some_pairs
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


def test_judging_images_is_not_counted() -> None:
    looked: list[int] = []

    def erased() -> float:
        time.sleep(0.1)
        looked.append(clock.updates)
        return 0.0 if clock.updates == 27 else 1.0

    clock = erasing.Clock(erased)
    assert [clock.tick() for _ in range(27)] == [False] * 26 + [True]
    assert looked == [20, 27]
    assert clock.seconds < 0.1
    with must_fail("nothing is erased at the first look"):
        assert clock.rate > erasing.GONE


@pytest.mark.parametrize("way", ["published loop", "ours"])
def test_a_way_erases_until_its_end(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "some_pairs", lambda n: some_pairs(n)[:8])
    found = erasing.erasing(way, seconds=600, images=1, iterations=2, num_inference_steps=4, batch_size=2)
    assert (found.updates, found.states) == (2, 4)
    assert found.erased > erasing.GONE, "two updates erase nothing"
    assert found.others > 0.9
    line = list(erasing.table([(way, replace(found, seconds=3.2, erased=0.5, others=1.0))]))[-1]
    assert line == f"| {way} | not in 3 | 2 | 4 | 0.50 | 1.00 |"


def test_one_thing_changes_along_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling, "together", lambda model, device, n: Cost(3.0, 0.5, 1.0, 0, median=0.4 + 0.1 * n))
    seen: list[tuple[Any, ...]] = []

    def measure(model: str, way: str, device: str, fields: dict[str, Any], updates: int, concepts: list[str]) -> Cost:
        seen.append((fields["rank"], fields["batch_size"], fields.get("size", 64), updates, len(concepts)))
        return Cost(3.0, 0.7, 10.0, 2**30, median=0.5)

    points = list(scaling.points("emoji_sd", "cpu", "esd-u", 64, measure))
    usual = (16, 1, 64, scaling.UPDATES, 1)
    *points, one, two = points
    assert [round(point.states_per_second, 2) for point in (one, two)] == [1 / 0.5, round(2 / 0.6, 2)]
    assert list(scaling.table([two]))[-1] == "| processes | 2 | 0.6000 |  |  |"
    for point, found in zip(points, seen, strict=True):
        assert sum(a != b for a, b in zip(found, usual, strict=True)) <= 1, point
    # The usual values are on four of the axes.
    assert len(set(seen)) == len(seen) - 3
    assert [point.seconds for point in points[:2]] == [10 + 25 * 0.5, 10 + 50 * 0.5]
    assert points[-1].seconds == 0.5
    assert list(scaling.table(points))[-1] == "| batch | 8 | 0.5000 | 10.0 | 1.00 |"


def test_the_plots_are_for_light_and_dark(tmp_path: Path) -> None:
    points = [scaling.Point("rank", value, 30, Cost(3.0, value, 1.0, 2**30, median=value)) for value in (4, 8)]
    scaling.plot(points, tmp_path / "scaling.svg", "a title")
    text = (tmp_path / "scaling.svg").read_text(encoding="utf-8")
    assert "<title>a title</title>" in text
    assert "prefers-color-scheme:dark" in text
    assert text.count("var(--seconds)") > 2 < text.count("var(--memory)")
    assert "#0102" not in text


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


def test_memory_is_measured_and_an_error_is_a_row(tmp_path: Path) -> None:
    # No GPU here: a process that has not grown since the pipeline was loaded has a peak of 0 or a little more.
    found = memory.measured(memory.Way("emoji_sd", "esd-x", {"offload": True}), "cpu")
    assert min(found.loaded, found.seconds, found.set_up) > 0
    assert found.note == ""
    failed = memory.measured(memory.Way("emoji_sd", "esd-x", {"resume": "nowhere"}), "cpu")
    assert failed.note.startswith("FileNotFoundError: `resume` must be 'latest' or the folder of a checkpoint")
    full = replace(found, loaded=2**30, peak=2**31, reserved=3 * 2**30, card=2**32, seconds=0.25, note="why")
    path = tmp_path / "memory.json"
    lines = list(memory.written([full, failed], path, "a GPU"))
    assert lines[2] == "| emoji_sd | `esd-x` | offload (why) | 1.00 | 2.00 (3.00) | 4.00 | 0.250 |"
    assert lines[3].startswith("| emoji_sd | `esd-x` | resume | FileNotFoundError: ")
    assert path.with_suffix(".md").read_text(encoding="utf-8").splitlines() == ["a GPU", "", *lines]
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert [row["peak"] for row in stored["rows"]] == [2**31, 0]
    assert stored["where"] == "a GPU"


def test_memory_is_measured_with_whole_text_encoders() -> None:
    def sizes(name: str) -> list[int]:
        pipe: Any = pipeline(name, "meta", torch.bfloat16, whole_text_encoders=True)
        return [
            sum(p.numel() for p in model.parameters()) // 10**6 for model in (pipe.text_encoder, pipe.text_encoder_2)
        ]

    assert sizes("SDXL") == [123, 694]
    assert sizes("Flux.1 dev") == [123, 4762]
    assert {way.model for way in memory.ways(None, "cuda", quantised=True)} == {"SDXL", "Flux.1 dev"}
    assert {way.model for way in memory.ways("SDXL", "cuda", quantised=True)} == {"SDXL"}
    assert {way.model for way in memory.ways(None, "cpu", quantised=True)} == {"emoji_sd"}
