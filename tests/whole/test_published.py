"""The tables of the documentation, of the published models: computed here again, and held against a measurement."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import published
import pytest
from diffusers import UNet2DConditionModel

DOCS = Path(__file__).parents[2] / "docs"

# Layers of esd-x, esd-x-strict, esd-u and full; parameters of the denoiser.
EXPECTED = {
    "SD 1.4": ((64, 32, 218, 282), 859_520_964),
    "SD 2.1": ((64, 32, 218, 282), 865_910_724),
    "SDXL": ((280, 140, 514, 794), 2_567_463_684),
    "SD3 medium": ((95, 95, 246, 341), 2_028_328_000),
    "Flux.1 dev": ((76, 76, 428, 504), 11_901_408_320),
    "AuraFlow": ((16, 16, 310, 326), 6_833_439_744),
    "Sana 1.6B": ((80, 40, 127, 207), 1_604_462_752),
    "Qwen-Image": ((240, 240, 606, 846), 20_430_401_088),
    "Z-Image": ((15, 15, 261, 276), 6_154_908_736),
    "FLUX.2 Klein 4B": ((20, 20, 89, 109), 3_875_544_576),
    "FLUX.2 dev": ((32, 32, 171, 203), 32_223_281_152),
    "Kolors": ((280, 140, 515, 795), 2_579_458_820),
    "Wan 2.1 1.3B": ((120, 60, 186, 306), 1_418_996_800),
}


@pytest.mark.parametrize("name", list(published.MODELS))
def test_layers_of_the_published_models(name: str) -> None:
    model = published.MODELS[name]
    denoiser = model.build()
    counts = tuple(len(model.selection(denoiser, group).names) for group in published.GROUPS)
    size = sum(parameter.numel() for parameter in denoiser.parameters())
    assert (counts, size) == EXPECTED[name]
    assert counts[0] + counts[2] == counts[3]


def test_the_documentation_has_the_tables_as_computed() -> None:
    assert published.layers_table() in (DOCS / "families.md").read_text(encoding="utf-8")


def test_the_documentation_has_the_null_space_as_computed() -> None:
    assert published.null_space_table() in (DOCS / "memory.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_documentation_has_the_memory_as_computed() -> None:
    assert published.memory_table() in (DOCS / "memory.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_documentation_says_what_fits_as_computed() -> None:
    assert published.fitting_table() in (DOCS / "memory.md").read_text(encoding="utf-8")


def test_each_option_needs_less_and_the_first_that_fits_is_taken() -> None:
    gib = 2**30
    small = published.Needs(linear=gib, others=gib // 2, adapter=gib // 16, activations=(4 * gib, gib), text=gib)
    # Text encoders 2, denoiser 2 + 1, adapter with gradients and Adam 1, activations twice with graphs.
    expected = {
        "": 2 + 4 + 2 * 4, "o": 4 + 2 * 4, "og": 4 + 2 * 1, "8og": 3 + 1, "4og": 2.5625 + 1,
    }  # fmt: skip
    assert tuple(expected) == published.LADDER
    for options, size in expected.items():
        assert small.peak(options) == pytest.approx((1.1 * size + 1) * gib)
    assert [small.smallest(card) for card in (3, 5.2, 6, 8, 15, 17)] == [
        "–", "`4og`", "`8og`", "`og`", "`o`", "as is",
    ]  # fmt: skip
    large = replace(small, text=20 * gib)
    assert large.peak("8og") == 45 * gib, "the text encoders alone are more than the training"
    assert large.peak("4og") == pytest.approx((1.1 * (40 + 1.5625) + 1) * gib), "a denoiser in nf4 does not wait"
    eager = replace(small, is_captured=False)
    assert eager.peak("o") == pytest.approx((1.1 * (4 + 4) + 1) * gib), "activations once"
    assert set(published.TEXT_ENCODERS) == set(published.MODELS)


def test_activations_are_what_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"sample_size": 32, "cross_attention_dim": 64, "block_out_channels": (64, 64, 64, 64)}
    inputs = {"sample": (1, 4, 32, 32), "timestep": (1,), "encoder_hidden_states": (1, 77, 64)}
    model = published.Published("StableDiffusion", UNet2DConditionModel, config, inputs)
    monkeypatch.setitem(published.MODELS, "small", model)
    computed, measured = published.measured("small", "esd-u")
    assert computed == pytest.approx(measured, rel=0.05)
    assert published.activation_bytes(model, "esd-u", checkpointing=True) < 0.6 * computed
