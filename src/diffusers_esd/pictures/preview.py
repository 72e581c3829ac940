"""`preview`: the same prompts and seeds at several scales, side by side. (`check.py` makes the picture of `check`.)"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

from .. import adapter
from ..arguments import check_scale, check_seeds
from ..denoiser import find_denoiser
from ..stacks.sources import Sources, read_all
from ..stacks.stack import stack
from .draw import draw
from .grid import grid


def preview(
    pipe: DiffusionPipeline,
    erasures: Sources,
    prompts: str | Sequence[str],
    *,
    scales: float | Sequence[float] = (0.0, 1.0),
    seeds: int | Sequence[int] = (0,),
    side: int = 256,
    **options: Any,
) -> Image.Image:
    """A grid of images: a row for each prompt and seed, a column for each scale.

    Args:
        pipe: The pipeline; its adapters stay active, and as they are.
        erasures: One source, a list of sources (scale 1), or a mapping of sources to scales. A source is an `Erasure`,
            its folder or file, its Hub id (`user/name` or `user/name@revision`), or a recipe. An erasure that is on the
            pipeline already, under its own name, is not loaded again.
        prompts: One prompt or several.
        scales: One scale or several, a column for each; they multiply the scales of `erasures`. 0 is the pipeline
            without the erasures, 1 is the erasures as given.
        seeds: One seed of the noise or several; the same in every column.
        side: Width and height of an image in the grid, in pixels.
        options: Further arguments of the pipeline's call, such as `num_inference_steps`.

    Raises:
        TypeError: If a scale or a seed is not a number.
        ValueError: If there is nothing to draw, a scale is not finite, an erasure does not fit the pipeline, or two
            erasures have the same name.
        FileNotFoundError: If there is no erasure at a path or Hub id.

    Warns:
        UserWarning: If an erasure was trained on another model of the same architecture, or a scale is negative.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    columns = [check_scale("scales", scale) for scale in _several(scales)]
    numbers = check_seeds(seeds)
    for name, values in (("prompts", prompts), ("scales", columns)):
        if not values:
            raise ValueError(f"`{name}` is empty; give at least one.")
    parts = read_all(erasures)
    _, denoiser = find_denoiser(pipe)
    drawn: list[list[list[Image.Image]]] = []
    with adapter.as_found(denoiser):
        stack(pipe, [erasure for erasure, _ in parts])
        for column in columns:
            adapter.activate(denoiser, {erasure.name: column * scale for erasure, scale in parts})
            drawn.append(draw(pipe, prompts, numbers, **options))
    rows = [
        (f"{prompt}\nseed {seed}", [images[i][j] for images in drawn])
        for i, prompt in enumerate(prompts)
        for j, seed in enumerate(numbers)
    ]
    return grid(rows, [f"scale {column:g}" if column else "base" for column in columns], side)


def _several(numbers: Any) -> list[Any]:
    return [numbers] if isinstance(numbers, Real) else list(numbers)
