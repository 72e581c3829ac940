"""Where text and image stand: by hand, and in the first shared layer of the real classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from controls import must_fail
from tiny import tiny_aura_flow, tiny_flux
from tiny_language import tiny_flux_2, tiny_z_image
from torch import Tensor

from diffusers_esd.families import family_for
from diffusers_esd.families.places import image_first, text_first

OWN = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]], dtype=torch.bool)


def test_text_first() -> None:
    places = text_first(OWN, 7, before=1)
    assert places.text.tolist() == [[False, True, True, *[False] * 4], [False, True, True, True, *[False] * 3]]
    assert places.image.tolist() == [[False] * 5 + [True] * 2] * 2
    alone = text_first(OWN, 3)  # the padding that no prompt needs was cut off
    assert torch.equal(alone.text, OWN[:, :3])
    assert not alone.image.any()


def test_image_first() -> None:
    places = image_first(OWN, 9, multiple=4)
    assert places.text.tolist() == [[False] * 5 + [True, True, False, False], [False] * 5 + [True, True, True, False]]
    assert places.image.tolist() == [[True] * 5 + [False] * 4] * 2
    assert image_first(OWN, 8, multiple=3).image.sum(1).tolist() == [5, 5], "the padding of the text is shorter"


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (tiny_flux, "single_transformer_blocks.0.attn.to_q"),
        (tiny_flux_2, "single_transformer_blocks.0.attn.to_qkv_mlp_proj"),
        (tiny_aura_flow, "single_transformer_blocks.0.attn.to_q"),
        (tiny_z_image, "layers.0.attention.to_q"),
    ],
    ids=["flux", "flux-2", "aura-flow", "z-image"],
)
@torch.no_grad()
def test_another_image_changes_the_inputs_at_the_places_of_the_image(build: Callable[[], Any], layer: str) -> None:
    """In a model whose text does not read the image before the first shared layer."""
    family = family_for(build())
    family.__dict__.update(dict.fromkeys(set(family.__dict__) & {"max_sequence_length"}, 48))
    for name, parameter in family.denoiser.named_parameters():
        if ".to_add_out." in name:
            parameter.zero_()
    conditioning, seen = family.encode(["a cat", "a cat and a dog"]), list[Tensor]()
    family.denoiser.get_submodule(layer).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    schedule = family.schedule(5, family.latent_shape(16), 3.0)
    for seed in (0, 1):
        x_t = schedule.noise(torch.Generator().manual_seed(seed), 2)
        schedule.predict(x_t, torch.tensor([1, 1]), conditioning)
    first, second = seen
    changed = (first - second).abs().amax(-1) > 1e-5
    places = family.places(layer, conditioning, first.shape[1])
    assert torch.equal(changed, places.image)
    assert not (places.text & places.image).any()
    shorter, longer = places.text.sum(1).tolist()
    assert 0 < shorter <= longer
    with must_fail("text is elsewhere"):
        assert torch.equal(changed, places.text)
