"""Prompts of other tools mean what those tools mean: their loss and ours have the same target."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from torch import Tensor

from diffusers_esd import ESDConfig, esd_target
from diffusers_esd.cli.prompt_files import read_prompts

VAN_GOGH = """
- target: "van gogh"
  positive: "van gogh"
  unconditional: ""
  neutral: ""
  action: "erase"
  guidance_scale: 1.5
  resolution: 512
  batch_size: 2
"""
SD_SCRIPTS = """
guidance_scale = 2.0
multiplier = 1.0
[[prompts]]
target = "a cat"
neutral = "an animal"
unconditional = "an animal"
[[prompts]]
target = "a rose"
unconditional = "a plant"
"""
JOB = """
job: train
config:
  name: eraser
  process:
    - type: slider
      train: {steps: 500}
      slider:
        resolutions: [[512, 512]]
        batch_full_slide: true
        targets:
          - {target_class: "a cat", positive: "", negative: "a cat", weight: 1.0, shuffle: false}
"""
CONCEPT_SLIDER = """
config:
  process:
    - type: concept_slider
      slider:
        guidance_strength: 3.0
        target_class: a cowboy
        positive_prompt: a cowboy without a hat
        negative_prompt: a cowboy with a hat
"""


def write(folder: Path, text: str, name: str = "prompts.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("name", "text", "concepts", "fields"),
    [
        ("a.yaml", VAN_GOGH, ("van gogh",), {"anchor": "", "eta": 1.5, "size": 512, "batch_size": 2}),
        ("a.yaml", "- target: a cat\n", ("a cat",), {"anchor": "", "eta": 1.0}),
        ("a.toml", SD_SCRIPTS, ("a cat", "a rose"), {"anchor": ("an animal", "a plant"), "eta": 2.0}),
        ("a.yaml", JOB, ("a cat",), {"anchor": "", "eta": 1.0, "size": 512}),
        (
            "a.yaml",
            CONCEPT_SLIDER,
            ("a cowboy with a hat",),
            {"anchor": "a cowboy without a hat", "eta": 3.0, "erase_from": "a cowboy"},
        ),
        (
            "a.yaml",
            "- {target: a cowboy, positive: a hat, neutral: a cowboy}",
            ("a hat",),
            {"anchor": "", "eta": 1.0, "erase_from": "a cowboy"},
        ),
        ("a.json", '[{"target": "x", "neutral": "x", "guidance_scale": 2}]', ("x",), {"anchor": "", "eta": 1.0}),
        ("a.yaml", "targets: [{target_class: x, negative: x}]\nguidance_scale: 2", ("x",), {"anchor": "", "eta": 2.0}),
        ("a.toml", '[slider]\ntarget_class = "x"\nnegative = "x"', ("x",), {"anchor": "", "eta": 1.0}),
        ("a.toml", 'target = "x"\nguidance_scale = 2', ("x",), {"anchor": "", "eta": 2.0}),
    ],
)
def test_files_become_concepts_and_fields(
    name: str, text: str, concepts: tuple[str, ...], fields: dict[str, Any], tmp_path: Path
) -> None:
    read = read_prompts(write(tmp_path, text, name))
    assert read == (concepts, fields)
    ESDConfig(**read[1])


def their_target(entry: Mapping[str, Any], predictions: Mapping[str, Tensor]) -> Tensor:
    """`PromptPair._erase` of LECO and `PromptSettings.build_target` of sd-scripts, and their defaults."""
    positive, unconditional = entry.get("positive", entry["target"]), entry.get("unconditional", "")
    neutral, scale = entry.get("neutral", unconditional), entry.get("guidance_scale", 1.0)
    return predictions[neutral] - scale * (predictions[positive] - predictions[unconditional])


def our_target(
    concept: str, fields: Mapping[str, Any], predictions: Mapping[str, Tensor], *, eta: float | None = None
) -> tuple[str, Tensor]:
    """The prompt that trains, and its target."""
    source = fields.get("erase_from")
    e_from = None if source is None else predictions[source]
    scale = fields["eta"] if eta is None else eta
    target = esd_target(predictions[concept], predictions[fields["anchor"]], scale, e_from)
    return source or concept, target


@pytest.mark.parametrize(
    "entry",
    [
        {"target": "a"},
        {"target": "a", "guidance_scale": 3.0},
        {"target": "a", "unconditional": "b", "guidance_scale": 0.5},
        {"target": "a", "positive": "b", "neutral": "a", "unconditional": "c", "guidance_scale": 2.0},
        {"target": "a", "neutral": "a", "unconditional": "c", "guidance_scale": 2.5},
        {"target": "a", "neutral": "c", "unconditional": "c", "guidance_scale": 0.0},
    ],
)
def test_the_target_is_theirs(entry: dict[str, Any], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = {prompt: torch.randn(2, 4, dtype=torch.float64, generator=generator) for prompt in ("", *"abc")}
    (concept,), fields = read_prompts(write(tmp_path, json.dumps([entry]), "a.json"))
    trained, target = our_target(concept, fields, predictions)
    assert trained == entry["target"]
    torch.testing.assert_close(target, their_target(entry, predictions), rtol=0, atol=1e-12)
    _, wrong = our_target(concept, fields, predictions, eta=fields["eta"] + 1)
    with must_fail("another eta has another target"):
        torch.testing.assert_close(wrong, their_target(entry, predictions))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "- {target: a, action: enhance}",
            "`action` must be 'erase', got 'enhance'. An erasure does not amplify; train",
        ),
        ("- {target: a, positive: b}", "`neutral` must be `unconditional`, with `positive` as `target`, or"),
        ("- {target: a, neutral: b}", "`neutral` must be `unconditional`, with `positive` as `target`, or"),
        ("- {target: '', positive: b, neutral: ''}", "`target` must be a prompt that is not empty, got ''"),
        ("- {target: a, multiplier: 2.0}", "`multiplier` must be 1.0 or be left out; a training here does not have it"),
        ("- {target: a, dynamic_crops: true}", "`dynamic_crops` must be False or be left out"),
        (
            "- {target: a, resolution: [512, 768]}",
            "`resolution` must be the side of a square, such as 512; got [512, 7",
        ),
        ("- {target: a, unconditional: [b]}", "`unconditional` must be a prompt, got ['b']."),
        ("- {target: a, guidance_scale: strong}", "`guidance_scale` must be a number, got 'strong'."),
        ("- {target: a, colour: red}", "`colour` is not read; expected target, positive, unconditional, neutral, act"),
        ("- {positive: a}", "an entry must have `target`; got {'positive': 'a'}"),
        ("targets: [{target_class: a, positive: b, negative: a}]", "a target with `positive` is a slider, and amplif"),
        ("targets: [{target_class: a, positive: b}]", "a target with `positive` is a slider, and amplifies it; expe"),
        ("targets: [{target_class: a, negative: b}]", "`neutral` must be `unconditional`, with `positive` as `tar"),
        ("[{target: a}, {target: b, guidance_scale: 2}]", "has entries with different settings, "),
        (
            "[{target: a, positive: b, neutral: a}, {target: a, positive: c, neutral: a}]",
            "has 2 entries, and `erase_from` is for a single concept; train them one by one.",
        ),
        ("iterations: 5", "has no prompts: expected a list of entries with `target`, as LECO's, `prompts` or `targ"),
        ("[]", "has no prompts: expected a list"),
        ("config: {process: []}", "has 0 processes with `slider`; expected one."),
        ("config: {process: 3}", "has 0 processes with `slider`; expected one."),
        ("config: {process: [{slider: null}]}", "has 0 processes with `slider`; expected one."),
        ("targets: [{target_class: a, negative: a}]\nresolutions: [[8, 8], [9, 9]]", "`resolutions` has 2 sizes, and"),
    ],
)
def test_what_has_no_equal_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_prompts(write(tmp_path, text))


def test_the_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*a\.yaml; give a file of prompts, such as prompts"):
        read_prompts(tmp_path / "a.yaml")
    with pytest.raises(
        ValueError, match=r"a\.txt is not a file of prompts; expected one that ends in \.yaml, \.yml, \.t"
    ):
        read_prompts(write(tmp_path, "a cat\n", "a.txt"))
