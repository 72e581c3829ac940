"""The small model with joint attention: it is a Stable Diffusion 3 that draws what it is asked for."""

from __future__ import annotations

import pytest
import torch
from controls import must_fail
from diffusers import SD3Transformer2DModel
from emoji_sd import OBJECTS, STYLES, Judge, draw, phrase, rates, some_pairs
from emoji_sd.joint import JOINT_WEIGHTS, JointPipeline, joint_settings, load_joint
from emoji_sd.text import LENGTH
from emoji_sd.train_transformer import states
from torch import nn

from diffusers_esd import ESDTrainer
from diffusers_esd.families import StableDiffusion3, family_for


@pytest.fixture(scope="module")
def pipe() -> JointPipeline:
    return load_joint()


def test_weights_are_below_8_mb() -> None:
    files = [path for path in JOINT_WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000


def test_it_is_a_stable_diffusion_3(pipe: JointPipeline) -> None:
    assert isinstance(family_for(pipe), StableDiffusion3)
    assert isinstance(pipe.transformer, SD3Transformer2DModel)
    assert 3_000_000 < sum(p.numel() for p in pipe.transformer.parameters()) < 4_000_000


def test_the_training_sees_what_the_pipeline_encodes(pipe: JointPipeline) -> None:
    prompts = ["a cat in mono style", ""]
    ids = pipe.tokenizer(prompts, padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids
    with torch.no_grad():
        ours = states(nn.ModuleList([pipe.text_encoder, pipe.text_encoder_2]), ids)
    theirs = pipe.encode_prompt(prompts, None, None, do_classifier_free_guidance=False)
    torch.testing.assert_close(ours[0], theirs[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(ours[1], theirs[2], rtol=0, atol=1e-5)
    with must_fail("the prompts are encoded in their order"):
        assert torch.allclose(ours[0].flip(0), theirs[0], atol=1e-3)


def test_it_draws_what_it_is_asked_for(pipe: JointPipeline) -> None:
    pairs = some_pairs(1, OBJECTS[::4])
    judge = Judge.from_pretrained()
    assert rates(pipe, judge, pairs, steps=12).object() >= 0.8
    with must_fail("other prompts draw other objects"):
        seen = judge(draw(pipe, [""] * len(pairs), steps=12)).objects.argmax(1)
        assert (seen == torch.arange(len(OBJECTS))[::4]).float().mean() >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("group", ["esd-x", "esd-u"])
def test_an_object_is_gone_and_the_others_stay(group: str) -> None:
    pipe, judge = load_joint(), Judge.from_pretrained()
    named, others = [("pizza", style) for style in STYLES] * 2, some_pairs(1, [w for w in OBJECTS if w != "pizza"])
    before = rates(pipe, judge, named).object(), rates(pipe, judge, others).object()
    erasure = ESDTrainer(pipe, **joint_settings(group)).erase(phrase("pizza"))
    after = rates(pipe, judge, named).object(), rates(pipe, judge, others).object()
    print(f"{group}: pizza {before[0]:.2f} -> {after[0]:.2f}, others {before[1]:.2f} -> {after[1]:.2f}")
    assert after[0] <= 0.2
    assert after[1] >= 0.95 * before[1]
    erasure.remove(pipe)
    with must_fail("without the erasure it is drawn"):
        assert rates(pipe, judge, named).object() <= 0.2
