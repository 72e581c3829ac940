"""Look at an erasure: the same prompts and seeds at several strengths, side by side, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image, ImageDraw, ImageFont

from . import adapter
from .compose import stack
from .denoiser import UserState, adapter_names, tuner_layers
from .erasure import Erasure


def preview(
    pipe: DiffusionPipeline,
    erasures: Erasure | Sequence[Erasure],
    prompts: Sequence[str],
    *,
    scales: Sequence[float] = (0.0, 1.0),
    seeds: Sequence[int] = (0,),
    side: int = 256,
    **options: Any,
) -> Image.Image:
    """A grid of pictures: a row for each prompt and seed, a column for each scale.

    Args:
        pipe: The pipeline; adapters on it stay as they are, and active.
        erasures: What to look at, one or several together. What is on the pipeline already is not loaded again.
        prompts: What to draw.
        scales: Strengths; 0 is without the erasure, 1 as trained.
        seeds: Of the noise, the same in every column.
        side: Pixels of a picture's side in the grid.
        options: Further arguments of the pipeline's call, such as `num_inference_steps`.

    Raises:
        ValueError: If there is nothing to draw, or an erasure does not fit the pipeline.
    """
    erasures = [erasures] if isinstance(erasures, Erasure) else list(erasures)
    if not erasures or not prompts or not scales or not seeds:
        raise ValueError("Give one or more erasures, prompts, scales and seeds.")
    call: Any = pipe
    denoiser = erasures[0].denoiser(pipe)
    there, user = adapter_names(denoiser), UserState(denoiser)
    scaling = [(layer, dict(layer.scaling)) for layer in tuner_layers(denoiser)]
    cells = [(prompt, seed) for prompt in prompts for seed in seeds]
    rows: list[tuple[str, list[Image.Image]]] = [(f"{prompt}\nseed {seed}", []) for prompt, seed in cells]
    try:
        for scale in scales:
            stack(pipe, dict.fromkeys(erasures, scale))
            for (_, pictures), (prompt, seed) in zip(rows, cells, strict=True):
                pictures.append(call(prompt, generator=torch.Generator().manual_seed(seed), **options).images[0])
    finally:
        for name in adapter_names(denoiser):
            if name not in there:
                adapter.remove(denoiser, name)
        user.restore()
        for layer, before in scaling:
            layer.scaling.update(before)
    return grid(rows, [f"scale {scale:g}" if scale else "base" for scale in scales], side)


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
