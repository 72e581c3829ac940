"""A grid shows every image at its place, with a label at every row and column."""

from __future__ import annotations

import pytest
from controls import must_fail
from PIL import Image

from diffusers_esd.pictures.grid import grid

COLORS = [["red", "lime"], ["blue", "yellow"], ["cyan", "magenta"]]
SIDE, STEP = 32, 38


def colored(rows: list[list[str]], size: tuple[int, int] = (SIDE, SIDE)) -> list[tuple[str, list[Image.Image]]]:
    return [(f"row {i}\nseed 0", [Image.new("RGB", size, color) for color in row]) for i, row in enumerate(rows)]


@pytest.mark.parametrize("size", [(SIDE, SIDE), (100, 20)])
def test_every_image_is_at_its_place(size: tuple[int, int]) -> None:
    image = grid(colored(COLORS, size), ["base", "scale 1"], SIDE)
    x0, y0 = image.size[0] - 2 * STEP, image.size[1] - 3 * STEP
    assert min(x0, y0) > 16, "there is room for the labels"
    for i, row in enumerate(COLORS):
        for j, color in enumerate(row):
            tile = image.crop((x0 + j * STEP, y0 + i * STEP, x0 + j * STEP + SIDE, y0 + i * STEP + SIDE))
            assert tile.tobytes() == Image.new("RGB", (SIDE, SIDE), color).tobytes()


def test_labels_are_written() -> None:
    def ink(image: Image.Image) -> int:
        x0, y0 = image.size[0] - 2 * STEP, image.size[1] - 3 * STEP
        margins = [image.crop((0, y0, x0, image.size[1])), image.crop((x0, 0, image.size[0], y0))]
        return min(sum(pixel < 128 for pixel in margin.convert("L").tobytes()) for margin in margins)

    assert ink(grid(colored(COLORS), ["base", "scale 1"], SIDE)) > 20
    blank = [(" \n ", images) for _, images in colored(COLORS)]
    with must_fail("without labels there is no ink"):
        assert ink(grid(blank, [" ", " "], SIDE)) > 20


def test_what_is_no_grid_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^A grid must have at least one row and one column, got 0 and 1.$"):
        grid([], ["base"], SIDE)
    with pytest.raises(ValueError, match=r"^A grid must have at least one row and one column, got 3 and 0.$"):
        grid(colored(COLORS), [], SIDE)
    with pytest.raises(ValueError, match=r"^Row 'row 0\\nseed 0' must have an image for each of 3 columns, got 2.$"):
        grid(colored(COLORS), ["a", "b", "c"], SIDE)
