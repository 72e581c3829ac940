"""The configuration: defaults, JSON both ways, and a clear error for every wrong value."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_esd import ESDConfig, RunConfig

ERRORS: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"group": "(attn1"}, ValueError,
        "`group` must be one of 'esd-x', 'esd-x-strict', 'esd-u', 'full', or a regular expression; got '(attn1' "
        "(missing ), unterminated subpattern at position 0).",
    ),
    ({"group": 3}, TypeError, "`group` must be a string, got 3 of type int."),
    (
        {"lr_scheduler": "step"}, ValueError,
        "`lr_scheduler` must be one of 'constant', 'linear', 'cosine', got 'step'.",
    ),
    ({"eta": 10**400}, ValueError, f"`eta` must be 0 or more, got {10**400}."),
    ({"lr_warmup_steps": 1000}, ValueError, "`lr_warmup_steps` must be fewer than `iterations`, 1000; got 1000."),
    ({"lr_warmup_steps": -1}, ValueError, "`lr_warmup_steps` must be 0 or more, got -1."),
    (
        {"eta": 0, "erase_from": "an animal"}, ValueError,
        "`eta`=0 erases nothing with `erase_from`; give `eta` above 0, or leave out `erase_from`.",
    ),
    ({"max_grad_norm": 0}, ValueError, "`max_grad_norm` must be above 0, got 0."),
    ({"preserve": 7}, TypeError, "`preserve` must be a list of prompts or 'vocabulary', got 7 of type int."),
    ({"rollout": "both"}, ValueError, "`rollout` must be one of 'student', 'teacher', got 'both'."),
    ({"trajectory": "none"}, ValueError, "`trajectory` must be one of 'pool', 'fresh', got 'none'."),
    ({"eta": -1}, ValueError, "`eta` must be 0 or more, got -1."),
    ({"eta": float("nan")}, ValueError, "`eta` must be 0 or more, got nan."),
    ({"eta": "1"}, TypeError, "`eta` must be a number, got '1' of type str."),
    ({"guidance_scale": -0.5}, ValueError, "`guidance_scale` must be 0 or more, got -0.5."),
    ({"rank": 0}, ValueError, "`rank` must be 1 or more, got 0."),
    ({"rank": 4.0}, TypeError, "`rank` must be a whole number, got 4.0 of type float."),
    ({"iterations": 0}, ValueError, "`iterations` must be 1 or more, got 0."),
    ({"num_inference_steps": 0}, ValueError, "`num_inference_steps` must be 1 or more, got 0."),
    ({"batch_size": -2}, ValueError, "`batch_size` must be 1 or more, got -2."),
    ({"size": 0}, ValueError, "`size` must be 1 or more, got 0."),
    ({"seed": -1}, ValueError, "`seed` must be 0 or more, got -1."),
    ({"learning_rate": 0}, ValueError, "`learning_rate` must be above 0, got 0."),
    ({"learning_rate": float("inf")}, ValueError, "`learning_rate` must be above 0, got inf."),
    ({"lora_alpha": -1.0}, ValueError, "`lora_alpha` must be above 0, got -1.0."),
    ({"preserve_weight": -1}, ValueError, "`preserve_weight` must be 0 or more, got -1."),
    ({"null_space": 1}, TypeError, "`null_space` must be True or False, got 1."),
    ({"stop_at_alignment": 1.0}, ValueError, "`stop_at_alignment` must be below 1, got 1.0."),
    (
        {"preserve": "a dog"}, TypeError,
        "`preserve` must be a list of prompts, such as ['a dog'], or 'vocabulary'; got 'a dog'.",
    ),
    ({"preserve": ["a dog", " "]}, ValueError, "`preserve` is empty: got ' '; give the words of a prompt."),
    ({"preserve": [7]}, TypeError, "`preserve` must be a string, got 7 of type int."),
    ({"erase_from": 7}, TypeError, "`erase_from` must be a string, got 7 of type int."),
    ({"iterations": True}, TypeError, "`iterations` must be a whole number, got True of type bool."),
    ({"eta": True}, TypeError, "`eta` must be a number, got True of type bool."),
    ({"size": 512.0}, TypeError, "`size` must be a whole number, got 512.0 of type float."),
    ({"seed": None}, TypeError, "`seed` must be a whole number, got None of type NoneType."),
    ({"guidance_scale": None}, TypeError, "`guidance_scale` must be a number, got None of type NoneType."),
    ({"learning_rate": -1e-4}, ValueError, "`learning_rate` must be above 0, got -0.0001."),
    ({"lora_alpha": 0}, ValueError, "`lora_alpha` must be above 0, got 0."),
    ({"erase_from": ""}, ValueError, "`erase_from` is empty: got ''; give the words of a prompt."),
]  # fmt: skip


@pytest.mark.parametrize(("values", "kind", "message"), ERRORS, ids=lambda v: str(v)[:40])
def test_wrong_values_are_refused(values: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        ESDConfig(**values)


def test_defaults_train_as_the_paper_does_for_nudity() -> None:
    config = ESDConfig()
    assert (config.group, config.eta, config.iterations, config.batch_size) == ("esd-u", 1.0, 1000, 1)
    assert (config.num_inference_steps, config.guidance_scale, config.rollout) == (50, 3.0, "student")
    assert (config.erase_from, config.stop_at_alignment) == (None, None)


@pytest.mark.parametrize(
    ("fields", "weight"),
    [
        ({}, 10.0),
        ({"group": "esd-x"}, 0.0),
        ({"group": "esd-x-strict"}, 0.0),
        ({"group": "esd-x", "null_space": False}, 10.0),
        ({"group": "full"}, 10.0),
        ({"preserve_weight": 0.0}, 0.0),
        ({"group": "esd-x", "preserve_weight": 3.0}, 3.0),
    ],
)
def test_the_vocabulary_is_preserved_by_a_loss_where_text_alone_cannot(fields: dict[str, Any], weight: float) -> None:
    config = ESDConfig(**fields)
    assert config.preserve == "vocabulary"
    assert config.loss_weight == weight


@pytest.mark.parametrize(
    "values",
    [{"eta": 0}, {"guidance_scale": 0}, {"rank": 1}, {"iterations": 1}, {"seed": 0}, {"stop_at_alignment": -1}],
)
def test_the_bounds_themselves_are_allowed(values: dict[str, Any]) -> None:
    """The control of the refusals above."""
    ((name, value),) = values.items()
    assert getattr(ESDConfig(**values), name) == value


def test_json_both_ways() -> None:
    config = ESDConfig(group="esd-x", eta=2, preserve=["a dog", "a key"], erase_from="a cowboy", size=512)
    assert ESDConfig.from_json(config.to_json()) == config
    assert ESDConfig.from_json(config.to_json()) != replace(config, eta=1)


def test_an_unknown_field_is_named() -> None:
    message = "Unknown ESDConfig field strength; expected group, eta, guidance_scale,"
    with pytest.raises(TypeError, match=re.escape(message)):
        ESDConfig.from_dict({"strength": 2})


@pytest.mark.parametrize("kind", [ESDConfig, RunConfig])
def test_it_is_frozen_and_every_field_is_documented(kind: type) -> None:
    names = [field.name for field in fields(kind)]
    with pytest.raises(FrozenInstanceError):
        setattr(kind(), names[0], None)
    for name in names:
        assert len(re.findall(rf"^ +{name}: ", kind.__doc__ or "", re.MULTILINE)) == 1, name


def test_numbers_of_numpy_are_numbers() -> None:
    config = ESDConfig(eta=np.float32(0.5), rank=np.int64(4), seed=np.uint8(3), stop_at_alignment=np.float64(-0.5))
    assert config == ESDConfig(eta=0.5, rank=4, seed=3, stop_at_alignment=-0.5)
    assert ESDConfig.from_json(config.to_json()) == config
    with pytest.raises(TypeError, match=r"^`eta` must be a number, got np.True_ of type bool"):
        ESDConfig(eta=np.bool_(True))
    with pytest.raises(TypeError, match=r"^`rank` must be a whole number, got np.float64\(4.0\)"):
        ESDConfig(rank=np.float64(4))


def test_the_papers_plain_training_in_one_word() -> None:
    config = ESDConfig.paper("esd-x")
    assert (config.group, config.eta, config.iterations, config.batch_size) == ("esd-x", 1.0, 1000, 1)
    assert (config.trajectory, config.rollout, config.preserve, config.null_space) == ("fresh", "student", (), False)
    assert ESDConfig.paper("esd-u", eta=3).eta == 3
    assert ESDConfig.paper() != ESDConfig(), "the default preserves everything else"


@pytest.mark.parametrize("name", ["offload", "gradient_checkpointing", "capture"])
def test_how_a_training_runs_is_checked_and_not_learned(name: str) -> None:
    assert name not in ESDConfig().to_dict()
    assert getattr(RunConfig(**{name: True}), name) is True
    with pytest.raises(TypeError, match=rf"^`{name}` must be True or False, got 1.$"):
        RunConfig(**{name: 1})


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ({"output_dir": 3}, TypeError, "`output_dir` must be a path, got 3 of type int."),
        ({"output_dir": " "}, ValueError, "`output_dir` is empty: got ' '; give a path, or None."),
        ({"resume": True}, TypeError, "`resume` must be a path, got True of type bool."),
        ({"output_dir": "x", "checkpoint_every": 0}, ValueError, "`checkpoint_every` must be 1 or more, got 0."),
        ({"keep_checkpoints": 0}, ValueError, "`keep_checkpoints` must be 1 or more, got 0."),
        (
            {"resume": "latest"}, ValueError,
            "`resume`='latest' needs `output_dir`, the folder of the checkpoints; got output_dir=None.",
        ),
        (
            {"checkpoint_every": 5}, ValueError,
            "`checkpoint_every`=5 needs `output_dir`, the folder of the checkpoints; got output_dir=None.",
        ),
        (
            {"sample_every": 5}, ValueError,
            "`sample_every`=5 needs `output_dir`, the folder of the images; got output_dir=None.",
        ),
        (
            {"report_to": "wandb"}, ValueError,
            "`report_to`='wandb' needs `output_dir`, the folder of the logs; got output_dir=None.",
        ),
        (
            {"output_dir": "x", "sample_every": 0.5}, TypeError,
            "`sample_every` must be a whole number, got 0.5 of type float.",
        ),
        (
            {"output_dir": "x", "sample_every": 5, "sample_prompts": "a cat"}, TypeError,
            "`sample_prompts` must be a list of prompts, such as ['a cat']; got 'a cat'.",
        ),
        (
            {"output_dir": "x", "sample_every": 5, "sample_prompts": ["a cat", " "]}, ValueError,
            "`sample_prompts` is empty: got ' '; give the words of a prompt.",
        ),
        (
            {"output_dir": "x", "sample_prompts": ["a cat"]}, ValueError,
            "`sample_prompts` needs `sample_every`, the iterations between two images; got None.",
        ),
        ({"report_to": True}, TypeError, "`report_to` must be the name of a tracker, or None; got True."),
        ({"report_to": " "}, TypeError, "`report_to` must be the name of a tracker, or None; got ' '."),
    ],
)  # fmt: skip
def test_wrong_settings_of_a_run_are_refused(values: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        RunConfig(**values)


def test_checkpoints_are_in_a_folder_of_the_adapter(tmp_path: Path) -> None:
    run = RunConfig(output_dir=tmp_path, checkpoint_every=5, keep_checkpoints=2, resume="latest")
    assert run.folder("no-cat") == tmp_path / "no-cat"
    assert RunConfig(resume="x/checkpoint-5").folder("no-cat") is None, "it can be resumed and write none"


def test_prompts_of_samples_are_a_tuple() -> None:
    run = RunConfig(output_dir="x", sample_every=5, sample_prompts=["a cat"])  # type: ignore[arg-type]
    assert run.sample_prompts == ("a cat",)
