"""`Samples`: images of the erasure while it trains, beside those of the base model, with the same noise."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ..denoiser import switched_off
from ..families import Family
from ..files import remove_leftovers, whole
from ..pictures.draw import draw
from ..pictures.grid import beside
from ..run import RunConfig
from .encoding import has_encoders
from .memory import onloaded
from .surroundings import own_settings
from .task import Task

_STEPS = 25  # denoising steps
_SEEDS = (0, 1)
_SIDE = 192  # pixels of an image in the picture


def check_samples(family: Family, run: RunConfig) -> None:
    """Refuse a pipeline that cannot draw the samples that are asked for.

    Raises:
        ValueError: If it has no autoencoder, or no text encoder.
    """
    part = "autoencoder (vae=None)" if family.pipe.vae is None else "text encoder (text_encoder=None)"
    if run.sample_every is not None and (family.pipe.vae is None or not has_encoders(family)):
        raise ValueError(
            f"`sample_every`={run.sample_every} needs a pipeline that can draw, and this one has no {part}. Load it "
            "with all its parts, or set `sample_every` to None."
        )


class Samples:
    """Draws, and writes `iteration-N.png`.

    Args:
        task: The training. Its adapter must be on the denoiser when something is drawn.
        folder: Folder of the images.
        iterations: Number of iterations before a resumed training goes on.
    """

    def __init__(self, task: Task, folder: Path, iterations: int) -> None:
        assert task.run.sample_every is not None
        self._task, self._folder, self._every = task, folder, task.run.sample_every
        # With `erase_from` the student is trained on another prompt than the concept.
        self._prompts = task.run.sample_prompts or tuple(dict.fromkeys([*task.prompts.student, *task.prompts.concepts]))
        self._base: list[list[Image.Image]] = []
        remove_leftovers(folder)
        self._last = iterations if self._file(iterations).exists() else None

    def is_due(self, iteration: int, *, at_end: bool) -> bool:
        """Whether to draw after so many iterations; at the end, if nothing was drawn there yet."""
        return iteration != self._last and (at_end or iteration % self._every == 0)

    def write(self, iteration: int) -> Image.Image:
        """Draw and write the picture after so many iterations."""
        picture = self._draw(iteration)
        with whole(self._file(iteration)) as temporary:
            picture.save(temporary, format="PNG")
        self._last = iteration
        return picture

    def _file(self, iteration: int) -> Path:
        return self._folder / f"iteration-{iteration}.png"

    def _draw(self, iteration: int) -> Image.Image:
        task, family = self._task, self._task.family
        size = {} if task.config.size is None else {"height": task.config.size, "width": task.config.size}
        options = {"num_inference_steps": _STEPS, **size}
        with own_settings(family.device), onloaded(family, task.run):
            if not self._base:
                with switched_off(family.denoiser, [task.name]):
                    self._base = draw(family.pipe, self._prompts, _SEEDS, **options)
            erased = draw(family.pipe, self._prompts, _SEEDS, **options)
        return beside(self._prompts, _SEEDS, self._base, erased, f"iteration {iteration}", _SIDE)
