"""An erasure: what was trained is, bit for bit, what plain diffusers loads; it applies, removes, travels and shows."""

from __future__ import annotations

import copy
import operator
import pickle
import re
import warnings
from base64 import b64decode
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from made import is_equal, made, with_provenance
from PIL import Image
from tiny import latents, style_adapter, tiny_pipeline, tiny_unet

from diffusers_esd import Erasure, ESDTrainer
from diffusers_esd.denoiser import adapter_names

QUICK: dict[str, Any] = {
    "num_inference_steps": 5,
    "iterations": 8,
    "rank": 4,
    "lora_alpha": 6,
    "learning_rate": 1e-2,
    "preserve": (),
}


@pytest.fixture(scope="module")
def erasure() -> Erasure:
    return made(tiny_pipeline())


@pytest.mark.parametrize("group", ["esd-x", "esd-x-strict", "esd-u", "full"])
def test_plain_diffusers_loads_what_was_trained(group: str, tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    base = latents(pipe)
    ESDTrainer(pipe, group=group, **QUICK).erase("a cat").save_pretrained(tmp_path / "no-cat")
    trained = latents(pipe)
    with must_fail("the erasure does something"):
        torch.testing.assert_close(trained, base, rtol=0, atol=1e-3)

    other = tiny_pipeline()
    other.load_lora_weights(tmp_path / "no-cat", adapter_name="no-cat")
    assert torch.equal(latents(other), trained)
    other.disable_lora()
    assert torch.equal(latents(other), base)


def test_a_channels_last_denoiser_is_saved_too(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.unet.to(memory_format=torch.channels_last)
    erasure = ESDTrainer(pipe, **QUICK).erase("a cat")
    erasure.save_pretrained(tmp_path / "no-cat")
    assert all(weight.is_contiguous() for weight in erasure.weights.values())


def test_apply_and_remove(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    base = latents(pipe)
    erasure.apply(pipe)
    full = latents(pipe)
    erasure.remove(pipe)
    assert torch.equal(latents(pipe), base)
    erasure.apply(pipe, scale=0.0, name="off")
    assert torch.equal(latents(pipe), base)
    assert not torch.allclose(full, base, atol=1e-3)
    with pytest.raises(ValueError, match=r"^There is no adapter 'no-a-cat' on this pipeline; adapters on it: off\.$"):
        erasure.remove(pipe)


def test_apply_stands_beside_the_users_adapter(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    styled = latents(pipe)
    erasure.apply(pipe, scale=0.5)
    assert pipe.get_active_adapters() == ["style", "no-a-cat"]
    scales = {
        s for layer in pipe.unet.modules() if "style" in (s_ := getattr(layer, "scaling", {})) for s in [s_["style"]]
    }
    assert scales == {0.6}
    assert not torch.allclose(latents(pipe), styled, atol=1e-3)
    erasure.remove(pipe)
    assert torch.equal(latents(pipe), styled)


def test_a_local_model_is_recorded_without_its_path(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "my-model")
    local = type(pipe).from_pretrained(tmp_path / "my-model")
    local.set_progress_bar_config(disable=True)
    assert ESDTrainer(local, **QUICK).erase("a cat").provenance.base_model == "my-model"


def test_another_architecture_is_refused(erasure: Erasure) -> None:
    wider = tiny_pipeline(unet=tiny_unet(block_out_channels=(16, 64)))
    with pytest.raises(ValueError, match=r"The erasure was trained on another architecture: layer '.*' has weights of"):
        erasure.apply(wider)
    longer = tiny_pipeline(unet=tiny_unet(layers_per_block=2))
    base = latents(longer)
    shorter = made(longer, group="full")
    shorter.apply(longer)
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=r"another architecture: this denoiser does not have a layer '"):
        shorter.apply(pipe)
    assert adapter_names(pipe.unet) == []
    shorter.remove(longer)
    assert torch.equal(latents(longer), base)


def test_another_kind_of_pipeline_is_refused(erasure: Erasure) -> None:
    unet = UNet2DModel(sample_size=8, block_out_channels=(32, 32), down_block_types=("DownBlock2D",) * 2,
                       up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    pipe = DDPMPipeline(unet, DDPMScheduler())
    with pytest.raises(ValueError, match=r"^The erasure was trained on another architecture: layer 'conv_in' has "):
        erasure.apply(pipe)
    assert adapter_names(pipe.unet) == []
    with pytest.raises(ValueError, match=r"must have a transformer; a DDPMPipeline has unet, scheduler\.$"):
        replace(erasure, provenance=replace(erasure.provenance, component="transformer")).apply(pipe)


def test_apply_checks_names_and_pipeline(erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    erasure.apply(pipe)
    with pytest.raises(ValueError, match=r"^The adapter name 'no-a-cat' is in use on this pipeline \(no-a-cat\); "):
        erasure.apply(pipe)
    with pytest.raises(ValueError, match=r"^The adapter name 'v1.5' contains a dot, which PEFT cannot store"):
        erasure.apply(pipe, name="v1.5")
    pipe.fuse_lora()
    with pytest.raises(ValueError, match=r"^The pipeline has a fused LoRA"):
        erasure.apply(pipe, name="again")
    assert adapter_names(pipe.unet) == ["no-a-cat"]


def test_an_erasure_is_a_value_that_travels(erasure: Erasure) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        returned = pool.submit(operator.itemgetter(0), [erasure]).result()
    for other in (pickle.loads(pickle.dumps(erasure)), copy.deepcopy(erasure), copy.copy(erasure), returned):
        assert is_equal(other, erasure)
        with pytest.raises(TypeError, match=r"does not support item assignment"):
            other.weights["unet.x"] = torch.zeros(1)
        with pytest.raises(AttributeError, match=r"cannot assign to field 'name'"):
            other.name = "x"
    key = next(iter(erasure.weights))
    assert copy.deepcopy(erasure).weights[key] is not erasure.weights[key]
    with must_fail("other weights are told apart"):
        assert is_equal(Erasure("x", erasure.weights, erasure.config, erasure.provenance), erasure)


def test_its_repr_fits_on_a_screen(erasure: Erasure) -> None:
    long = with_provenance(
        erasure,
        concepts=tuple(f"concept {i}" for i in range(500)),
        history=((0.5, 1.0),) * 9999,
        left_out={"too faint": tuple(f"layer {i}" for i in range(500))},
    )
    for text in (repr(erasure), repr(long)):
        assert len(text.splitlines()) <= 8
        assert max(map(len, text.splitlines())) <= 200
    for words in ("no-a-cat", "'a cat'", "StableDiffusionPipeline", "trained 'esd-u'", "rank 4", "alignment -0.50"):
        assert words in repr(erasure)
    assert "layer 1" not in repr(long.provenance)
    assert "9999" not in repr(long.provenance)


@pytest.mark.parametrize("value", [True, "1", None, float("nan"), 10**400])
def test_what_is_not_a_scale_changes_nothing(value: Any, erasure: Erasure) -> None:
    pipe = tiny_pipeline()
    with pytest.raises((TypeError, ValueError), match=r"^`scale` must be "):
        erasure.apply(pipe, scale=value)
    assert adapter_names(pipe.unet) == []


def test_a_negative_scale_is_warned_about(erasure: Erasure) -> None:
    with pytest.warns(UserWarning, match=r"^`scale` is -1: a negative scale turns an erasure into its inverse") as seen:
        erasure.apply(tiny_pipeline(), scale=-1.0)
    assert [warning.filename for warning in seen] == [__file__], "it points to the caller's line"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        erasure.apply(tiny_pipeline(), scale=0.0)


def test_a_notebook_shows_it_with_its_picture(erasure: Erasure) -> None:
    shown = replace(erasure, picture=Image.new("RGB", (8, 4), "red"))
    html = shown._repr_html_()
    content = re.search(r"src='data:image/png;base64,([^']+)'", html)
    assert content is not None
    image = Image.open(BytesIO(b64decode(content[1])))
    assert (image.size, image.getpixel((0, 0))) == ((8, 4), (255, 0, 0))
    assert "<img" not in erasure._repr_html_()


def test_a_picture_travels_with_its_erasure(erasure: Erasure) -> None:
    shown = replace(erasure, picture=Image.new("RGB", (8, 4), "red"))
    for other in (pickle.loads(pickle.dumps(shown)), copy.deepcopy(shown), copy.copy(shown)):
        assert other.picture == shown.picture
    with must_fail("an erasure without one differs"):
        assert erasure.picture == shown.picture
