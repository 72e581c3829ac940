"""A merged erasure is the exact sum of its parts, or the best of a lower rank."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from controls import must_fail
from made import made, with_provenance
from pipelines import prediction, with_deltas
from tiny import tiny_pipeline, tiny_xl
from torch import Tensor

from diffusers_esd import Erasure, merge


@pytest.fixture(scope="module")
def erasures() -> tuple[Erasure, Erasure]:
    """Of different layers and ranks, convolutions among them."""
    pipe = tiny_pipeline()
    return made(pipe, "a cat", group="full", rank=2), made(pipe, "a dog", group="esd-u", rank=3, seed=1)


def dense(erasure: Erasure) -> dict[str, Tensor]:
    """The product of A and B of each layer."""
    return {layer: b.flatten(1).double() @ a.flatten(1).double() for layer, (a, b) in erasure.layers().items()}


def test_a_merge_claims_no_training(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    trained = with_provenance(cat, alignments={"a cat": -0.5}, preserved={"loss": 3}, left_out={"faint": ("x",)})
    merged = merge([trained, dog])
    origin = merged.provenance
    assert (merged.config, origin.origin, origin.alignment, origin.iterations) == (None, "merged", None, 16)
    assert (origin.alignments, origin.preserved, origin.left_out, origin.history) == ({}, {}, {}, ())
    assert merged.name == "no-a-cat-no-a-dog"
    many = merge([cat] * 40)
    assert len(many.name.encode()) == 64
    assert many.provenance.concepts == ("a cat",)


def test_a_merge_is_exact_and_travels_as_any_erasure(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    merged = merge({cat: 0.7, dog: 1.2}, name="both")
    assert merged.rank == 5
    assert merged.provenance.parts == (("no-a-cat", 0.7), ("no-a-dog", 1.2))
    assert merged.provenance.concepts == ("a cat", "a dog")
    assert merged.provenance.rank_error == 0
    expected = prediction(with_deltas(tiny_pipeline(), {cat: 0.7, dog: 1.2}))
    pipe = tiny_pipeline()
    pipe.load_lora_weights(merged.save_pretrained(tmp_path))
    torch.testing.assert_close(prediction(pipe), expected, rtol=1e-4, atol=1e-5)
    with must_fail("the scales count"):
        plain = prediction(with_deltas(tiny_pipeline(), {cat: 1.0, dog: 1.0}))
        torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)
    again = Erasure.from_pretrained(tmp_path)
    assert again.provenance == merged.provenance
    assert all(torch.equal(value, merged.weights[key]) for key, value in again.weights.items())


def test_a_list_and_a_single_source_have_scale_1(erasures: tuple[Erasure, Erasure], tmp_path: Path) -> None:
    cat, dog = erasures
    folder = cat.save_pretrained(tmp_path / "no-cat")
    expected = merge({cat: 1.0, dog: 1.0}).weights
    merged = merge([str(folder), dog])
    assert all(torch.equal(value, expected[key]) for key, value in merged.weights.items())
    assert merged.provenance.parts == (("no-a-cat", 1.0), ("no-a-dog", 1.0))
    renamed = merge(folder, name="other")
    assert (renamed.name, renamed.provenance.parts) == ("other", (("no-a-cat", 1.0),))
    assert all(torch.equal(value, cat.weights[key]) for key, value in renamed.weights.items())


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_a_lower_rank_is_the_best_of_that_rank_and_its_error_is_recorded(
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
    for empty in ([], {}):
        with pytest.raises(ValueError, match=r"^`erasures` is empty; give at least one erasure.$"):
            merge(empty)
    with pytest.raises(ValueError, match=r"^`rank` must be 1 or more, got 0.$"):
        merge(erasures, rank=0)
    with pytest.raises(TypeError, match=r"^`rank` must be a whole number, got 1.5"):
        merge(erasures, rank=1.5)  # type: ignore[arg-type]
    xl = made(tiny_xl(), rank=1)
    pattern = r"^`erasures` must be of the same family, got no-a-cat of StableDiffusion, no-a-cat of StableDiffusionX"
    with pytest.raises(ValueError, match=pattern):
        merge([erasures[0], xl])
    key = "unet.conv_in.lora_A.weight"
    cat = erasures[0]
    wrong = Erasure("wrong", {**cat.weights, key: cat.weights[key][:, :, :1, :1]}, None, cat.provenance)
    with pytest.raises(ValueError, match=r"architectures: layer 'conv_in' "):
        merge([cat, wrong])


def test_erasures_of_different_models_are_merged_with_a_warning(erasures: tuple[Erasure, Erasure]) -> None:
    cat, dog = erasures
    other = made(tiny_pipeline(seed=1), "a bus")
    pattern = (
        r"^no-a-cat was trained on StableDiffusionPipeline, and no-a-bus on StableDiffusionPipeline, with other weights"
    )
    with pytest.warns(UserWarning, match=pattern) as caught:
        merged = merge([cat, other])
    assert [warning.filename for warning in caught] == [__file__], "it points to the caller's line"
    assert merged.provenance.base_fingerprint == ""
    assert merge([cat, dog]).provenance.base_fingerprint == cat.provenance.base_fingerprint


@pytest.mark.parametrize("name", ["v1.5", "a/b", " "])
def test_a_name_that_cannot_be_read_back_is_refused(name: str, erasures: tuple[Erasure, Erasure]) -> None:
    with pytest.raises(ValueError, match=r"^The adapter name "):
        merge(erasures, name=name)


def test_a_default_device_of_torch_does_not_matter(erasures: tuple[Erasure, Erasure]) -> None:
    scales: dict[Any, float] = dict(zip(erasures, (0.7, 1.2), strict=True))
    expected = merge(scales, rank=2)
    try:
        torch.set_default_device("meta")
        merged = merge(scales, rank=2)
    finally:
        torch.set_default_device(None)
    assert all(torch.equal(value, expected.weights[key]) for key, value in merged.weights.items())
