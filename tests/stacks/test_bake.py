"""A baked pipeline is a plain pipeline that predicts as the stack does, saved whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from made import made
from peft import LoraConfig
from pipelines import same, state_of
from tiny import latents, style_adapter, tiny_pipeline

from diffusers_esd import Erasure, bake, stack


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    """Of different layers and ranks, convolutions among them."""
    pipe = tiny_pipeline()
    return made(pipe, "a cat", group="full", rank=2), made(pipe, "a dog", group="esd-u", rank=3, seed=1)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 2e-2)])
def test_a_baked_pipeline_is_plain_and_predicts_as_the_stack(
    erasures: tuple[Erasure, Erasure], dtype: torch.dtype, bound: float, tmp_path: Path
) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline().to(dtype)
    style_adapter(pipe)
    before, image = state_of(pipe), latents(pipe)
    baked = bake(pipe, {cat: 0.7, dog: 1.2}, save_to=tmp_path / "baked")
    same(before, state_of(pipe))
    assert torch.equal(latents(pipe), image), "the user's pipeline has not changed"
    assert baked.unet.state_dict().keys() == tiny_pipeline().unet.state_dict().keys()
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "baked", dtype=dtype)
    for key, value in baked.unet.state_dict().items():
        assert torch.equal(value, loaded.unet.state_dict()[key])

    stacked = tiny_pipeline().to(dtype)
    stack(stacked, {cat: 0.7, dog: 1.2})
    expected = latents(stacked).float()
    distance = (latents(loaded).float() - expected).norm() / expected.norm()
    assert distance < bound
    with must_fail("the erasures do something"):
        assert (latents(tiny_pipeline()).float() - expected).norm() / expected.norm() < 5 * bound

    index = json.loads((tmp_path / "baked" / "model_index.json").read_text())
    assert index["_erased"][0] == {"concepts": ["a cat"], "name": "no-a-cat", "scale": 0.7}
    card = ModelCard.load(tmp_path / "baked" / "README.md")
    assert card.data.library_name == "diffusers"
    assert "| a cat | no-a-cat | 0.7 |" in card.text


def test_a_list_and_a_single_source_have_scale_1(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    expected = bake(tiny_pipeline(), {cat: 1.0, dog: 1.0}).unet.state_dict()
    folder = cat.save_pretrained(tmp_path / "no-cat")
    several, single = bake(tiny_pipeline(), [folder, dog]), bake(tiny_pipeline(), str(folder))
    assert all(torch.equal(value, expected[key]) for key, value in several.unet.state_dict().items())
    with must_fail("the dog's erasure does something"):
        assert all(torch.equal(value, expected[key]) for key, value in single.unet.state_dict().items())


def test_baking_appears_whole_or_not_at_all(
    erasures: tuple[Erasure, Erasure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny_pipeline()
    bake(pipe, [erasures[0]], save_to=tmp_path / "there")
    with pytest.raises(FileExistsError, match=r"^A baked pipeline must be saved in a new folder; .*there exists.$"):
        bake(pipe, [erasures[0]], save_to=tmp_path / "there")

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(type(pipe.vae), "save_pretrained", fail)
    with pytest.raises(OSError, match="no space left"):
        bake(pipe, [erasures[0]], save_to=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_baking_again_remembers_the_first(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    bake(tiny_pipeline(), [cat], save_to=tmp_path / "first")
    first = StableDiffusionPipeline.from_pretrained(tmp_path / "first")
    with pytest.warns(UserWarning, match=r"^no-a-dog was trained on .*, and this pipeline is first\."):
        again = bake(first, dog)
    assert [part["name"] for part in again.config["_erased"]] == ["no-a-cat", "no-a-dog"]


@pytest.mark.parametrize("kind", ["model", "group"])
def test_hooks_are_refused_before_baking(kind: str, erasures: tuple[Erasure, Erasure]) -> None:
    pipe = tiny_pipeline()
    if kind == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:
        devices = {"onload_device": torch.device("cpu"), "offload_device": torch.device("cpu")}
        pipe.unet.enable_group_offload(**devices, offload_type="leaf_level")
    with pytest.raises(ValueError, match=r"^The unet has hooks \(offloading, caching\), which a copy would share"):
        bake(pipe, [erasures[0]])


def test_adapters_on_other_parts_are_refused_before_saving(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.text_encoder.add_adapter(LoraConfig(r=1, target_modules=["q_proj"]))
    with pytest.raises(ValueError, match=r"^The pipeline has adapters on its text_encoder, with which it would not lo"):
        bake(pipe, erasures[0], save_to=tmp_path / "baked")
    assert list(tmp_path.iterdir()) == []
    bake(pipe, erasures[0])


def test_nothing_to_bake_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^`erasures` is empty"):
        bake(tiny_pipeline(), [])


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_baked_pipeline_has_the_modes_that_the_umask_gives(
    umask: int, erasures: tuple[Erasure, Erasure], tmp_path: Path
) -> None:
    before = os.umask(umask)
    try:
        bake(tiny_pipeline(), [erasures[0]], save_to=tmp_path / "baked")
        tiny_pipeline().save_pretrained(tmp_path / "plain")
    finally:
        os.umask(before)

    def check(folder: Path) -> None:
        for path in [folder, *folder.rglob("*")]:
            expected = (0o777 if path.is_dir() else 0o666) & ~umask
            assert stat.S_IMODE(path.stat().st_mode) == expected, path

    check(tmp_path / "baked")
    with must_fail("diffusers by itself does not look at the umask"):
        check(tmp_path / "plain")
