"""`check`: a first look at an erasure, on fixed seeds. (`pictures.preview` compares scales on prompts of your choice.)

With the base model's direction `u = e_cond - e_a` from the anchor to the concept, along guided trajectories of the base
model,

    named    <e_student(c)  - e_a,    u> / <u, u>        1 is intact, -eta the target
    unnamed  <e_student("") - e_null, u> / <u, u>        0 is the base model; below 0 the concept is avoided unasked

Both are ratios of sums over all states (see `docs/theory.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from . import adapter
from .arguments import check_prompt, check_seeds, integer_from
from .config import ESDConfig
from .denoiser import Denoiser, adapter_names, check_denoiser, check_name, evaluation, switched_off
from .families import Family, Schedule, checked_family
from .limits import Limits
from .objective import projections
from .pictures.draw import draw
from .pictures.grid import grid
from .provenance import Provenance
from .streams import stream
from .training.encoding import Encoded
from .training.surroundings import own_settings
from .training.vocabulary import neighbours

_NEIGHBOURS = 2  # words in the picture, if the user does not give prompts
_SIDE = 192  # pixels of an image in the picture


@dataclass(frozen=True, eq=False)
class Check:
    """What `Erasure.check` returns.

    Attributes:
        picture: A row for each prompt; for each seed the image of the base model and that of the erased model.
        named: Alignment of each concept where the prompt names it: 1 is intact, `-eta` the target. For an erasure with
            `erase_from` it is measured from that prompt: 0 is intact, `-eta` the target.
        unnamed: The same where the prompt is empty: 0 is the base model, and below 0 the concept is avoided unasked.
    """

    picture: Image
    named: Mapping[str, float]
    unnamed: Mapping[str, float]

    def __str__(self) -> str:
        """A line for each concept."""
        return "\n".join(
            f"{concept}: alignment {self.named[concept]:.2f} where it is named, {self.unnamed[concept]:.2f} where it "
            "is not"
            for concept in self.named
        )

    def _repr_png_(self) -> bytes | None:
        return self.picture._repr_png_()


def check(
    pipe: Any,
    weights: Mapping[str, Tensor],
    name: str,
    config: ESDConfig | None,
    provenance: Provenance,
    *,
    prompts: str | Sequence[str] | None,
    seeds: int | Sequence[int],
    num_inference_steps: int,
    family: Family | None,
    **options: Any,
) -> Check:
    """`Erasure.check`, for the parts of an erasure."""
    seeds = check_seeds(seeds)
    steps = integer_from(1)("num_inference_steps", num_inference_steps)
    prompts = [check_prompt("prompts", prompt) for prompt in ([prompts] if isinstance(prompts, str) else prompts or ())]
    family = checked_family(pipe, family)
    config = config or ESDConfig()
    denoiser = family.denoiser
    check_denoiser(denoiser)
    with adapter.as_found(denoiser), own_settings(family.device):
        name, copies = _load(denoiser, weights, name, provenance.component)
        schedule = family.schedule(steps, family.latent_shape(config.size), config.guidance_scale)
        encoded = Encoded(family)
        anchors = provenance.anchors
        encoded.add(["", *provenance.concepts, *anchors.values(), *([config.erase_from] if config.erase_from else [])])
        with switched_off(denoiser, copies):
            alignments = {
                concept: _alignments(
                    schedule, encoded, name, seeds, concept, anchors.get(concept, ""), config.erase_from
                )
                for concept in provenance.concepts
            }
            shown = prompts or _shown(family, config, provenance.concepts)
            size = {} if config.size is None else {"height": config.size, "width": config.size}
            options = {"num_inference_steps": steps, **size, **options}
            with switched_off(denoiser, [name]):
                base = draw(pipe, shown, seeds, **options)
            erased = draw(pipe, shown, seeds, **options)
    pairs = [(prompt, list(chain(*zip(base[i], erased[i], strict=True)))) for i, prompt in enumerate(shown)]
    columns = [f"{model}, seed {seed}" for seed in seeds for model in ("base", "erased")]
    return Check(
        grid(pairs, columns, _SIDE),
        {concept: named for concept, (named, _) in alignments.items()},
        {concept: unnamed for concept, (_, unnamed) in alignments.items()},
    )


def _load(denoiser: Denoiser, weights: Mapping[str, Tensor], name: str, component: str) -> tuple[str, list[str]]:
    """Activate the erasure with scale 1; loaded under a free name if it is not on the denoiser.

    Returns:
        Its name on the denoiser, and the names of further copies of it.
    """
    present = [other for other in adapter_names(denoiser) if adapter.is_loaded(denoiser, other, component, weights)]
    if present:
        adapter.activate(denoiser, {present[0]: 1.0})
        return present[0], present[1:]
    while name in adapter_names(denoiser):
        name += "-checked"
    check_name(denoiser, name)
    adapter.load(denoiser, component, weights, name, 1.0)
    return name, []


def _shown(family: Family, config: ESDConfig, concepts: Sequence[str]) -> list[str]:
    """Prompts of the picture: what the student was trained on, the concepts, and a few that should look the same."""
    trained = list(dict.fromkeys([*([config.erase_from] if config.erase_from else []), *concepts]))
    if isinstance(config.preserve, str) or not config.preserve:
        return [*trained, *neighbours(family, trained, _NEIGHBOURS, limits=Limits())]
    return [*trained, *config.preserve[:_NEIGHBOURS]]


@torch.no_grad()
def _alignments(
    schedule: Schedule,
    encoded: Encoded,
    name: str,
    seeds: Sequence[int],
    concept: str,
    anchor: str,
    erase_from: str | None,
) -> tuple[float, float]:
    """Alignment of one concept where it is named, and where the prompt is empty."""
    denoiser = schedule.family.denoiser
    student = erase_from or concept
    x_t = torch.cat([schedule.noise(stream(seed, "check")) for seed in seeds])
    sums = torch.zeros(2, 2, dtype=torch.float64)

    def predict(prompt: str, position: Tensor) -> Tensor:
        return schedule.predict(x_t, position, encoded.rows([prompt] * len(seeds)))

    with evaluation(denoiser):
        for i in range(len(schedule.timesteps)):
            position = torch.full((len(seeds),), i)
            with switched_off(denoiser, [name]):
                e_null, e_cond = predict("", position), predict(concept, position)
                e_a = predict(anchor, position) if anchor else e_null
                e_from = predict(erase_from, position) if erase_from else None
            for row, e, origin in ((0, predict(student, position), e_from), (1, predict("", position), e_null)):
                along, length = projections(e, e_cond, e_a, origin)
                sums[row] += torch.stack([along.sum(), length.sum()]).cpu()
            e_base = e_cond if e_from is None else e_from
            x_t = schedule.step(schedule.guide(e_null, e_base), x_t, position, position + 1)
    named, unnamed = (sums[:, 0] / sums[:, 1].clamp_min(1e-30)).tolist()
    return named, unnamed
