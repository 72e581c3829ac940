"""Look at an erasure: the same prompts and seeds at several scales, side by side, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from .. import adapter
from ..stacks.compose import stack
from ..checks import check_scale
from ..denoiser import find_denoiser
from ..stacks.sources import Source, listed, read


def preview(
    pipe: DiffusionPipeline,
    erasures: Source | Sequence[Source],
    prompts: str | Sequence[str],
    *,
    scales: float | Sequence[float] = (0.0, 1.0),
    seeds: int | Sequence[int] = (0,),
    side: int = 256,
    **options: Any,
) -> Image.Image:
    """A grid of pictures: a row for each prompt and seed, a column for each scale.

    Args:
        pipe: The pipeline; adapters on it stay as they are, and active.
        erasures: What to look at, one or several together: each an `Erasure`, or where one is saved. What is on the
            pipeline already is not loaded again.
        prompts: What to draw, one or several.
        scales: One or several; 0 is without the erasure, 1 as trained.
        seeds: Of the noise, one or several; the same in every column.
        side: Pixels of a picture's side in the grid.
        options: Further arguments of the pipeline's call, such as `num_inference_steps`.

    Raises:
        TypeError: If a scale or a seed is not a number.
        ValueError: If there is nothing to draw, a scale is not finite, or an erasure does not fit the pipeline.

    Warns:
        UserWarning: If an erasure was trained on another model of the same architecture, or a scale is negative.
    """
    sources = listed(erasures)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    checked: list[float] = []
    for scale in _several(scales):
        checked.append(check_scale("scales", scale))
    numbers = [_seed(seed) for seed in _several(seeds)]
    if not sources or not prompts or not checked or not numbers:
        raise ValueError("Give one or more erasures, prompts, scales and seeds.")
    chosen = [read(source) for source in sources]
    call: Any = pipe
    _, denoiser = find_denoiser(pipe)
    cells = [(prompt, seed) for prompt in prompts for seed in numbers]
    rows: list[tuple[str, list[Image.Image]]] = [(f"{prompt}\nseed {seed}", []) for prompt, seed in cells]
    with adapter.as_found(denoiser):
        stack(pipe, dict.fromkeys(chosen, 0.0))
        for scale in checked:
            adapter.activate(denoiser, {erasure.name: scale for erasure in chosen})
            for (_, pictures), (prompt, seed) in zip(rows, cells, strict=True):
                pictures.append(call(prompt, generator=torch.Generator("cpu").manual_seed(seed), **options).images[0])
    return grid(rows, [f"scale {scale:g}" if scale else "base" for scale in checked], side)


def _several(numbers: Any) -> list[Any]:
    return [numbers] if isinstance(numbers, Real) else list(numbers)


def _seed(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`seeds` must be whole numbers, got {value!r} of type {type(value).__name__}.")
    return int(value)


def grid(rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], side: int) -> Image.Image:
    """Pictures with labels.

    Args:
        rows: Label and pictures of each row.
        columns: Labels of the columns.
        side: Pixels of a picture's side; others are resized.
    """
    font, gap = ImageFont.load_default(14), 6
    pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = 16 + max(round(pen.multiline_textbbox((0, 0), label, font)[2]) for label, _ in rows)
    top = 12 + max(round(pen.multiline_textbbox((0, 0), label, font)[3]) for label in columns)
    image = Image.new("RGB", (left + len(columns) * (side + gap), top + len(rows) * (side + gap)), "white")
    pen = ImageDraw.Draw(image)
    for column, label in enumerate(columns):
        pen.multiline_text((left + column * (side + gap) + 4, 4), label, "black", font)
    for row, (label, pictures) in enumerate(rows):
        y = top + row * (side + gap)
        pen.multiline_text((8, y + side // 2 - 8 * (1 + label.count("\n"))), label, "black", font)
        for column, picture in enumerate(pictures):
            tile = picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            image.paste(tile, (left + column * (side + gap), y))
    return image
