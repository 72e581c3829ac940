"""Learning: a known conditioning is found, and the pipeline is as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from controls import must_fail
from diffusers import AutoencoderTiny
from PIL import Image
from pipelines import same, state_of
from tiny import style_adapter, tiny_flux, tiny_pipeline, tiny_sd3, tiny_xl

from diffusers_esd.evaluation.attacks.learning import Budget, frozen, latents_of, learn
from diffusers_esd.evaluation.attacks.soft import SoftPrompt, SoftToken
from diffusers_esd.families import family_for

BUDGET = Budget(steps=8, learning_rate=0.05, batch_size=4, positions=4)
PIXELS = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
IMAGES = [Image.fromarray(pixels) for pixels in PIXELS]


@torch.no_grad()
def loss(family: Any, soft: Any, latents: torch.Tensor) -> float:
    """On fixed states."""
    schedule = family.schedule(4, tuple(latents.shape[1:]), 1.0)
    e = torch.randn(latents.shape, generator=torch.Generator().manual_seed(5))
    total = 0.0
    for position in range(4):
        positions = torch.full((len(latents),), position)
        x_t, target = schedule.noised(latents, e, positions)
        total += (schedule.predict(x_t, positions, soft.rows(["a cat"] * len(latents))) - target).square().mean().item()
    return total


@pytest.mark.parametrize(
    ("kind", "build"), [("prompt", tiny_pipeline), ("prompt", tiny_flux), ("token", tiny_xl), ("token", tiny_sd3)]
)
def test_the_loss_falls(kind: str, build: Any) -> None:
    family = family_for(build())
    latents = latents_of(family, IMAGES)
    assert latents.shape == (3, family.channels, 8, 8)
    soft = SoftPrompt(family, "a cat") if kind == "prompt" else SoftToken(family, "cat")
    first = {key: value.detach().clone() for key, value in soft.parameters.items()}
    before = loss(family, soft, latents)
    learn(family, soft, latents, ["a cat", "a cat in mono style"], BUDGET)
    assert loss(family, soft, latents) < before
    assert any(not torch.equal(value, first[key]) for key, value in soft.parameters.items())
    again = SoftPrompt(family, "a cat") if kind == "prompt" else SoftToken(family, "cat")
    learn(family, again, latents, ["a cat", "a cat in mono style"], BUDGET)
    for key, value in soft.parameters.items():
        assert torch.equal(value, again.parameters[key]), "the same seed learns the same"


def test_the_pipeline_is_as_it_was() -> None:
    pipe = tiny_pipeline()
    style_adapter(pipe)
    pipe.unet.train()
    pipe.text_encoder.requires_grad_(True)
    before, state = state_of(pipe), torch.get_rng_state()
    family = family_for(pipe)
    latents = latents_of(family, IMAGES)
    learn(family, SoftToken(family, "cat"), latents, ["a cat"], Budget(steps=2, learning_rate=0.1))
    same(before, state_of(pipe))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.requires_grad and p.grad is None for p in pipe.text_encoder.parameters())
    with frozen(family):
        assert not any(p.requires_grad for p in pipe.unet.parameters())
        with must_fail("inside it is in evaluation mode"):
            same(before, state_of(pipe))


def test_latents_decode_to_the_images_scale() -> None:
    pipe = tiny_pipeline()
    family = family_for(pipe)
    pixels = torch.from_numpy(PIXELS).permute(0, 3, 1, 2) / 127.5 - 1
    expected = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
    torch.testing.assert_close(latents_of(family, IMAGES), expected)
    half = tiny_xl().to(torch.float16)
    half.vae.register_to_config(force_upcast=True)
    weights = {name: value.clone() for name, value in half.vae.state_dict().items()}
    assert latents_of(family_for(half), IMAGES).dtype == torch.float16
    for name, value in half.vae.state_dict().items():
        assert torch.equal(value, weights[name])


def test_what_it_refuses() -> None:
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=r"^An attack learns from one or more images of one size, got 0 images"):
        latents_of(family_for(pipe), [])
    with pytest.raises(ValueError, match=r"of one size, got 2 images of several.$"):
        latents_of(family_for(pipe), [IMAGES[0], Image.new("RGB", (32, 32))])
    pipe.vae = AutoencoderTiny()
    with pytest.raises(TypeError, match=r"^An attack cannot learn from images with an AutoencoderTiny; it must be an"):
        latents_of(family_for(pipe), IMAGES)
    family = family_for(tiny_pipeline())
    soft = SoftPrompt(family, "a cat")
    with torch.no_grad():
        soft.parameters["encoder_hidden_states"].fill_(torch.inf)
    with pytest.raises(ValueError, match=r"^The loss in torch.float32 is infinite; load the pipeline in bfloat16"):
        learn(family, soft, latents_of(family, IMAGES), ["a cat"], BUDGET)
