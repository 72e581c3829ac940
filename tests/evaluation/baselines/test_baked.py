"""Erasures in the weights draw as adapters do; so do imported ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from controls import must_fail
from made import made
from PIL.Image import Image
from pipelines import same, state_of
from safetensors.torch import save_file
from tiny import tiny_pipeline

from diffusers_esd import export, import_erasure
from diffusers_esd.evaluation.baselines.baked import Baked
from diffusers_esd.evaluation.methods import Base, Erased, Method
from diffusers_esd.evaluation.prompts import Prompt

OPTIONS = {"num_inference_steps": 2, "guidance_scale": 5.0}
PROMPTS = (Prompt(case="a", text="a cat", seed=1), Prompt(case="b", text="a dog", seed=2))


def drawn(method: Method, pipe: object) -> list[Image]:
    with method.drawing(pipe, OPTIONS) as draw:
        return draw(PROMPTS)


def difference(a: list[Image], b: list[Image]) -> float:
    return max(float(np.abs(np.asarray(x, float) - np.asarray(y, float)).max()) for x, y in zip(a, b, strict=True))


def test_baked_draws_as_the_adapter() -> None:
    pipe = tiny_pipeline()
    parts, before = [(made(pipe), 0.7), (made(pipe, "a dog", group="esd-x"), 1.0)], state_of(pipe)
    method = Baked("baked", parts)
    assert difference(drawn(method, pipe), drawn(Erased("erased", parts), pipe)) <= 2
    with must_fail("the erasures do something"):
        assert difference(drawn(method, pipe), drawn(Base(), pipe)) <= 2
    same(before, state_of(pipe))
    with method.drawing(pipe, OPTIONS):
        baked = method.pipeline(pipe)
        assert baked is not pipe
        assert baked.text_encoder is pipe.text_encoder
        assert not any("lora" in name for name, _ in baked.unet.named_modules())
    assert method.pipeline(pipe) is pipe
    assert method.erases == ("a cat", "a dog")
    assert method.record(pipe)["baked"]


@pytest.mark.parametrize("kind", ["kohya", "full weights"])
def test_files_of_other_tools_are_columns(kind: str, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    erasure = made(pipe)
    if kind == "kohya":  # the names of LECO, SPM and sd-scripts
        file = export(erasure, tmp_path / "leco.safetensors")
    else:  # the authors' scripts save the weights that they trained
        file = tmp_path / "authors.safetensors"
        method = Baked("baked", [(erasure, 1.0)])
        with method.drawing(pipe, OPTIONS):
            save_file({k: v.contiguous() for k, v in method.pipeline(pipe).unet.state_dict().items()}, file)
    imported = import_erasure(file, pipe, concept="a cat", rank=4)
    method = Erased("theirs", [(imported, 1.0)])
    assert method.erases == ("a cat",)
    assert difference(drawn(method, pipe), drawn(Erased("ours", [(erasure, 1.0)]), pipe)) <= 2
    with must_fail("the file does something"):
        assert difference(drawn(method, pipe), drawn(Base(), pipe)) <= 2
    assert torch.is_grad_enabled()
