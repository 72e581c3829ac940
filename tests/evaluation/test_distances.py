"""Measures of sets: with features that are known, with real ones, and what FID says without weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL.Image import Image, fromarray, new
from skimage import data
from torch import Tensor

from diffusers_esd.evaluation.distances import FID, FrechetDistance
from diffusers_esd.evaluation.judges.st_lpips import STFeatures
from diffusers_esd.evaluation.judges.weights import FOLDER, MissingWeightsError


class Means:
    """Features that are easy to know: the means of the three channels, in [0, 1]."""

    name = "means"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def record(self) -> dict[str, Any]:
        return {"version": 1}

    def __call__(self, images: Sequence[Image]) -> Tensor:
        self.sizes.append(len(images))
        return torch.stack([torch.from_numpy(np.array(image)).double().mean((0, 1)) / 255 for image in images])


def greys(levels: Sequence[int]) -> Iterator[Image]:
    return (new("RGB", (4, 4), (level,) * 3) for level in levels)


# Sets of images.


def test_sets_are_read_in_batches() -> None:
    extractor = Means()
    measure = FrechetDistance(extractor, batch_size=2)
    # Three equal channels, so 3 times the distance of one: means 0.2 and 0.6, deviations 0.2 and 0.2.
    value = measure(greys([0, 51, 102]), greys([102, 153, 204]))
    # The covariances have the rank 1, so rounding is the square root of that of their eigenvalues.
    assert value == pytest.approx(3 * 0.4**2, abs=1e-7)
    assert extractor.sizes == [2, 1, 2, 1]
    assert measure.name == "frechet_distance[means]"
    assert measure.better == "lower"
    assert measure.record() == {"extractor": "means", "version": 1}
    assert measure.moments(greys([0, 51, 102])).n == 3


def test_sets_that_are_too_small_are_refused() -> None:
    measure = FrechetDistance(Means())
    with pytest.raises(ValueError, match=r"^There is no image to measure; give at least two\.$"):
        measure(greys([1, 2]), [])
    with pytest.raises(ValueError, match=r"^A covariance needs two images at least, got 1\.$"):
        measure(greys([1, 2]), greys([3]))
    with pytest.raises(ValueError, match=r"^`batch_size` must be 1 or more, got 0\.$"):
        FrechetDistance(Means(), batch_size=0)


def test_an_error_of_the_extractor_is_raised() -> None:
    class Failing(Means):
        def __call__(self, images: Sequence[Image]) -> Tensor:
            raise RuntimeError("the network failed")

    with pytest.raises(RuntimeError, match="the network failed"):
        FrechetDistance(Failing())(greys([1, 2]), greys([1, 2]))


def test_real_features_tell_parts_of_another_photograph_from_parts_of_the_same() -> None:
    def parts(pixels: np.ndarray, first: int) -> list[Image]:
        return [fromarray(pixels[y : y + 64, x : x + 64]) for y in (40, 120, 200) for x in range(first, 400, 80)]

    measure = FrechetDistance(STFeatures("alex", side=64))
    assert measure.name == "frechet_distance[st-alex]"
    coffee = parts(data.coffee(), 0)
    same, other = measure(coffee, parts(data.coffee(), 40)), measure(coffee, parts(data.astronaut(), 0))
    assert 0 < 2 * same < other


# FID.


def test_missing_weights_of_fid_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv(FOLDER, raising=False)
    message = r"^The weights weights-inception-2015-12-05-6726825d\.pth are not in .* from the torch-fidelity project"
    with pytest.raises(MissingWeightsError, match=message):
        FID()


@pytest.mark.skipif(find_spec("torch_fidelity") is not None, reason="torch-fidelity is installed")
def test_without_torch_fidelity_the_error_has_the_command(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "x.pth")
    with pytest.raises(ImportError, match=r'^torch_fidelity is not installed: pip install "diffusers-esd\[fid\]"\.$'):
        FID(weights=tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"x\.pth is damaged, or is not a file of tensors"):
        FID(weights=tmp_path / "x.pth")
