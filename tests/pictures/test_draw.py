"""An image depends on its own prompt and seed only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from tiny import tiny_pipeline
from tiny_language import tiny_flux_2, tiny_wan

from diffusers_esd.pictures.draw import draw, draw_batch, without_bars


def test_an_image_depends_on_its_own_prompt_and_seed() -> None:
    pipe = tiny_pipeline()
    images = draw(pipe, ["a cat", "a dog"], [3, 5], num_inference_steps=2)
    assert [len(row) for row in images] == [2, 2]
    for i, prompt in enumerate(["a cat", "a dog"]):
        for j, seed in enumerate([3, 5]):
            generator = torch.Generator("cpu").manual_seed(seed)
            expected = pipe(prompt, generator=generator, num_inference_steps=2).images[0]
            assert images[i][j].tobytes() == expected.tobytes()
    for other in (images[0][1], images[1][0]):
        with must_fail("another seed or prompt is another image"):
            assert other.tobytes() == images[0][0].tobytes()


@pytest.mark.parametrize(("build", "frames"), [(tiny_pipeline, {}), (tiny_flux_2, {}), (tiny_wan, {"num_frames": 1})])
def test_an_image_of_a_batch_is_the_one_drawn_alone(build: Callable[[], Any], frames: dict[str, int]) -> None:
    pipe, prompts, seeds = build(), ["a cat", "a dog", "a cat"], [3, 5, 7]
    options = {"num_inference_steps": 2, "height": 16, "width": 16, **frames}
    together = draw_batch(pipe, prompts, seeds, **options)
    alone = [draw(pipe, [prompts[i]], [seeds[i]], **options)[0][0] for i in range(3)]
    far = [abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max() for a, b in zip(together, alone, strict=True)]
    assert max(far) <= 1
    with must_fail("another seed is another image"):
        assert abs(np.asarray(together[0], dtype=int) - np.asarray(together[2], dtype=int)).max() <= 1


def test_bars_are_off_inside_and_as_they_were_after() -> None:
    pipe = tiny_pipeline()
    pipe.set_progress_bar_config(disable=False, ncols=70)
    with without_bars(pipe):
        assert pipe._progress_bar_config == {"disable": True, "ncols": 70}
    assert pipe._progress_bar_config == {"disable": False, "ncols": 70}


def test_the_global_generator_is_not_used() -> None:
    pipe = tiny_pipeline()
    torch.manual_seed(1)
    state, [[first]] = torch.random.get_rng_state(), draw(pipe, ["a cat"], [0], num_inference_steps=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(2)
    assert draw(pipe, ["a cat"], [0], num_inference_steps=1)[0][0].tobytes() == first.tobytes()


def test_options_reach_the_pipeline() -> None:
    pipe = tiny_pipeline()
    [[image]] = draw(pipe, ["a cat"], [0], num_inference_steps=1, height=64, width=32)
    assert image.size == (32, 64)


def test_a_pipeline_whose_first_argument_is_an_image_gets_the_prompt() -> None:
    images = draw(tiny_flux_2(), ["a cat", "a dog"], [0], num_inference_steps=1, height=16, width=16)
    assert images[0][0].size == (16, 16)
    assert images[0][0].tobytes() != images[1][0].tobytes()


def test_of_a_video_the_first_frame_is_drawn() -> None:
    [[image]] = draw(tiny_wan(), ["a cat"], [0], num_inference_steps=1, height=16, width=16, num_frames=1)
    assert image.size == (16, 16)
