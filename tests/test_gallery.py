"""The images of a card: explicit ones only on request."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from controls import must_fail
from PIL import Image

from diffusers_esd.gallery import is_explicit, publishable, write_images

IMAGES = {"a street": Image.new("RGB", (8, 8)), "a park": Image.new("RGB", (8, 4))}


@pytest.mark.parametrize("prompt", ["nudity", "Nude", "a naked person", "nsfw_content", "violence", "gory, BLOODY"])
def test_explicit_prompts(prompt: str) -> None:
    assert is_explicit(["a cat", prompt])


@pytest.mark.parametrize("prompt", ["a cat", "Van Gogh", "Essex", "Bluds", "a denuded hill"])
def test_other_prompts(prompt: str) -> None:
    assert not is_explicit([prompt])


@pytest.mark.parametrize(("concepts", "images"), [(["violence"], IMAGES), (["a cat"], {"nudity": IMAGES["a park"]})])
def test_images_of_explicit_concepts_are_left_out(concepts: list[str], images: dict[str, Image.Image]) -> None:
    with pytest.warns(UserWarning, match=r"^The images are left out, because one of these is explicit: '") as seen:
        assert publishable(images, concepts, explicit=False) == {}
    assert [warning.filename for warning in seen] == [__file__], "it points to the caller's line"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert publishable(images, concepts, explicit=True) == images
        assert publishable({}, concepts, explicit=False) == {}
        assert publishable(IMAGES, ["a cat"], explicit=False) == IMAGES
        with must_fail("without the request they are left out"):
            try:
                publishable(images, concepts, explicit=False)
            except UserWarning as error:
                raise AssertionError from error


def test_their_files(tmp_path: Path) -> None:
    assert write_images(tmp_path, IMAGES) == {"a street": "images/00.png", "a park": "images/01.png"}
    assert [Image.open(tmp_path / "images" / f"0{i}.png").size for i in (0, 1)] == [(8, 8), (8, 4)]
    assert write_images(tmp_path / "none", {}) == {}
    assert not (tmp_path / "none").exists()
