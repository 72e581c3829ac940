"""`draw`: images of a pipeline. The only file that calls a pipeline for images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image


def draw(pipe: Any, prompts: Sequence[str], seeds: Sequence[int], **options: Any) -> list[list[Image.Image]]:
    """Images of every prompt with every seed, one call of the pipeline for each.

    An image depends on its own prompt and seed only, not on the other images and not on the device: the noise comes
    from a CPU generator of its own. The global random generators are not used.

    Args:
        pipe: The pipeline, as it is.
        prompts: The prompts.
        seeds: Seeds of the noise.
        options: Further arguments of the pipeline's call, such as `num_inference_steps`.

    Returns:
        A list of images for each prompt, in the order of the seeds. Of a video it is the first frame.
    """
    return [[_drawn(pipe, prompt, seed, **options) for seed in seeds] for prompt in prompts]


def _drawn(pipe: Any, prompt: str, seed: int, **options: Any) -> Image.Image:
    generator = torch.Generator("cpu").manual_seed(seed)
    return _images(pipe(prompt=prompt, generator=generator, **{"output_type": "pil", **options}))[0]


def draw_batch(pipe: Any, prompts: Sequence[str] | None, seeds: Sequence[int], **options: Any) -> list[Image.Image]:
    """One image of each prompt, in one call of the pipeline. Each has a generator of its own, as in `draw`.

    An image of a batch differs from the same image drawn alone in its last bits only.

    Args:
        pipe: The pipeline, as it is.
        prompts: N prompts, or `None` if `options` has `prompt_embeds`.
        seeds: The seed of each.
        options: Further arguments of the pipeline's call, such as `num_inference_steps`.
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    named = {} if prompts is None else {"prompt": list(prompts)}
    return _images(pipe(**named, generator=generators, **{"output_type": "pil", **options}))


@contextmanager
def without_bars(pipe: Any) -> Iterator[None]:
    """Without the pipeline's progress bars."""
    before = getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)


def _images(output: Any) -> list[Image.Image]:
    return list(output.images) if "images" in output else [frames[0] for frames in output.frames]
