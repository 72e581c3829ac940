"""Inputs of layers by their token."""

from __future__ import annotations

import pytest
import torch
from controls import must_fail
from tiny_language import tiny_z_image
from torch import Tensor

from diffusers_esd.families import family_for
from diffusers_esd.training.tokens import observed_tokens, sampled_tokens


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_sample_has_rows_of_the_chosen_places_alone() -> None:
    h = torch.arange(60.0).reshape(3, 20, 1)
    places = torch.zeros(3, 20, dtype=torch.bool)
    places[0, 4:16], places[2, [3, 9]] = True, True
    rows = sampled_tokens(h, places, 4, generator())[:, 0].tolist()
    assert len(rows) == 8, "a sample without such places gives none"
    assert [int(row - 4) // 3 for row in rows[:4]] == [0, 1, 2, 3], "one in each quarter"
    assert rows[4:] == [43, 43, 49, 49], "two places, each as often"
    assert sampled_tokens(h, places, 4, generator())[:, 0].tolist() == rows
    with must_fail("another generator chooses others"):
        assert sampled_tokens(h, places, 4, torch.Generator().manual_seed(1))[:, 0].tolist() == rows


@torch.no_grad()
def test_text_and_image_are_kept_apart_and_hooks_are_gone() -> None:
    family = family_for(tiny_z_image())
    family.max_sequence_length = 48
    conditioning, seen = family.encode(["a cat"]), dict[str, tuple[Tensor, Tensor]]()
    schedule = family.schedule(5, family.latent_shape(16), 0.0)
    names = ["cap_embedder.1", "context_refiner.0.attention.to_q", "layers.0.attention.to_q"]

    def note(name: str, text: Tensor, image: Tensor) -> None:
        seen[name] = text, image

    x_t = schedule.noise(generator(), 1)
    with observed_tokens(family, lambda: conditioning, names, 4, note, 0, "test"):
        schedule.predict(x_t, torch.tensor([1]), conditioning)
    shapes = [(len(text), len(image)) for text, image in (seen[name] for name in names)]
    assert shapes == [(32, 0), (4, 0), (2, 2)]
    with (
        pytest.raises(ZeroDivisionError),
        observed_tokens(family, lambda: conditioning, names, 4, note, 0, "test"),
    ):
        1 / (len(family.denoiser.get_submodule(names[0])._forward_pre_hooks) - 1)
    assert not any(family.denoiser.get_submodule(name)._forward_pre_hooks for name in names)
