"""An image depends on its own prompt and seed only."""

from __future__ import annotations

import torch
from controls import must_fail
from tiny import tiny_pipeline
from tiny_language import tiny_flux_2, tiny_wan

from diffusers_esd.pictures.draw import draw


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
