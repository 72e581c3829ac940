"""A stack is the sum of products, and nothing else of the pipeline changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from made import made
from peft import LoraConfig
from pipelines import prediction, same, state_of, with_deltas
from tiny import latents, style_adapter, tiny_pipeline, tiny_unet, tiny_xl

from diffusers_esd import Erasure, merge, stack
from diffusers_esd.denoiser import adapter_names


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    """Of different layers and ranks, convolutions among them."""
    pipe = tiny_pipeline()
    return made(pipe, "a cat", group="full", rank=2), made(pipe, "a dog", group="esd-u", rank=3, seed=1)


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


def test_a_list_and_a_single_source_have_scale_1(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    folder = cat.save_pretrained(tmp_path / "no-cat")
    pipe = tiny_pipeline()
    assert stack(pipe, [str(folder), dog]) == {"no-a-cat": 1.0, "no-a-dog": 1.0}
    mapped = tiny_pipeline()
    stack(mapped, {cat: 1.0, dog: 1.0})
    assert torch.equal(latents(pipe), latents(mapped))
    assert stack(pipe, "no-a-cat") == {"no-a-cat": 1.0, "no-a-dog": 1.0}, "a name on the pipeline"
    single = tiny_pipeline()
    assert stack(single, folder) == {"no-a-cat": 1.0}
    with must_fail("the dog's erasure does something"):
        assert torch.equal(latents(single), latents(mapped))


def test_erasures_that_became_inactive_are_active_again(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    """Plain loading leaves only the last active, deleting one leaves layers that disagree."""
    cat, dog = erasures
    pipe = tiny_pipeline()
    for name, erasure in (("no-cat", cat), ("no-dog", dog), ("third", cat)):
        pipe.load_lora_weights(erasure.save_pretrained(tmp_path / name), adapter_name=name)
    assert pipe.get_active_adapters() == ["third"]
    pipe.delete_adapters("third")
    assert stack(pipe, {"no-cat": 1.0, "no-dog": 0.5}) == pytest.approx({"no-cat": 1.0, "no-dog": 0.5})
    expected = prediction(with_deltas(tiny_pipeline(), {cat: 1.0, dog: 0.5}))
    torch.testing.assert_close(prediction(pipe), expected, rtol=1e-4, atol=1e-5)


def test_an_erasure_that_does_not_fit_is_refused_and_nothing_is_loaded(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline(unet=tiny_unet(block_out_channels=(16, 48)))
    with pytest.raises(ValueError, match=r"^The erasure was trained on another architecture: "):
        stack(pipe, {cat: 1.0, dog: 1.0})
    pattern = r"^no-a-cat was trained on a pipeline of the family StableDiffusion, and this pipeline is of the family "
    with pytest.raises(ValueError, match=pattern):
        stack(tiny_xl(), {cat: 1.0})
    assert adapter_names(pipe.unet) == []


def test_two_erasures_of_one_name_are_refused(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    other = made(tiny_pipeline(), rank=1, seed=2)
    taken = tiny_pipeline()
    stack(taken, {other: 1.0})
    with pytest.raises(ValueError, match=r"^The adapter name 'no-a-cat' is in use"):
        stack(taken, {dog: 1.0, cat: 1.0})
    assert taken.get_active_adapters() == ["no-a-cat"]
    pattern = r"^Two of the erasures have the name 'no-a-cat'; give one of them another with merge\(erasure, name="
    pipe = tiny_pipeline()
    for pair in ({cat: 1.0, other: 1.0}, [cat, cat]):
        with pytest.raises(ValueError, match=pattern):
            stack(pipe, pair)
    with pytest.raises(ValueError, match=pattern):
        stack(taken, {"no-a-cat": 0.5, other: 0.7})
    assert adapter_names(pipe.unet) == []
    assert stack(pipe, [cat, merge(other, name="other")]) == {"no-a-cat": 1.0, "other": 1.0}, "the remedy works"


def test_the_scale_of_an_rslora_is_returned_as_it_was_set(erasures: tuple[Erasure, Erasure]) -> None:
    pipe = tiny_pipeline()
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q"], use_rslora=True)
    pipe.unet.add_adapter(config, adapter_name="style")
    pipe.set_adapters(["style"], [0.6])
    assert stack(pipe, {erasures[0]: 0.5}) == pytest.approx({"style": 0.6, "no-a-cat": 0.5})


def test_a_load_that_fails_leaves_the_pipeline_as_it_was(
    erasures: tuple[Erasure, Erasure], monkeypatch: pytest.MonkeyPatch
) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    style_adapter(pipe)
    before, image = state_of(pipe), latents(pipe)
    real = type(pipe.unet).load_lora_adapter

    def fail_at_the_second(unet: Any, *arguments: Any, adapter_name: str, **options: Any) -> None:
        real(unet, *arguments, adapter_name=adapter_name, **options)
        if adapter_name == dog.name:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(type(pipe.unet), "load_lora_adapter", fail_at_the_second)
    with pytest.raises(torch.OutOfMemoryError):
        stack(pipe, {cat: 1.0, dog: 1.0})
    same(before, state_of(pipe))
    assert torch.equal(latents(pipe), image)
    key = "unet.conv_in.lora_A.weight"
    wrong = {**cat.weights, key: cat.weights[key][:, :, :1, :1]}
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"layer 'conv_in' has weights of shape"):
        stack(pipe, {Erasure("wrong", wrong, cat.config, cat.provenance): 1.0})
    same(before, state_of(pipe))
