"""Stacked, merged and baked erasures are sums of products, and nothing else of the pipeline changes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from PIL import Image
from test_teacher import prediction, same, state_of
from tiny import latents, style_adapter, tiny_pipeline, tiny_unet, tiny_xl
from torch import Tensor

from diffusers_esd import Erasure, ESDTrainer, bake, merge, preview, stack

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 3, "learning_rate": 1e-2, "preserve": ()}


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    """Of different layers and ranks, convolutions among them."""
    cat = ESDTrainer(tiny_pipeline(), group="full", rank=2, **QUICK).erase("a cat")
    dog = ESDTrainer(tiny_pipeline(), group="esd-u", rank=3, **QUICK).erase("a dog")
    return cat, dog


def with_deltas(pipe: StableDiffusionPipeline, scales: dict[Erasure, float]) -> StableDiffusionPipeline:
    """The reference: dense deltas, added one by one in float64."""
    for erasure, scale in scales.items():
        for key, a in erasure.weights.items():
            if key.endswith("lora_A.weight"):
                b = erasure.weights[key.replace("lora_A", "lora_B")]
                weight = pipe.unet.get_submodule(key.removeprefix("unet.").removesuffix(".lora_A.weight")).weight
                delta = torch.einsum("or,ri->oi", b.flatten(1).double(), a.flatten(1).double())
                weight.data += (scale * delta).view_as(weight).float()
    return pipe


def test_a_stack_is_the_sum_of_products(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    active = stack(pipe, {cat: 0.7, dog.save_pretrained(tmp_path / "dog"): 1.2})
    assert active == pytest.approx({"no-a-cat": 0.7, "no-a-dog": 1.2})
    expected = prediction(with_deltas(tiny_pipeline(), {cat: 0.7, dog: 1.2}))
    torch.testing.assert_close(prediction(pipe), expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(prediction(tiny_pipeline()), expected, atol=1e-3), "the control: they do something"


def test_stacking_again_sets_scales_and_keeps_the_users(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    style_adapter(pipe, scale=0.6)
    before = state_of(pipe)
    stack(pipe, {cat: 1.0})
    active = stack(pipe, {"no-a-cat": 0.5, dog: 0.9})
    assert active == pytest.approx({"style": 0.6, "no-a-cat": 0.5, "no-a-dog": 0.9})
    assert stack(pipe, {cat: 0.5}) == pytest.approx(active), "the same erasure again is not loaded twice"
    same(before, state_of(pipe))
    reference = with_deltas(tiny_pipeline(), {cat: 0.5, dog: 0.9})
    style_adapter(reference, scale=0.6)
    torch.testing.assert_close(prediction(pipe), prediction(reference), rtol=1e-4, atol=1e-5)


def test_what_was_loaded_and_lost_its_place_is_active_again(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    """Plain loading leaves only the last active, deleting one leaves layers that disagree."""
    cat, dog = erasures
    pipe = tiny_pipeline()
    for name, erasure in (("no-cat", cat), ("no-dog", dog), ("more", cat)):
        pipe.load_lora_weights(erasure.save_pretrained(tmp_path / name), adapter_name=name)
    assert pipe.get_active_adapters() == ["more"]
    pipe.delete_adapters("more")
    assert stack(pipe, {"no-cat": 1.0, "no-dog": 0.5}) == pytest.approx({"no-cat": 1.0, "no-dog": 0.5})
    expected = prediction(with_deltas(tiny_pipeline(), {cat: 1.0, dog: 0.5}))
    torch.testing.assert_close(prediction(pipe), expected, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused_and_nothing_is_loaded(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline(unet=tiny_unet(block_out_channels=(16, 48)))
    with pytest.raises(ValueError, match=r"^The erasure was trained on another architecture: "):
        stack(pipe, {cat: 1.0, dog: 1.0})
    with pytest.raises(ValueError, match=r"^no-a-cat was trained on a pipeline of StableDiffusion, and this one is of"):
        stack(tiny_xl(), {cat: 1.0})
    other = ESDTrainer(tiny_pipeline(), rank=1, **QUICK).erase("a cat")
    taken = tiny_pipeline()
    stack(taken, {other: 1.0})
    with pytest.raises(ValueError, match=r"^Adapter name 'no-a-cat' is in use"):
        stack(taken, {dog: 1.0, cat: 1.0})
    with pytest.raises(ValueError, match=r"^Two of the erasures are called 'no-a-cat'"):
        stack(tiny_pipeline(), {cat: 1.0, other: 1.0})
    assert not hasattr(pipe.unet, "peft_config")
    assert taken.get_active_adapters() == ["no-a-cat"]


def test_another_fine_tune_of_the_architecture_is_warned_about(erasures: tuple[Erasure, Erasure]) -> None:
    pipe = tiny_pipeline()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stack(pipe, {erasures[0]: 1.0})
    pipe.register_to_config(_name_or_path="someone/fine-tune")
    with pytest.warns(
        UserWarning, match="no-a-dog was trained on StableDiffusionPipeline, and this pipeline is someone/"
    ):
        stack(pipe, {erasures[1]: 1.0})


def test_a_merge_is_exact_and_travels_as_any_erasure(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    merged = merge([cat, dog], [0.7, 1.2], name="both")
    assert merged.rank == 5
    assert merged.provenance.parts == (("no-a-cat", 0.7), ("no-a-dog", 1.2))
    assert merged.provenance.concepts == ("a cat", "a dog")
    assert merged.provenance.rank_error == 0
    expected = prediction(with_deltas(tiny_pipeline(), {cat: 0.7, dog: 1.2}))
    pipe = tiny_pipeline()
    pipe.load_lora_weights(merged.save_pretrained(tmp_path))
    torch.testing.assert_close(prediction(pipe), expected, rtol=1e-4, atol=1e-5)
    again = Erasure.from_pretrained(tmp_path)
    assert again.provenance == merged.provenance
    assert all(torch.equal(value, merged.weights[key]) for key, value in again.weights.items())


def dense(erasure: Erasure) -> dict[str, Tensor]:
    return {layer: b.flatten(1).double() @ a.flatten(1).double() for layer, (a, b) in erasure.layers().items()}


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_lower_rank_is_the_best_of_that_rank_and_its_error_is_told(
    erasures: tuple[Erasure, Erasure], rank: int
) -> None:
    exact, low = dense(merge(erasures)), merge(erasures, rank=rank)
    assert low.rank == rank
    lost = total = 0.0
    for layer, delta in exact.items():
        u, s, v = torch.linalg.svd(delta, full_matrices=False)
        best = u[:, :rank] @ torch.diag(s[:rank]) @ v[:rank]
        torch.testing.assert_close(dense(low)[layer], best, rtol=1e-3, atol=1e-6)
        lost += (delta - best).square().sum().item()
        total += delta.square().sum().item()
    assert low.provenance.rank_error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert low.provenance.rank_error > 0.01, "the control: something is lost"


def test_what_cannot_be_merged(erasures: tuple[Erasure, Erasure]) -> None:
    with pytest.raises(ValueError, match=r"^Give one or more erasures and as many weights; got 0 and 0.$"):
        merge([])
    with pytest.raises(ValueError, match=r"^Give one or more erasures and as many weights; got 2 and 1.$"):
        merge(erasures, [1.0])
    with pytest.raises(ValueError, match=r"^rank=0 is too small"):
        merge(erasures, rank=0)
    xl = ESDTrainer(tiny_xl(), rank=1, **QUICK).erase("a cat")
    with pytest.raises(ValueError, match=r"^The erasures are of different families"):
        merge([erasures[0], xl])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float16, 2e-2)])
def test_a_baked_pipeline_is_plain_and_predicts_as_the_stack(
    erasures: tuple[Erasure, Erasure], dtype: torch.dtype, bound: float, tmp_path: Path
) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline().to(dtype)
    style_adapter(pipe)
    before, picture = state_of(pipe), latents(pipe)
    baked = bake(pipe, {cat: 0.7, dog: 1.2}, save_to=tmp_path / "baked")
    same(before, state_of(pipe))
    assert torch.equal(latents(pipe), picture), "the user's pipeline has not changed"
    assert baked.unet.state_dict().keys() == tiny_pipeline().unet.state_dict().keys()
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "baked", torch_dtype=dtype)
    for key, value in baked.unet.state_dict().items():
        assert torch.equal(value, loaded.unet.state_dict()[key])

    stacked = tiny_pipeline().to(dtype)
    stack(stacked, {cat: 0.7, dog: 1.2})
    expected = latents(stacked).float()
    distance = (latents(loaded).float() - expected).norm() / expected.norm()
    assert distance < bound
    assert (latents(tiny_pipeline()).float() - expected).norm() / expected.norm() > 5 * bound, "the control"

    index = json.loads((tmp_path / "baked" / "model_index.json").read_text())
    assert index["_erased"][0] == {"concepts": ["a cat"], "name": "no-a-cat", "scale": 0.7}
    card = ModelCard.load(tmp_path / "baked" / "README.md")
    assert card.data.library_name == "diffusers"
    assert "| a cat | no-a-cat | 0.7 |" in card.text


def test_baking_appears_whole_or_not_at_all(
    erasures: tuple[Erasure, Erasure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tiny_pipeline()
    bake(pipe, [erasures[0]], save_to=tmp_path / "there")
    with pytest.raises(FileExistsError, match=r"there exists; give a new folder.$"):
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
    again = bake(StableDiffusionPipeline.from_pretrained(tmp_path / "first"), dog)
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


def test_nothing_to_bake_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^There is nothing to bake"):
        bake(tiny_pipeline(), [])


def test_a_load_that_fails_leaves_the_pipeline_as_it_was(
    erasures: tuple[Erasure, Erasure], monkeypatch: pytest.MonkeyPatch
) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    style_adapter(pipe)
    before, picture = state_of(pipe), latents(pipe)
    real = Erasure.apply

    def fail_at_the_second(erasure: Erasure, *arguments: Any, **options: Any) -> None:
        if erasure is dog:
            raise torch.OutOfMemoryError
        real(erasure, *arguments, **options)

    monkeypatch.setattr(Erasure, "apply", fail_at_the_second)
    with pytest.raises(torch.OutOfMemoryError):
        stack(pipe, {cat: 1.0, dog: 1.0})
    same(before, state_of(pipe))
    assert torch.equal(latents(pipe), picture)
    key = "unet.conv_in.lora_A.weight"
    wrong = {**cat.weights, key: cat.weights[key][:, :, :1, :1]}
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"layer 'conv_in' has weights of shape"):
        stack(pipe, {Erasure("wrong", wrong, cat.config, cat.provenance): 1.0})
    same(before, state_of(pipe))


@pytest.mark.parametrize("name", ["v1.5", "a/b", " "])
def test_a_name_that_cannot_be_read_back_is_refused(name: str, erasures: tuple[Erasure, Erasure]) -> None:
    with pytest.raises(ValueError, match=r"^Adapter name "):
        merge(erasures, name=name)


def test_a_preview_shows_strengths_and_leaves_the_pipeline_as_it_was(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    style_adapter(pipe)
    stack(pipe, {cat: 0.3})
    before, picture = state_of(pipe), latents(pipe)
    image = preview(pipe, [cat, dog], ["a cat", "a dog"], scales=[0, 1], seeds=[5], side=32, num_inference_steps=2)
    same(before, state_of(pipe))
    assert torch.equal(latents(pipe), picture)
    assert pipe.get_active_adapters() == ["style", "no-a-cat"]
    width, height = image.size
    left, top = width - 2 * 38, height - 2 * 38
    base, erased = (image.crop((left + x, top, left + x + 32, top + 32)) for x in (0, 38))
    assert base.tobytes() != erased.tobytes()
    stack(pipe, {cat: 0.0})
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(5)}
    expected = pipe("a cat", **options).images[0].resize((32, 32), Image.Resampling.LANCZOS)
    assert base.tobytes() == expected.tobytes(), "scale 0 is the pipeline without them, and with the user's style"
    with pytest.raises(ValueError, match=r"^Give one or more erasures, prompts, scales and seeds.$"):
        preview(pipe, [], ["a cat"])
