"""What is learned: before a first update it is the prompt itself, in every family; nothing is left on the pipeline."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from safetensors.torch import load_file
from tiny import tiny_aura_flow, tiny_flux, tiny_pipeline, tiny_sd3, tiny_xl
from tiny_language import tiny_kolors, tiny_sana, tiny_z_image

from diffusers_esd.evaluation.attacks.soft import SoftPrompt, SoftToken, pipeline_arguments
from diffusers_esd.evaluation.methods import drawer
from diffusers_esd.evaluation.prompts import Prompt
from diffusers_esd.families import family_for

PROMPTS = (Prompt(case="a", text="a cat", seed=1), Prompt(case="b", text="a cat", seed=2))
TEXTS = [prompt.text for prompt in PROMPTS]


def hooks(pipe: Any) -> int:
    encoders = [pipe.components[name] for name in ("text_encoder", "text_encoder_2") if name in pipe.components]
    return sum(len(encoder.get_input_embeddings()._forward_hooks) for encoder in encoders)


@pytest.mark.parametrize("build", [tiny_xl, tiny_sd3, tiny_flux, tiny_aura_flow, tiny_sana, tiny_kolors])
def test_a_soft_prompt_starts_as_its_prompt(build: Any) -> None:
    pipe = build()
    pipe.vae.register_to_config(shift_factor=0.1)
    family = family_for(pipe)
    options = {"use_resolution_binning": False} if build is tiny_sana else {}
    draw = drawer(pipe, {"num_inference_steps": 2, "height": 32, "width": 32, **options})
    soft = SoftPrompt(family, "a cat")
    expected = draw(PROMPTS)
    with torch.no_grad():
        same = draw(PROMPTS, **pipeline_arguments(family, soft.rows(TEXTS)))
        for parameter in soft.parameters.values():
            parameter.mul_(-1)
        other = draw(PROMPTS, **pipeline_arguments(family, soft.rows(TEXTS)))
    for a, b in zip(same, expected, strict=True):
        assert np.abs(np.asarray(a, float) - np.asarray(b, float)).max() <= 1
    with must_fail("the conditioning matters"):
        assert np.array_equal(other[0], expected[0])


@pytest.mark.parametrize(("build", "encoders"), [(tiny_pipeline, 1), (tiny_xl, 2), (tiny_sd3, 3), (tiny_flux, 2)])
def test_a_soft_token_is_read_in_place_of_its_word_only(build: Any, encoders: int) -> None:
    pipe = build()
    family = family_for(pipe)
    before = hooks(pipe), {n: p.clone() for n, p in pipe.text_encoder.named_parameters()}
    soft = SoftToken(family, "cat")
    assert len(soft.parameters) == encoders
    with torch.no_grad():
        rows = soft.rows(["a cat", "a cat in mono style"])
        for key, value in family.encode(["a cat", "a cat in mono style"]).items():
            torch.testing.assert_close(rows[key], value)
        for name, parameter in soft.parameters.items():  # the row of another word
            encoder = pipe.components[name]
            tokenizer = pipe.components[name.replace("text_encoder", "tokenizer")]
            dog = tokenizer("dog", add_special_tokens=False).input_ids[0]
            parameter.copy_(encoder.get_input_embeddings().weight[dog])
        rows = soft.rows(["a cat"])
    for key, value in family.encode(["a dog"]).items():
        torch.testing.assert_close(rows[key], value)
    with must_fail("the token is read"):
        torch.testing.assert_close(rows["encoder_hidden_states"], family.encode(["a cat"])["encoder_hidden_states"])
    assert soft.rows(["a cat"])["encoder_hidden_states"].requires_grad
    assert hooks(pipe) == before[0]
    for name, value in pipe.text_encoder.named_parameters():
        assert torch.equal(value, before[1][name])
        assert value.grad is None


def test_a_saved_token_is_a_textual_inversion(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    soft = SoftToken(family_for(pipe), "cat")
    with torch.no_grad():
        soft.parameters["text_encoder"].copy_(torch.randn(16, generator=torch.Generator().manual_seed(0)))
        (expected,) = soft.rows(["a cat"])["encoder_hidden_states"]
    file = soft.save(tmp_path / "token.safetensors")
    pipe.tokenizer = deepcopy(pipe.tokenizer)
    pipe.load_textual_inversion(str(file))
    torch.testing.assert_close(family_for(pipe).encode(["a <learned>"])["encoder_hidden_states"][0], expected)
    file = SoftToken(family_for(tiny_xl()), "cat").save(tmp_path / "xl.safetensors")
    assert sorted(load_file(file)) == ["clip_g", "clip_l"]
    with pytest.raises(
        ValueError, match=r"^Textual inversions are for one or two text encoders; this pipeline has 3.$"
    ):
        SoftToken(family_for(tiny_sd3()), "cat").save(tmp_path / "sd3.safetensors")


def test_what_cannot_be_learned_is_refused() -> None:
    family = family_for(tiny_pipeline())
    with pytest.raises(ValueError, match=r"^'cat dog' is not one token of the pipeline's text_encoder, but 2; give"):
        SoftToken(family, "cat dog")
    with pytest.raises(ValueError, match=r"^The pipeline's text_encoder read the token 0 times in 1 prompts, so"):
        SoftToken(family, "cat").rows(["a dog"])
    pipe = tiny_z_image()
    with pytest.raises(TypeError, match=r"^A ZImagePipeline does not draw from token states alone \(cap_feats, mask\)"):
        SoftPrompt(family_for(pipe), "a cat")
