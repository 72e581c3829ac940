"""Which base model a pipeline has: its name without private paths, and a fingerprint of its weights."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from made import made
from pipelines import with_deltas
from tiny import latents, style_adapter, tiny_pipeline, tiny_unet, tiny_xl

from diffusers_esd import bake
from diffusers_esd.base_model import fingerprint, model_name, same_weights


def test_a_local_model_has_the_name_of_its_folder(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    assert model_name(pipe) == "StableDiffusionPipeline"
    pipe.save_pretrained(tmp_path / "my-model")
    assert model_name(type(pipe).from_pretrained(tmp_path / "my-model")) == "my-model"
    pipe.register_to_config(_name_or_path="someone/model")
    assert model_name(pipe) == "someone/model"


def fine_tuned(pipe: StableDiffusionPipeline) -> StableDiffusionPipeline:
    """A pipeline after a few updates with Adam at a usual rate."""
    optimizer = torch.optim.Adam(pipe.unet.parameters(), lr=1e-4)
    for seed in range(10):
        x_t = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
        states = pipe.encode_prompt("a cat", "cpu", 1, False)[0].detach()
        optimizer.zero_grad()
        pipe.unet(x_t, 500, states).sample.square().mean().backward()
        optimizer.step()
    return pipe


def test_a_fingerprint_does_not_depend_on_type_layout_or_adapters() -> None:
    known = fingerprint(tiny_pipeline().unet)
    assert len(known) == 64 * 4
    styled = tiny_pipeline()
    style_adapter(styled)
    assert fingerprint(styled.unet) == known
    last = tiny_pipeline()
    last.unet.to(memory_format=torch.channels_last)
    assert fingerprint(last.unet) == known
    half, brain = (fingerprint(tiny_pipeline().to(dtype).unet) for dtype in (torch.float16, torch.bfloat16))
    assert same_weights(half, known)
    assert same_weights(brain, known)
    assert same_weights(half, brain)
    with must_fail("a fingerprint of fewer layers differs"):
        assert same_weights(known[:-4], known)


def test_other_weights_have_another_fingerprint() -> None:
    known = fingerprint(tiny_pipeline().unet)
    for other in (tiny_pipeline(seed=1), fine_tuned(tiny_pipeline()), bake(tiny_pipeline(), made(tiny_pipeline()))):
        for dtype in (torch.float32, torch.float16):
            with must_fail("other weights differ"):
                assert same_weights(fingerprint(other.to(dtype).unet), known)


def test_a_fingerprint_of_weights_that_are_not_in_memory_is_unknown() -> None:
    with torch.device("meta"):
        assert fingerprint(tiny_unet()) == ""
    assert fingerprint(tiny_unet()) != ""


def test_a_default_device_of_torch_does_not_matter() -> None:
    pipe = tiny_pipeline()
    expected = fingerprint(pipe.unet)
    try:
        torch.set_default_device("meta")
        assert fingerprint(pipe.unet) == expected
    finally:
        torch.set_default_device(None)


def test_an_erasure_acts_on_a_fine_tune_with_a_warning() -> None:
    """Also on one that predicts v, as fine-tunes of SDXL do."""
    erasure = made(tiny_xl(), group="esd-x", rank=2)
    fine_tune = tiny_xl()
    for weight in fine_tune.unet.parameters():
        weight.data *= 1.05
    zero_snr = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    fine_tune.scheduler = type(fine_tune.scheduler).from_config(fine_tune.scheduler.config, **zero_snr)
    before = latents(fine_tune)
    other = copy.deepcopy(fine_tune)
    with pytest.warns(
        UserWarning, match=r"with other weights. Its effect here is not measured; compare the images"
    ) as x:
        erasure.apply(fine_tune)
    assert [warning.filename for warning in x] == [__file__]
    torch.testing.assert_close(latents(fine_tune), latents(with_deltas(other, {erasure: 1.0})), rtol=1e-3, atol=1e-3)
    with must_fail("it acts"):
        torch.testing.assert_close(latents(fine_tune), before, rtol=1e-3, atol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        erasure.apply(tiny_xl())
