"""Folders of studies with drawn pictures: an artist of circles and an artist of squares."""

from __future__ import annotations

from pathlib import Path
from random import Random

from PIL import Image, ImageDraw

CONDITIONS = {"references": 6, "original": 2, "similar artist": 1, "esd-x": 3}
ARTISTS = ("Ada Round", "Bo Square")


def draw(file: Path, name: str, size: tuple[int, int] = (60, 40)) -> Path:
    """A picture of circles or squares, another one for each name."""
    chance = Random(name)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, side = (chance.randrange(5, 30) for _ in range(3))
        shape = pen.ellipse if "Round" in name else pen.rectangle
        shape((x, y, x + side, y + side), fill=tuple(chance.randrange(256) for _ in range(3)))
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    return file


def draw_folder(folder: Path) -> Path:
    """A folder as `make_study` takes it: 12 candidates in three conditions."""
    for artist in ARTISTS:
        for group, number in CONDITIONS.items():
            for i in range(number):
                draw(folder / artist / group / f"{i}.png", f"{artist} {group} {i}")
    return folder
