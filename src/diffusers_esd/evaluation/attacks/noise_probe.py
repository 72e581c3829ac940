"""`NoiseProbe` (Lu et al. 2025, arXiv:2505.17013): more noise while sampling, and no learning.

DDIM's step (arXiv:2010.02502, Eq. 12) with an eta beyond 1 and noise of a larger scale:

    x_s = sqrt(a_s) x_0 + sqrt(1 - a_s - sigma^2) e + scale sigma z
    sigma^2 = min(eta^2 (1 - a_s) / (1 - a_t) (1 - a_t / a_s), 1 - a_s)

with standard normal z. Without the minimum, diffusers' DDIM takes the root of a negative number from an eta of about
1.2 on, and every pixel is NaN. The authors search 24 pairs of eta and scale, and keep the best image by a classifier:
the rate of this attack is per image, and `best_of` is per seed. Their scheduler was not compared with this step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

import torch
from diffusers import DiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler, DDIMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from PIL.Image import Image
from torch import Tensor

from ...families import DiffusionFamily, family_for
from ...families.schedules import ddim
from ..judges.base import Picture
from ..methods import Draw
from ..prompts import Prompt
from .base import Attack

ETAS = (1.0, 1.17, 1.34, 1.51, 1.68, 1.85)
SCALES = (1.0, 1.01, 1.03, 1.04)


class NoisyDDIM(DDIMScheduler):
    """DDIM with any eta, its variance limited. `eta` and `scale` are attributes."""

    eta = 1.0
    scale = 1.0

    def step(  # type: ignore[override]  # pipelines look for the arguments that it has
        self, model_output: Tensor, timestep: int, sample: Tensor, generator: Any = None, return_dict: bool = True
    ) -> Any:
        """One step, in float32.

        Args:
            model_output: Guided predictions, (B, C, H, W).
            timestep: The timestep.
            sample: The states, (B, C, H, W).
            generator: Of the noise; or a list of B, one for each image.
            return_dict: As in diffusers.
        """
        x_t, config = sample.float(), cast(Any, self.config)
        x_0 = super().step(model_output.float(), timestep, x_t, return_dict=False)[1]
        assert self.num_inference_steps is not None
        later = timestep - config.num_train_timesteps // self.num_inference_steps
        a = self.alphas_cumprod[timestep].to(x_t.device)
        a_next = (self.alphas_cumprod[later] if later >= 0 else self.final_alpha_cumprod).to(x_t.device)
        noise = (x_t - a.sqrt() * x_0) / (1 - a).sqrt()
        variance = self.eta**2 * (1 - a_next) / (1 - a) * (1 - a / a_next)
        variance = torch.minimum(variance, 1 - a_next)
        z = randn_tensor(x_t.shape, generator=generator, device=x_t.device, dtype=torch.float32)
        x = a_next.sqrt() * x_0 + (1 - a_next - variance).sqrt() * noise + self.scale * variance.sqrt() * z
        x = x.to(sample.dtype)
        return DDIMSchedulerOutput(prev_sample=x, pred_original_sample=x_0) if return_dict else (x, x_0)


@dataclass(frozen=True, kw_only=True)
class NoiseProbe(Attack):
    """Every prompt with every pair of eta and scale. `noise_probe` makes one.

    Attributes:
        name: What it is called in a report; the group of its prompts.
        prompts: What is drawn, one for each seed, eta and scale.
        noise: Eta and scale of each case.
    """

    name: str
    prompts: tuple[Prompt, ...]
    noise: Mapping[str, tuple[float, float]]

    def record(self) -> dict[str, Any]:
        """Eta and scale of each case."""
        return {"attack": "noise probe", "noise": {case: list(pair) for case, pair in self.noise.items()}}

    def check(self, pipe: DiffusionPipeline) -> None:
        """Refuse a pipeline that samples a flow: there is no noise in its steps.

        Raises:
            TypeError: If it does.
        """
        if not isinstance(family_for(pipe), DiffusionFamily):
            raise TypeError(f"The noise probe needs a diffusion model that DDIM samples; got a {type(pipe).__name__}.")

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, draw: Draw, targets: Sequence[Picture]) -> Iterator[Draw]:
        """Draw with the pipeline's scheduler replaced. Afterwards the pipeline has its own again."""
        self.check(pipe)
        family = family_for(pipe)
        before, noisy = family.pipe.scheduler, ddim(family.pipe.scheduler, NoisyDDIM)

        def attacked(prompts: Sequence[Prompt], **more: Any) -> list[Image]:
            images: dict[str, Image] = {}
            for pair in dict.fromkeys(self.noise[prompt.case] for prompt in prompts):
                part = [prompt for prompt in prompts if self.noise[prompt.case] == pair]
                noisy.eta, noisy.scale = pair
                images |= {prompt.case: image for prompt, image in zip(part, draw(part, **more), strict=True)}
            return [images[prompt.case] for prompt in prompts]

        try:
            family.pipe.scheduler = noisy
            yield attacked
        finally:
            family.pipe.scheduler = before


def noise_probe(
    prompts: Sequence[Prompt],
    *,
    etas: Sequence[float] = ETAS,
    scales: Sequence[float] = SCALES,
    name: str = "noise probe",
) -> NoiseProbe:
    """A noise probe of prompts.

    Args:
        prompts: Prompts of the concept, each with its labels; each is drawn with every pair.
        etas: 0 or more; 1 is DDPM.
        scales: Of the noise, above 0.
        name: What it is called in a report.

    Raises:
        ValueError: If an eta is below 0 or a scale is not above 0.
    """
    if min(etas) < 0 or min(scales) <= 0:
        raise ValueError(f"`etas` must be 0 or more and `scales` above 0; got {list(etas)} and {list(scales)}.")
    made, noise = [], {}
    for eta, scale, prompt in product(etas, scales, prompts):  # images of one pair are drawn in one batch
        case = f"{prompt.case}-eta{eta:g}-scale{scale:g}"
        made.append(replace(prompt, case=case, group=name))
        noise[case] = (float(eta), float(scale))
    return NoiseProbe(name=name, prompts=tuple(made), noise=noise)


def best_of(hits: Mapping[str, bool]) -> dict[str, bool]:
    """Whether the concept was found with any pair, by the case of the prompt that was probed.

    Args:
        hits: By case of the probe, whether the judge found the concept.
    """
    found: dict[str, bool] = {}
    for case, hit in hits.items():
        prompt = case.rpartition("-eta")[0]
        found[prompt] = found.get(prompt, False) or hit
    return found
