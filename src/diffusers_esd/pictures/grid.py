"""`grid`: images side by side, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from PIL import Image, ImageDraw, ImageFont

_GAP = 6
_FONT_SIZE = 14


def grid(rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], side: int) -> Image.Image:
    """One image of all images, with a label at every row and column.

    Args:
        rows: Label and images of each row.
        columns: Labels of the columns.
        side: Width and height of an image in the grid, in pixels; images of another size are resized.

    Raises:
        ValueError: If there is no row or no column, or a row has more or fewer images than there are columns.
    """
    if not rows or not columns:
        raise ValueError(f"A grid must have at least one row and one column, got {len(rows)} and {len(columns)}.")
    for label, images in rows:
        if len(images) != len(columns):
            raise ValueError(f"Row {label!r} must have an image for each of {len(columns)} columns, got {len(images)}.")
    font = ImageFont.load_default(_FONT_SIZE)
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    margin_x = 16 + max(round(pen.multiline_textbbox((0, 0), label, font)[2]) for label, _ in rows)
    margin_y = 12 + max(round(pen.multiline_textbbox((0, 0), label, font)[3]) for label in columns)
    step = side + _GAP
    whole = Image.new("RGB", (margin_x + len(columns) * step, margin_y + len(rows) * step), "white")
    pen = ImageDraw.Draw(whole)
    for j, label in enumerate(columns):
        pen.multiline_text((margin_x + j * step + 4, 4), label, "black", font)
    for i, (label, images) in enumerate(rows):
        y = margin_y + i * step
        pen.multiline_text((8, y + side // 2 - 8 * (1 + label.count("\n"))), label, "black", font)
        for j, image in enumerate(images):
            tile = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            whole.paste(tile, (margin_x + j * step, y))
    return whole


def beside(
    prompts: Sequence[str],
    seeds: Sequence[int],
    base: Sequence[Sequence[Image.Image]],
    erased: Sequence[Sequence[Image.Image]],
    label: str,
    side: int,
) -> Image.Image:
    """A grid with a row for each prompt, and for each seed the images of two models beside each other.

    Args:
        prompts: The prompts, labels of the rows.
        seeds: The seeds.
        base: Images of the base model by prompt and seed.
        erased: Those of the other model.
        label: What the other model is called.
        side: Width and height of an image in the grid, in pixels.
    """
    rows = [(prompt, list(chain(*zip(base[i], erased[i], strict=True)))) for i, prompt in enumerate(prompts)]
    return grid(rows, [f"{model}, seed {seed}" for seed in seeds for model in ("base", label)], side)
