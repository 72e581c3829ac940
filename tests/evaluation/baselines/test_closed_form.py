"""The closed form: its normal equations, and weights that come back bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from pipelines import same, state_of
from tiny import style_adapter, tiny_pipeline, tiny_sd3, tiny_xl

from diffusers_esd.evaluation.baselines.closed_form import ClosedForm, closed_form, edited_layers
from diffusers_esd.evaluation.methods import Base
from diffusers_esd.evaluation.prompts import Prompt
from diffusers_esd.families import family_for
from diffusers_esd.training.encoding import Encoded

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 5.0}
PROMPTS = (Prompt(case="a", text="a cat", seed=1),)
KEPT = ("a dog", "a bus", "a train", "")


def test_it_solves_the_normal_equations() -> None:
    pipe = tiny_pipeline()
    family = family_for(pipe)
    edit = closed_form(Encoded(family), ["a cat"], KEPT).double()
    c, c0 = (family.encode([p])["encoder_hidden_states"][0].double() for p in ("a cat", ""))
    k = family.encode(KEPT)["encoder_hidden_states"].flatten(0, 1).double()
    eye = torch.eye(len(edit), dtype=torch.float64)

    def gradient(edit: torch.Tensor) -> torch.Tensor:
        """Of mean |(1 + E) c - c0|^2 + mean |E k|^2, which is 0 at the edit."""
        return ((eye + edit) @ c.T - c0.T) @ c / len(c) + edit @ k.T @ k / len(k)

    size = gradient(torch.zeros_like(edit)).abs().max()
    assert gradient(edit).abs().max() < 1e-2 * size
    with must_fail("the edit matters"):
        assert gradient(edit / 2).abs().max() < 1e-2 * size


@pytest.mark.parametrize("build", [tiny_pipeline, tiny_xl])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back(build: Any, dtype: torch.dtype) -> None:
    pipe = build().to(dtype)
    style_adapter(pipe)
    before, method = state_of(pipe), ClosedForm(["a cat"], preserved=KEPT)
    with Base().drawing(pipe, OPTIONS) as draw:
        plain = draw(PROMPTS)[0]
    with method.drawing(pipe, OPTIONS) as draw:
        edited = draw(PROMPTS)[0]
    same(before, state_of(pipe))
    with must_fail("the edit does something"):
        assert np.array_equal(edited, plain)
    with pytest.raises(KeyboardInterrupt), method.drawing(pipe, OPTIONS):
        raise KeyboardInterrupt
    same(before, state_of(pipe))
    layers = edited_layers(family_for(pipe))
    assert len(layers) == 2 * sum(name.endswith("attn2") for name, _ in pipe.unet.named_modules())


def test_what_it_preserves_and_refuses() -> None:
    pipe = tiny_pipeline()
    of_vocabulary = closed_form(Encoded(family_for(pipe)), ["a cat"])
    assert of_vocabulary.shape == (16, 16)
    records = [ClosedForm(["a cat"], preserved=kept).record(pipe)["preserved"] for kept in (None, KEPT, KEPT[:2])]
    assert records[0] == "vocabulary"
    assert len(set(records)) == 3
    with (
        pytest.raises(ValueError, match=r"^The closed form edits a U-Net's attn2.to_k and attn2.to_v, and a SD3"),
        ClosedForm(["a cat"]).drawing(tiny_sd3(), OPTIONS),
    ):
        pass
