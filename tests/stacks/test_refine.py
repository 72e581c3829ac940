"""Refinement: it starts at the sum, trains B alone, and leaves the pipeline as it was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from made import made, with_provenance
from pipelines import same, state_of
from tiny import style_adapter, tiny_pipeline

from diffusers_esd import Erasure, ESDConfig, Limits, Progress, merge, refine
from diffusers_esd.denoiser import adapter_names
from diffusers_esd.stacks.refine import balanced

QUICK: dict[str, Any] = {"num_inference_steps": 5, "iterations": 6, "preserve": ("a bus",), "size": 16}


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    """Of different layers and ranks, convolutions among them."""
    pipe = tiny_pipeline()
    return made(pipe, "a cat", group="full", rank=2), made(pipe, "a dog", group="esd-u", rank=3, seed=1)


def products(erasure: Erasure) -> dict[str, torch.Tensor]:
    return {layer: b.flatten(1) @ a.flatten(1) for layer, (a, b) in erasure.layers().items()}


@pytest.mark.parametrize("rank", [None, 2])
def test_it_starts_at_the_sum_and_trains_b_alone(erasures: tuple[Erasure, Erasure], rank: int | None) -> None:
    cat, dog = erasures
    merged = merge({cat: 0.7, dog: 1.2}, rank=rank)
    start = balanced(merged.layers(), [cat.layers(), dog.layers()])
    still = refine(tiny_pipeline(), {cat: 0.7, dog: 1.2}, rank=rank, learning_rate=1e-12, **QUICK)
    for layer, product in products(merged).items():
        torch.testing.assert_close(products(still)[layer], product, rtol=1e-3, atol=1e-5)
    moved = refine(tiny_pipeline(), {cat: 0.7, dog: 1.2}, rank=rank, learning_rate=1e-2, **QUICK)
    for layer, (a, _) in moved.layers().items():
        assert torch.equal(a, start[layer][0]), "A is fixed"
    with must_fail("B has moved"):
        for layer, product in products(merged).items():
            torch.testing.assert_close(products(moved)[layer], product, rtol=1e-3, atol=1e-5)


def test_rows_are_as_long_as_those_of_the_parts(erasures: tuple[Erasure, Erasure]) -> None:
    layers = [erasure.layers() for erasure in erasures]
    lower = merge(list(erasures), rank=2)
    for layer, (a, b) in balanced(lower.layers(), layers).items():
        usual = torch.cat([part[layer][0].flatten(1).norm(dim=1) for part in layers if layer in part]).mean()
        torch.testing.assert_close(a.flatten(1).norm(dim=1), usual.expand(2))
        before_a, before_b = lower.layers()[layer]
        torch.testing.assert_close(b.flatten(1) @ a.flatten(1), before_b.flatten(1) @ before_a.flatten(1))


def test_the_pipeline_is_left_as_it_was_found(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    style_adapter(pipe, scale=0.6)
    cat.apply(pipe, 0.4)
    before, names, active = state_of(pipe), adapter_names(pipe.unet), pipe.get_active_adapters()
    seen: list[Progress] = []
    refined = refine(pipe, [cat, dog], callback=seen.append, **QUICK)
    same(before, state_of(pipe))
    assert adapter_names(pipe.unet) == names
    assert pipe.get_active_adapters() == active
    assert len(seen) == 6
    assert refined.provenance.active == {"style": 0.6}, "its own parts are off"
    with pytest.raises(RuntimeError, match="of the callback"):
        refine(pipe, [cat, dog], callback=_fails, **QUICK)
    same(before, state_of(pipe))
    assert adapter_names(pipe.unet) == names


def _fails(progress: Progress) -> None:
    raise RuntimeError("of the callback")


def test_what_is_recorded(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = with_provenance(erasures[0], anchors={"a cat": "an animal"}), erasures[1]
    refined = refine(tiny_pipeline(), {cat: 0.7, dog: 1.0}, rank=2, eta=2.0, **QUICK)
    provenance, config = refined.provenance, refined.config
    assert provenance.origin == "refined"
    assert provenance.concepts == ("a cat", "a dog")
    assert provenance.anchors == {"a cat": "an animal", "a dog": ""}
    assert provenance.parts == (("no-a-cat", 0.7), ("no-a-dog", 1.0))
    assert provenance.rank_error > 0
    assert config is not None
    assert (config.eta, config.rank, config.loss_weight, config.stop_at_alignment) == (2.0, 2, 10.0, None)
    again = Erasure.from_pretrained(refined.save_pretrained(tmp_path / "refined"))
    assert again.config == config
    assert again.provenance == provenance
    assert "refined from" in refined._repr_html_()


def test_what_is_preserved_is_not_erased_and_something_is_preserved(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    quick = {key: value for key, value in QUICK.items() if key != "preserve"}
    listed = replace(cat, config=ESDConfig(preserve=("a dog", "a bus")))
    named = replace(dog, config=ESDConfig(synonyms=("puppy",)))
    few = Limits(words=4, neighbours=2, pairs=4, generic=())
    for parts, preserve, synonyms in (
        ([listed, named], ("a bus",), ()),
        ([named, listed], "vocabulary", ("puppy",)),
        ([cat, dog], "vocabulary", ()),
    ):
        config = refine(tiny_pipeline(), parts, limits=few, **quick).config
        assert config is not None
        assert (config.preserve, config.synonyms, config.loss_weight) == (preserve, synonyms, 10.0)


def test_erasures_of_one_group_keep_it() -> None:
    pipe = tiny_pipeline()
    pair = [made(pipe, "a cat", group="esd-x"), made(pipe, "a dog", group="esd-x", seed=1)]
    refined = refine(pipe, pair, **QUICK)
    assert refined.config is not None
    assert refined.config.group == "esd-x"


def test_what_is_refused(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match=r"^`group` cannot be changed in a refinement: it follows from the erasures.$"):
        refine(pipe, [cat, dog], group="full")
    with pytest.raises(ValueError, match=r"^An erasure is given twice; give each once, with its scale.$"):
        refine(pipe, [cat, cat])
    part = replace(cat, config=ESDConfig(preserve=(), erase_from="a dog"))
    with pytest.raises(ValueError, match=r"^An erasure with `erase_from` cannot be refined"):
        refine(pipe, [part, dog])
    with pytest.raises(ValueError, match=r"^`rank` must be 1 or more, got 0.$"):
        refine(pipe, [cat, dog], rank=0)
    assert adapter_names(pipe.unet) == []
