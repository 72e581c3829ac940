"""A preview shows the scales side by side and leaves the pipeline as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from made import made
from PIL import Image
from pipelines import same, state_of
from tiny import latents, style_adapter, tiny_pipeline

from diffusers_esd import Erasure, preview, stack
from diffusers_esd.denoiser import adapter_names

OPTIONS: dict[str, Any] = {"side": 32, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    """Of different layers and ranks, convolutions among them."""
    pipe = tiny_pipeline()
    return made(pipe, "a cat", group="full", rank=2), made(pipe, "a dog", group="esd-u", rank=3, seed=1)


def test_a_preview_shows_scales_and_leaves_the_pipeline_as_it_was(erasures: tuple[Erasure, Erasure]) -> None:
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


def test_columns_multiply_the_scales_of_the_mapping(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures

    def tile(scales: Any, column: float) -> bytes:
        image = preview(tiny_pipeline(), scales, "a cat", scales=column, **OPTIONS)
        return image.crop((image.size[0] - 38, image.size[1] - 38, image.size[0] - 6, image.size[1] - 6)).tobytes()

    expected = tile({cat: 0.4, dog: 1.5}, 1)
    assert tile({cat: 0.8, dog: 3.0}, 0.5) == expected
    with must_fail("each erasure has its own scale"):
        assert tile({cat: 3.0, dog: 0.8}, 0.5) == expected
    assert tile([cat, dog], 1) == tile({cat: 1, dog: 1}, 1)


def test_one_prompt_scale_and_seed_and_a_saved_erasure(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    folder = cat.save_pretrained(tmp_path / "no-cat")
    pipe = tiny_pipeline()
    single = preview(pipe, str(folder), "a cat", scales=1, seeds=np.int64(3), **OPTIONS)
    assert single.tobytes() == preview(pipe, [cat], ["a cat"], scales=[1.0], seeds=[3], **OPTIONS).tobytes()
    several = preview(pipe, [folder, dog], "a cat", scales=np.linspace(0, 1, 2), seeds=range(2), **OPTIONS)
    assert several.size[1] - single.size[1] == 38, "a second row, for the second seed"
    assert adapter_names(pipe.unet) == []


def test_an_erasure_on_the_pipeline_is_not_loaded_again(
    erasures: tuple[Erasure, Erasure], monkeypatch: pytest.MonkeyPatch
) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    expected = preview(pipe, [cat, dog], "a cat", scales=[0, 0.5], **OPTIONS)
    stack(pipe, {cat: 0.3})
    loaded: list[str] = []
    real = type(pipe.unet).load_lora_adapter

    def record(unet: Any, *arguments: Any, adapter_name: str, **options: Any) -> None:
        loaded.append(adapter_name)
        real(unet, *arguments, adapter_name=adapter_name, **options)

    monkeypatch.setattr(type(pipe.unet), "load_lora_adapter", record)
    image = preview(pipe, [cat, dog], "a cat", scales=[0, 0.5], **OPTIONS)
    assert image.tobytes() == expected.tobytes()
    assert loaded == ["no-a-dog"]
    assert stack(pipe, "no-a-cat") == {"no-a-cat": 1.0}, "only the user's adapter is on the pipeline"


def test_two_erasures_of_one_name_are_refused(erasures: tuple[Erasure, Erasure]) -> None:
    cat, _ = erasures
    other = made(tiny_pipeline(), rank=1, seed=2)
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=r"^Two of the erasures have the name 'no-a-cat'"):
        preview(pipe, [cat, other], "a cat", **OPTIONS)
    assert adapter_names(pipe.unet) == []
    stack(pipe, {cat: 0.3})
    with pytest.raises(ValueError, match=r"^Two of the erasures have the name 'no-a-cat'"):
        preview(pipe, [cat, other], "a cat", **OPTIONS)
    with pytest.raises(ValueError, match=r"^The adapter name 'no-a-cat' is in use"):
        preview(pipe, other, "a cat", **OPTIONS)
    assert stack(pipe, {"no-a-cat": 0.3}) == {"no-a-cat": 0.3}


def test_nothing_to_draw_is_an_error(erasures: tuple[Erasure, Erasure]) -> None:
    cat, _ = erasures
    pipe = tiny_pipeline()
    for name, arguments in (("prompts", ([], 1, 0)), ("scales", ("a cat", [], 0)), ("seeds", ("a cat", 1, []))):
        prompts, scales, seeds = arguments
        with pytest.raises(ValueError, match=rf"^`{name}` is empty; give at least one.$"):
            preview(pipe, cat, prompts, scales=scales, seeds=seeds)
    with pytest.raises(TypeError, match=r"^`seeds` must be whole numbers, got 0.5 of type float.$"):
        preview(pipe, cat, "a cat", seeds=0.5)  # type: ignore[arg-type]


def test_a_pipeline_that_fails_is_left_as_it_was(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    style_adapter(pipe)
    stack(pipe, {cat: 0.3})
    before, picture = state_of(pipe), latents(pipe)

    def fail(*arguments: Any) -> None:
        assert set(pipe.get_active_adapters()) == {"style", "no-a-cat", "no-a-dog"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preview(pipe, [cat, dog], "a cat", callback_on_step_end=fail, **OPTIONS)
    same(before, state_of(pipe))
    assert torch.equal(latents(pipe), picture)
