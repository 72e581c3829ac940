"""Stacked, merged and baked erasures are sums of products, and nothing else of the pipeline changes."""

from __future__ import annotations

import json
import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from diffusers import StableDiffusionPipeline
from huggingface_hub import ModelCard
from made import made, with_provenance
from peft import LoraConfig
from PIL import Image
from test_teacher import prediction, same, state_of
from tiny import latents, style_adapter, tiny_pipeline, tiny_unet, tiny_xl
from torch import Tensor

from diffusers_esd import Erasure, bake, merge, preview, stack
from diffusers_esd.denoiser import fingerprint, same_weights


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    """Of different layers and ranks, convolutions among them."""
    pipe = tiny_pipeline()
    return made(pipe, "a cat", group="full", rank=2), made(pipe, "a dog", group="esd-u", rank=3, seed=1)


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
    with must_fail("the erasures do something"):
        torch.testing.assert_close(prediction(tiny_pipeline()), expected, rtol=0, atol=1e-3)


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
    other = made(tiny_pipeline(), rank=1, seed=2)
    taken = tiny_pipeline()
    stack(taken, {other: 1.0})
    with pytest.raises(ValueError, match=r"^Adapter name 'no-a-cat' is in use"):
        stack(taken, {dog: 1.0, cat: 1.0})
    with pytest.raises(ValueError, match=r"^Two of the erasures are called 'no-a-cat'"):
        stack(tiny_pipeline(), {cat: 1.0, other: 1.0})
    assert not hasattr(pipe.unet, "peft_config")
    assert taken.get_active_adapters() == ["no-a-cat"]


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


def test_a_fingerprint_knows_weights_in_every_type_and_tells_others_apart() -> None:
    known = fingerprint(tiny_pipeline().unet)
    assert len(known) == 4 * 64
    styled = tiny_pipeline()
    style_adapter(styled)
    assert fingerprint(styled.unet) == known, "adapters do not count"
    last = tiny_pipeline()
    last.unet.to(memory_format=torch.channels_last)
    assert fingerprint(last.unet) == known
    for dtype in (torch.float16, torch.bfloat16):
        assert same_weights(fingerprint(tiny_pipeline().to(dtype).unet), known)
    assert same_weights(
        fingerprint(tiny_pipeline().to(torch.float16).unet), fingerprint(tiny_pipeline().to(torch.bfloat16).unet)
    )
    for other in (tiny_pipeline(seed=1), fine_tuned(tiny_pipeline()), bake(tiny_pipeline(), made(tiny_pipeline()))):
        with must_fail("other weights are told apart"):
            assert same_weights(fingerprint(other.unet), known)
        with must_fail("also in float16"):
            assert same_weights(fingerprint(other.to(torch.float16).unet), known)


def test_a_fingerprint_of_what_is_not_in_memory_is_unknown() -> None:
    with torch.device("meta"):
        assert fingerprint(tiny_unet()) == ""


def test_weights_decide_whether_the_model_is_the_same_and_without_them_its_name(
    erasures: tuple[Erasure, Erasure],
) -> None:
    cat, dog = erasures
    renamed = tiny_pipeline().to(torch.bfloat16)
    renamed.register_to_config(_name_or_path="someone/copy")
    nameless = with_provenance(dog, base_fingerprint="")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        stack(tiny_pipeline(), {cat: 1.0})
        stack(renamed, {cat: 1.0})
        stack(tiny_pipeline(), {nameless: 1.0})
        stack(tiny_pipeline(seed=1), {nameless: 1.0})
        merge([cat, dog, nameless])
    pattern = (
        "^no-a-cat was trained on StableDiffusionPipeline, and this pipeline is StableDiffusionPipeline, with other "
    )
    with pytest.warns(UserWarning, match=pattern) as caught:
        stack(tiny_pipeline(seed=1), {cat: 1.0})
    assert [warning.filename for warning in caught] == [__file__], "it points to the caller's line"
    pattern = (
        "^no-a-dog was trained on StableDiffusionPipeline, and this pipeline is someone/copy. Where one is a fine-"
    )
    with pytest.warns(UserWarning, match=pattern):
        stack(renamed, {nameless: 1.0})
    other = made(tiny_pipeline(seed=1), "a bus")
    with pytest.warns(UserWarning, match=r"^no-a-cat was trained on StableDiffusionPipeline, and no-a-bus on .*with o"):
        merged = merge([cat, other])
    assert merged.provenance.base_fingerprint == ""
    assert merge([cat, dog]).provenance.base_fingerprint == cat.provenance.base_fingerprint


def test_what_a_stack_returns_of_an_rslora_is_the_scale_it_was_given(erasures: tuple[Erasure, Erasure]) -> None:
    pipe = tiny_pipeline()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"], use_rslora=True)
    pipe.unet.add_adapter(config, adapter_name="style")
    pipe.set_adapters(["style"], [0.6])
    assert stack(pipe, {erasures[0]: 0.5}) == pytest.approx({"style": 0.6, "no-a-cat": 0.5})


