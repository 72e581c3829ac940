"""How many trajectories the null space needs: layers and leaks on `emoji_sd`, for several numbers of them.

Run as `python examples/null_space.py [word ...]`; writes a table to standard output. A leak is measured as a training
measures it, and again on fresh images: of all objects but one, and of that one, in two styles and from other noise, on
trajectories of twelve steps.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import product

import torch
from emoji_sd import OBJECTS, load, phrase, settings
from torch import Tensor

from diffusers_esd import ESDConfig, ESDTrainer, Limits
from diffusers_esd.families import Family, family_for
from diffusers_esd.training.encoding import Encoded
from diffusers_esd.training.inputs import observed
from diffusers_esd.training.moments import Inputs
from diffusers_esd.training.null_space import NullSpace, NullSpaceFinder
from diffusers_esd.training.prompts import choose

TRAJECTORIES, STEPS = (16, 32, 64, 96, 128), (6, 3)
WORDS = ("cat", "pizza")
CONFIG = ESDConfig(**settings("esd-u"))


@torch.no_grad()
def fresh_inputs(family: Family, names: Sequence[str], prompts: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Inputs of the layers on trajectories that no training uses."""
    rows: dict[str, list[Tensor]] = {name: [] for name in names}
    schedule = family.schedule(12, family.latent_shape(None), CONFIG.guidance_scale)
    x_t, conditioning = schedule.noise(torch.Generator().manual_seed(seed), len(prompts)), family.encode(prompts)
    with observed(family.denoiser, names, 4, lambda name, h: rows[name].append(h), seed, "fresh"):
        for i in range(len(schedule.timesteps)):
            position = torch.full((len(prompts),), i)
            x_t = schedule.step(schedule.predict(x_t, position, conditioning), x_t, position, position + 1)
    return {name: torch.cat(parts) for name, parts in rows.items()}


def null_space(family: Family, names: Sequence[str], word: str, limits: Limits) -> NullSpace:
    """The null space of one object."""
    encoded = Encoded(family)
    prompts = choose(encoded, CONFIG, limits, [phrase(word)])
    return NullSpaceFinder(family, CONFIG, limits, prompts, names, encoded, family.latent_shape(None)).find()


def main() -> None:
    """The table, averaged over words."""
    words = tuple(sys.argv[1:]) or WORDS
    pipe = load()
    pipe.set_progress_bar_config(disable=True)
    family = family_for(pipe)
    names = ESDTrainer(pipe, CONFIG).selection().confinable().names
    fresh = {}
    for word in words:
        others = [phrase(other, style) for other in OBJECTS if other != word for style in ("noto", "mono")]
        own = [phrase(word, style) for style in ("noto", "mono")] * 24
        kept, concept = fresh_inputs(family, names, others, 1), fresh_inputs(family, names, own, 2)
        fresh[word] = {name: Inputs(kept[name], concept[name]) for name in names}
    print("| trajectories | steps | evaluations | layers | mean leak | the same, fresh | above the bound, fresh |")
    print("|---" * 7 + "|")
    for steps, n in product(STEPS, TRAJECTORIES):
        limits = Limits(trajectories=n, concept_trajectories=max(8, n // 3), steps=steps)
        layers, leaks, again, cost = 0, [], [], 0
        for word in words:
            space = null_space(family, names, word, limits)
            layers, cost = layers + len(space.fixed_a), space.evaluations
            leaks += [space.leaks[name] for name in space.fixed_a]
            again += [fresh[word][name].leak(a) for name, a in space.fixed_a.items()]
        above = sum(leak > limits.largest_leak for leak in again) / len(again)
        means = f"{sum(leaks) / len(leaks):.3f} | {sum(again) / len(again):.3f}"
        first = f"| {n} + {limits.concept_trajectories} | {steps} | {cost} | {layers / len(words):.0f}"
        print(f"{first} | {means} | {above:.0%} |", flush=True)


if __name__ == "__main__":
    main()
