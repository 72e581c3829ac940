"""Pixels: which numbers a network gets."""

from __future__ import annotations

import pytest
import torch
from PIL.Image import new

from diffusers_esd.evaluation.judges.pixels import centre_crop, rgb, to_bytes, to_unit


def test_numbers_are_those_of_the_image_channel_by_channel() -> None:
    image = new("RGB", (3, 2), (255, 51, 0))
    assert to_bytes(image).dtype == torch.uint8
    assert torch.equal(to_bytes(image), torch.tensor([255, 51, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 3))
    assert torch.equal(to_unit(image)[:, 0, 0], torch.tensor([1.0, 0.2, 0.0]))


def test_grey_becomes_rgb() -> None:
    (image,) = rgb([new("L", (2, 2), 7)])
    assert (image.mode, image.getpixel((0, 0))) == ("RGB", (7, 7, 7))


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^There is no image to judge; give at least one\.$"):
        rgb([])


@pytest.mark.parametrize("size", [(80, 40), (40, 80), (41, 43), (8, 8)])
def test_a_crop_is_from_the_middle(size: tuple[int, int]) -> None:
    image = new("RGB", size, (0, 0, 0))
    image.putpixel((size[0] // 2, size[1] // 2), (255, 255, 255))
    square = centre_crop(image, 20, 20)
    assert square.size == (20, 20)
    bright = to_unit(square)[0]
    row, column = divmod(int(bright.argmax()), 20)
    assert abs(row - 10) <= 1
    assert abs(column - 10) <= 1


def test_a_crop_of_the_whole_square_is_the_image() -> None:
    image = new("RGB", (20, 20), (1, 2, 3))
    assert torch.equal(to_bytes(centre_crop(image, 20, 20)), to_bytes(image))