@pytest.mark.parametrize("value", [float("nan"), True, "1"])
def test_scales_are_checked_before_anything_changes(
    value: Any, erasures: tuple[Erasure, Erasure], tmp_path: Path
) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    before = state_of(pipe)
    calls: list[Any] = [
        lambda: stack(pipe, {cat: 1.0, dog: value}),
        lambda: bake(pipe, {cat: 1.0, dog: value}, save_to=tmp_path / "baked"),
        lambda: merge([cat, dog], [1.0, value]),
        lambda: preview(pipe, cat, "a cat", scales=[1.0, value]),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"^`scales?` must be "):
            call()
    same(before, state_of(pipe))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match=r"^`erasures` must map erasures to scales"):
        stack(pipe, [cat])  # type: ignore[arg-type]


def test_negative_scales_are_warned_about_once(erasures: tuple[Erasure, Erasure]) -> None:
    cat, _ = erasures
    options = {"scales": [-1, 1], "num_inference_steps": 1, "side": 32}
    calls: list[Any] = [
        lambda: stack(tiny_pipeline(), {cat: -1}),
        lambda: bake(tiny_pipeline(), {cat: -1}),
        lambda: merge([cat], [-1]),
        lambda: preview(tiny_pipeline(), cat, "a cat", **options),
    ]
    for call in calls:
        with pytest.warns(UserWarning, match=r"which amplifies the concept.$") as caught:
            call()
        assert [warning.filename for warning in caught] == [__file__]


def test_a_merge_claims_no_training(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    trained = with_provenance(cat, alignments={"a cat": -0.5}, preserved={"loss": 3}, left_out={"faint": ("x",)})
    merged = merge([trained, dog])
    facts = merged.provenance
    assert (merged.config, facts.origin, facts.alignment, facts.iterations) == (None, "merged", None, 16)
    assert (facts.alignments, facts.preserved, facts.left_out, facts.history) == ({}, {}, {}, ())
    assert merged.name == "no-a-cat-no-a-dog"
    many = merge([cat] * 40)
    assert len(many.name.encode()) == 64
    assert many.provenance.concepts == ("a cat",)


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
    with must_fail("something is lost"):
        assert low.provenance.rank_error < 0.01


def test_what_cannot_be_merged(erasures: tuple[Erasure, Erasure]) -> None:
    with pytest.raises(ValueError, match=r"^Give one or more erasures and as many scales; got 0 and 0.$"):
        merge([])
    with pytest.raises(ValueError, match=r"^Give one or more erasures and as many scales; got 2 and 1.$"):
        merge(erasures, [1.0])
    with pytest.raises(ValueError, match=r"^rank=0 is too small"):
        merge(erasures, rank=0)
    xl = made(tiny_xl(), rank=1)
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
    real = type(pipe.unet).load_lora_adapter

    def fail_at_the_second(unet: Any, *arguments: Any, adapter_name: str, **options: Any) -> None:
        real(unet, *arguments, adapter_name=adapter_name, **options)
        if adapter_name == dog.name:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(type(pipe.unet), "load_lora_adapter", fail_at_the_second)
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
    with must_fail("the erasures do something"):
        assert base.tobytes() == erased.tobytes()
    stack(pipe, {cat: 0.0})
    options = {"num_inference_steps": 2, "generator": torch.Generator().manual_seed(5)}
    expected = pipe("a cat", **options).images[0].resize((32, 32), Image.Resampling.LANCZOS)
    assert base.tobytes() == expected.tobytes(), "scale 0 is the pipeline without them, and with the user's style"
    with pytest.raises(ValueError, match=r"^Give one or more erasures, prompts, scales and seeds.$"):
        preview(pipe, [], ["a cat"])


def test_a_preview_of_one_prompt_scale_and_seed_and_of_what_is_saved(
    erasures: tuple[Erasure, Erasure], tmp_path: Path
) -> None:
    cat, dog = erasures
    folder = cat.save_pretrained(tmp_path / "no-cat")
    options = {"side": 32, "num_inference_steps": 1}
    pipe = tiny_pipeline()
    single = preview(pipe, str(folder), "a cat", scales=1, seeds=np.int64(3), **options)
    assert single.tobytes() == preview(pipe, [cat], ["a cat"], scales=[1.0], seeds=[3], **options).tobytes()
    several = preview(pipe, [folder, dog], "a cat", scales=np.linspace(0, 1, 2), seeds=range(2), **options)
    assert several.size[1] - single.size[1] == 38, "one row more, for the second seed"
    assert not hasattr(pipe.unet, "peft_config")
    with pytest.raises(TypeError, match=r"^`seeds` must be whole numbers, got 0.5 of type float.$"):
        preview(pipe, cat, "a cat", seeds=0.5)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"^No erasure at nowhere"):
        preview(pipe, "nowhere", "a cat")


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


def test_a_default_device_and_type_of_torchs_do_not_matter(erasures: tuple[Erasure, Erasure]) -> None:
    expected = merge(erasures, [0.7, 1.2], rank=2)
    picture = preview(tiny_pipeline(), erasures[0], "a cat", side=32, num_inference_steps=1)
    pipe = tiny_pipeline()
    try:
        torch.set_default_device("meta")
        merged = merge(erasures, [0.7, 1.2], rank=2)
        known = fingerprint(pipe.unet)
    finally:
        torch.set_default_device(None)
    assert known == fingerprint(pipe.unet)
    assert all(torch.equal(value, expected.weights[key]) for key, value in merged.weights.items())
    assert preview(pipe, erasures[0], "a cat", side=32, num_inference_steps=1).tobytes() == picture.tobytes()
