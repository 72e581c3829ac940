"""Measures of all images of a method: beside the base model's, or beside a folder of real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from evaluated import brightness, small_suite
from PIL import Image

from diffusers_esd.evaluation.distances import SetMeasure
from diffusers_esd.evaluation.folder import Folder
from diffusers_esd.evaluation.sets import check_reference, of_sets
from diffusers_esd.report_rows import Estimate


class Gap(SetMeasure):
    """The difference of the mean brightness."""

    name = "gap"
    better = "lower"

    def record(self) -> dict[str, Any]:
        return {}

    def beside(self, reference: Iterable[Image.Image]) -> Callable[[Iterable[Image.Image]], float]:
        first = fmean(map(brightness, reference))
        return lambda images: abs(fmean(map(brightness, images)) - first)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    for prompt in small_suite().prompts:
        for method, grey in (("base", 0), ("no", 51)):
            folder.write_image(method, prompt.case, Image.new("RGB", (4, 4), (grey,) * 3))
    return folder


def test_beside_the_base_models_images(folder: Folder) -> None:
    row = of_sets(Gap(), ["base", "no"], small_suite(), folder)
    assert row.figures == {"no": Estimate(pytest.approx(0.2), None, None, 8, 8)}
    assert (row.group, row.judge, row.label, row.measure, row.better) == ("small", "gap", "", "distance", "lower")


def test_beside_real_images(folder: Folder, tmp_path: Path) -> None:
    real = tmp_path / "real"
    with pytest.raises(FileNotFoundError, match=r"real contains no images \(\.png, "):
        check_reference(real)
    real.mkdir()
    (real / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="contains no images"):
        check_reference(real)
    Image.new("L", (9, 9), 255).save(real / "white.PNG")
    check_reference(real)
    row = of_sets(Gap(), ["base", "no"], replace(small_suite(), reference=real), folder)
    assert {method: figure.value for method, figure in row.figures.items()} == pytest.approx({"base": 1.0, "no": 0.8})
    assert row.label == "beside real images"


def test_a_damaged_image_is_an_error(folder: Folder) -> None:
    (folder.images("no") / "named-0001.png").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"^The image 'named-0001' of 'no' is damaged; delete it, and it is drawn again"
    ):
        of_sets(Gap(), ["base", "no"], small_suite(), folder)
