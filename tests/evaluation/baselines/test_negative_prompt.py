"""The concept as a negative prompt: the same images as with the pipeline's own argument."""

from __future__ import annotations

import numpy as np
import pytest
from controls import must_fail
from tiny import tiny_pipeline, tiny_xl

from diffusers_esd.evaluation.baselines.negative_prompt import NegativePrompt
from diffusers_esd.evaluation.methods import Base
from diffusers_esd.evaluation.prompts import Prompt

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 5.0}
PROMPTS = (Prompt(case="a", text="a cat", seed=1), Prompt(case="b", text="a dog", seed=2, negative_prompt="a bus"))


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl])
def test_it_draws_as_the_pipelines_negative_prompt(build) -> None:
    pipe, method = build(), NegativePrompt(["a cat", "a dog"])
    with Base().drawing(pipe, OPTIONS) as draw:
        expected = draw(
            [
                Prompt(case="a", text="a cat", seed=1, negative_prompt="a cat, a dog"),
                Prompt(case="b", text="a dog", seed=2, negative_prompt="a bus, a cat, a dog"),
            ]
        )
        plain = draw(PROMPTS)
    with method.drawing(pipe, OPTIONS) as draw:
        drawn = draw(PROMPTS)
    assert method.pipeline(pipe) is pipe
    for a, b in zip(drawn, expected, strict=True):
        assert np.array_equal(a, b)
    with must_fail("the negative prompt does something"):
        assert np.array_equal(drawn[0], plain[0])
    record = method.record(pipe)
    assert record["negative_prompt"] == "a cat, a dog"
    assert {key: record[key] for key in Base().record(pipe)} == Base().record(pipe)


def test_concepts_are_checked() -> None:
    with pytest.raises(ValueError, match=r"^`concepts` is empty; give at least one concept.$"):
        NegativePrompt([])
    with pytest.raises(TypeError, match=r"^`concepts` must be a sequence of strings, got 'a cat'; give \['a cat'\].$"):
        NegativePrompt("a cat")
    with pytest.raises(ValueError, match=r"^`concepts` is empty: got ' '"):
        NegativePrompt([" "])
