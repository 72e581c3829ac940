"""Provenance: JSON both ways, also from files of earlier versions; values of the wrong type are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from made import is_equal, made
from tiny import tiny_pipeline

from diffusers_esd import Erasure, ESDConfig
from diffusers_esd.files import HEADER_KEY, WEIGHTS_NAME, write_safetensors
from diffusers_esd.provenance import Provenance, read_record

FORMER = {
    "concepts": ["a cat"], "base_model": "someone/model", "family": "StableDiffusion", "component": "unet",
    "pattern": "conv_in", "layers": 1, "versions": {}, "iterations": 5, "alignment": 0.5, "seconds": 2.0,
    "evaluations": {"no_grad": 1, "grad": 1}, "complete": True, "history": [[1.0, 0.5]], "parts": [],
    "rank_error": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "origin"),
    [
        ({}, "trained"),
        ({"parts": [["a", 1.0], ["b", 0.5]]}, "merged"),
        ({"parts": [["file.safetensors", 1.0]], "iterations": 0, "alignment": None}, "imported"),
    ],
)
def test_files_of_an_earlier_version_are_read(changes: dict[str, Any], origin: str, tmp_path: Path) -> None:
    config = {**ESDConfig(rank=2, eta=2.0).to_dict(), "offload": True, "gradient_checkpointing": False, "former": [1]}
    values = {"name": "no-cat", "config": config, "provenance": {**FORMER, **changes}}
    weights = {
        "unet.conv_in.lora_A.weight": torch.ones(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.ones(16, 2, 1, 1),
    }
    write_safetensors(tmp_path / WEIGHTS_NAME, weights, {HEADER_KEY: json.dumps(values)})
    read = Erasure.from_pretrained(tmp_path)
    assert read.provenance.origin == origin
    assert read.config == (ESDConfig(rank=2, eta=2.0) if origin == "trained" else None)
    assert read.provenance.concepts == ("a cat",)
    assert read.provenance.processes == 1
    assert read.rank == 2
    assert is_equal(Erasure.from_pretrained(read.save_pretrained(tmp_path / "again")), read)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"origin": "found"}, "`origin`: expected one of 'trained', 'merged', 'refined', 'imported', got 'found'"),
        ({"layers": -1}, "`layers`: expected 0 or more, got -1"),
        ({"layers": True}, "`layers`: expected a whole number, got True"),
        ({"concepts": "a cat"}, "`concepts`: expected a list, got 'a cat'"),
        ({"concepts": [1]}, "`concepts`: expected a string, got 1"),
        ({"leaks": {"conv_in": "0"}}, "`leaks`: expected a number, got '0'"),
        ({"left_out": [1]}, r"`left_out`: expected an object, got \[1\]"),
        ({"complete": 1}, "`complete`: expected True or False, got 1"),
        ({"history": [[1.0]]}, r"`history`: expected a pair, got \[1.0\]"),
        ({"base_fingerprint": "xyz"}, "`base_fingerprint`: expected groups of four hexadecimal digits, got 'xyz'"),
    ],
)
def test_values_of_the_wrong_type_are_refused(changes: dict[str, Any], message: str) -> None:
    assert Provenance.from_dict(FORMER).layers == 1
    with pytest.raises((TypeError, ValueError), match=message):
        Provenance.from_dict({**FORMER, **changes})


def test_both_ways() -> None:
    full = replace(
        made(tiny_pipeline()).provenance,
        left_out={"too faint": ("conv_in", "conv_out")},
        leaks={"conv_in": 0.01},
        alignments={"a cat": -0.5, "a dog": None},
        preserved={"prompts": 5, "moments": 4, "loss": 3},
        active={"style": 0.6},
        beside=("no-dog",),
    )
    values = {"name": "x", "config": None, "provenance": json.loads(json.dumps(full.to_dict()))}
    assert read_record(values) == ("x", None, full)
