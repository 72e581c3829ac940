"""Another model: loaded when it is needed, as the base is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from controls import must_fail
from tiny import tiny_pipeline

from diffusers_esd.evaluation.baselines.other_base import OtherBase
from diffusers_esd.evaluation.methods import Base
from diffusers_esd.evaluation.prompts import Prompt

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 5.0}
PROMPTS = (Prompt(case="a", text="a cat", seed=1),)


@pytest.mark.parametrize("loaded", [True, False])
def test_it_draws_with_the_other_pipeline(loaded: bool, tmp_path: Path) -> None:
    pipe, other = tiny_pipeline(), tiny_pipeline(seed=1)
    with Base().drawing(other, OPTIONS) as draw:
        expected = draw(PROMPTS)[0]
    if loaded:
        method = OtherBase(other, name="other", erases=("a cat",))
    else:
        other.save_pretrained(tmp_path / "other")
        method = OtherBase(str(tmp_path / "other"), erases=("a cat",))
    assert (method.name, method.erases) == ("other", ("a cat",))
    with method.drawing(pipe, OPTIONS) as draw:
        drawn = draw(PROMPTS)[0]
        assert (method.pipeline(pipe) is other) == loaded
    assert np.array_equal(drawn, expected)
    record, base = method.record(pipe), Base().record(pipe)
    assert record["fingerprint"] == Base().record(other)["fingerprint"]
    with must_fail("it is another model"):
        assert record["fingerprint"] == base["fingerprint"]


def test_it_is_loaded_in_the_type_of_the_base(tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "other")
    method = OtherBase(str(tmp_path / "other"))
    assert method.pipeline(tiny_pipeline().to(torch.bfloat16)).dtype == torch.bfloat16
    assert OtherBase("stabilityai/stable-diffusion-2").name == "stable-diffusion-2", "nothing is loaded yet"
