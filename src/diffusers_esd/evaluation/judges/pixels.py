"""How an image becomes what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL.Image import Image, Resampling
from torch import Tensor


def rgb(images: Sequence[Image]) -> list[Image]:
    """The images in RGB.

    Raises:
        ValueError: If there is none: nothing was judged.
    """
    if not images:
        raise ValueError("There is no image to judge; give at least one.")
    return [image.convert("RGB") for image in images]


def to_bytes(image: Image) -> Tensor:
    """An RGB image as a tensor (3, H, W) of whole numbers from 0 to 255."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_unit(image: Image) -> Tensor:
    """An RGB image as a tensor (3, H, W) in [0, 1]."""
    return to_bytes(image).float() / 255


def centre_crop(image: Image, side: int, shorter: int, resampling: Resampling = Resampling.BILINEAR) -> Image:
    """A square from the middle of a resized image.

    Args:
        image: The image.
        side: Of the square, in pixels.
        shorter: What the shorter side of the image becomes, in pixels.
        resampling: How it is resized.
    """
    scale = shorter / min(image.size)
    width, height = (max(side, round(scale * pixels)) for pixels in image.size)
    left, top = (width - side) // 2, (height - side) // 2
    return image.resize((width, height), resampling).crop((left, top, left + side, top + side))
