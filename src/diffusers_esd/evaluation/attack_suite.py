"""`attack`: the suite of attacks. What brings a concept back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from diffusers import DiffusionPipeline

from ..erasure import Erasure
from ..families import DiffusionFamily, family_for
from .attacks.base import Attack
from .attacks.concept_inversion import BUDGETS, Mode, concept_inversion
from .attacks.controls import with_controls
from .attacks.noise_probe import noise_probe
from .judges.base import Judge
from .prompts import Prompt, PromptSet, repeated
from .quick import FIRST_SEED, GENERAL, NAMED, quick
from .spelling import key
from .suite import Suite

_ATTACKED, _PROBED, _APART = 24, 4, 10_000
_ETAS, _SCALES = (1.0, 1.85), (1.0, 1.04)  # the ends of the published ranges
_NOTE = (
    "Concept Inversion learned for {steps} steps, which is enough for a small model. The published attack on Stable "
    "Diffusion learns for 5,000: with fewer, a low rate says little."
)


def attack(
    pipe: DiffusionPipeline,
    erasures: Sequence[Erasure],
    judges: Sequence[Judge] | None = None,
    *,
    words: Mapping[str, Sequence[str]] | None = None,
    attack_steps: int | None = None,
    allow_download: bool = False,
) -> Suite:
    """Concept Inversion in both modes with its controls, the noise probe, and other wordings, for each concept.

    Args:
        pipe: The pipeline.
        erasures: What is evaluated.
        judges: One that recognises concepts; `None` means CLIP, zero-shot.
        words: Further wordings of each concept.
        attack_steps: Optimiser updates of Concept Inversion; `None` means those of `BUDGETS`, 120.
        allow_download: Whether CLIP's weights may be downloaded.

    Raises:
        ValueError: If there is no erasure.
        FileNotFoundError: If CLIP's weights are needed and missing.
    """
    asked = quick(pipe, erasures, judges, words=words, allow_download=allow_download)
    kept = [prompt for prompt in asked.prompts if prompt.group in ("named", "other words")]
    other = _another(asked.prompts)
    fields = {"group": "another concept", "labels": {"subject": other}}
    others = repeated([(other, fields)], NAMED, first_seed=FIRST_SEED + _APART, prefix="another")
    found: list[Attack] = []
    for i, concept in enumerate(dict.fromkeys(prompt.concept for prompt in kept)):
        named = [prompt for prompt in kept if (prompt.group, prompt.concept) == ("named", concept)]
        for mode in get_args(Mode):
            budget = BUDGETS[mode] if attack_steps is None else replace(BUDGETS[mode], steps=attack_steps)
            inversion = concept_inversion(
                concept,
                [prompt.case for prompt in named],
                mode=mode,
                labels={"subject": concept},
                images=_ATTACKED,
                first_seed=FIRST_SEED + _APART * (2 + i),
                budget=budget,
            )
            found += with_controls(inversion, [prompt.case for prompt in others])
        if isinstance(family_for(pipe), DiffusionFamily):
            found.append(noise_probe(named[:_PROBED], etas=_ETAS, scales=_SCALES))
    steps = attack_steps or " and ".join(dict.fromkeys(str(budget.steps) for budget in BUDGETS.values()))
    prompts = PromptSet("attack", (*kept, *others), source=asked.prompts.source)
    notes = (*asked.notes, _NOTE.format(steps=steps))
    return replace(asked, name="attack", prompts=prompts, attacks=tuple(found), notes=notes)


def _another(prompts: Sequence[Prompt] | PromptSet) -> str:
    """A general prompt that is no neighbour of a concept, from whose images an attack must not learn the concept."""
    near = {key(prompt.text) for prompt in prompts if prompt.group.startswith("neighbours")}
    general = [prompt.text for prompt in prompts if prompt.group == "general"]
    return next((text for text in general if key(text) not in near), (general or GENERAL)[0])
