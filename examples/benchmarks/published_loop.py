"""The training of the authors' later code, as far as cost goes: two denoisers, and full weights of one group train.

For each update, noise is denoised by a random number of guided steps of the frozen model. The frozen model then
predicts for the concept and for the empty prompt, and the student learns the target.
https://github.com/rohitgandikota/erasing
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from torch.nn.functional import mse_loss

from diffusers_esd.config import ESDConfig
from diffusers_esd.denoiser import base_layers
from diffusers_esd.families import family_for
from diffusers_esd.groups import select
from diffusers_esd.objective import esd_target


class PublishedTraining:
    """The loop; `student` is a pipeline with the trained denoiser.

    Args:
        pipe: The base model.
        concept: The concept.
        config: Only group, learning rate, guidance, `eta`, steps, batch size, size and seed are used.
    """

    def __init__(self, pipe: DiffusionPipeline, concept: str, config: ESDConfig) -> None:
        family = family_for(pipe)
        self._config, self._teacher = config, family
        self.student = type(pipe)(**{**pipe.components, family.component: deepcopy(family.denoiser)}, **_options(pipe))
        self._student = family_for(self.student)
        with torch.no_grad():
            self._null, self._cond = (family.encode([text] * config.batch_size) for text in ("", concept))
        modules = [name for name, _ in family.denoiser.named_modules()]
        patterns = {"text_layers": family.text_layers, "text_inputs": family.text_inputs}
        names = select(base_layers(family.denoiser), modules, config.group, **patterns).names
        layers = [self._student.denoiser.get_submodule(name) for name in names]
        self._weights = [p.requires_grad_(True) for layer in layers for p in layer.parameters(recurse=False)]
        self.evaluations = 0

    def run(self, updates: int) -> Iterator[None]:
        """Train, and yield after each update."""
        config, teacher, student = self._config, self._teacher, self._student
        shape = teacher.latent_shape(config.size)
        schedule = teacher.schedule(config.num_inference_steps, shape, config.guidance_scale)
        optimizer = torch.optim.Adam(self._weights, lr=config.learning_rate)
        generator, n = torch.Generator().manual_seed(config.seed), config.batch_size
        both = {key: torch.cat([row, self._cond[key]]) for key, row in self._null.items()}
        for update in range(updates):
            # Every number of steps comes equally often, so that few updates have the mean cost of many.
            steps = (update * 0.618034 + 0.5) % 1 * len(schedule.timesteps)
            x_t = schedule.noise(generator, n)
            with torch.no_grad():
                for position in range(int(steps)):
                    at = torch.full((n,), position)
                    e_null, e_cond = schedule.predict(torch.cat([x_t, x_t]), at.repeat(2), both).chunk(2)
                    x_t = schedule.step(schedule.guide(e_null, e_cond), x_t, at, at + 1)
                    self.evaluations += 2 * n
                at = torch.full((n,), int(steps))
                e_null, e_cond = schedule.predict(torch.cat([x_t, x_t]), at.repeat(2), both).chunk(2)
            t = schedule.timesteps[at.to(schedule.timesteps.device)]
            e = student.predict(x_t, t, self._cond, config.guidance_scale)
            loss = mse_loss(e.float(), esd_target(e_cond.float(), e_null.float(), config.eta))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            self.evaluations += 3 * n
            yield


def _options(pipe: Any) -> dict[str, Any]:
    return {"requires_safety_checker": False} if isinstance(pipe, StableDiffusionPipeline) else {}
