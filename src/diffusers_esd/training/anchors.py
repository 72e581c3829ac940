"""Anchors: which prompt a concept is erased towards.

The paper's anchor is the empty prompt. A prompt that is nearer to the concept, such as "an animal" for a dog, makes the
change of the prediction smaller. `anchor="auto"` takes the generic prompt or the empty one that is nearest to the
concept: with the smallest mean square of

    e_a - e_cond

at states of guided trajectories of the concept. So the denoiser's predictions decide. Of prompts that are equally near,
within a tenth, the one that is nearest by text is taken, and the empty prompt last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ESDConfig
from ..families import Family
from ..limits import Limits
from ..streams import stream
from .encoding import Encoded
from .vocabulary import generic

# Many short trajectories: the distances differ more among trajectories than along one.
_TRAJECTORIES, _STEPS = 12, 6
_POSITIONS = (1, 3, 5)  # without the pure noise, where the class of a concept says least: 36 states in all
_EQUAL = 1.1  # times the smallest distance: trajectories from other noise move the distances by about as much


@dataclass(frozen=True)
class Anchors:
    """The anchor of each concept.

    Attributes:
        prompts: Anchor by concept; `""` is the empty prompt.
        distances: For anchors that were chosen: mean square of `e_a - e_cond`, divided by that of `e_null - e_cond`: 0
            is the concept itself, 1 as far as the empty prompt.
        evaluations: Samples the denoiser evaluated.
    """

    prompts: Mapping[str, str]
    distances: Mapping[str, float]
    evaluations: int = 0


class AnchorFinder:
    """Finds the anchor of each concept, before our adapter is on the denoiser.

    The constructor uses the text encoders, `find` the denoiser; `prompts` must be encoded in between.

    Args:
        family: The family.
        config: The configuration.
        limits: The generic prompts, and how many are compared.
        concepts: What is erased.
        encoded: The encoded prompts.
        shape: Of one latent, (C, H, W).

    Attributes:
        prompts: The anchors, or the candidates.
    """

    def __init__(
        self,
        family: Family,
        config: ESDConfig,
        limits: Limits,
        concepts: Sequence[str],
        encoded: Encoded,
        shape: tuple[int, ...],
    ) -> None:
        self._family, self._config, self._encoded, self._shape = family, config, encoded, shape
        self._concepts = concepts
        self._candidates: dict[str, list[str]] = {}
        if config.anchor == "auto":
            self._candidates = {
                # What is erased beside it is not an anchor either.
                concept: generic(encoded, [concept], [*config.synonyms, *concepts], limits)[: limits.anchor_candidates]
                for concept in concepts
            }
            self.prompts = [prompt for prompts in self._candidates.values() for prompt in prompts]
        else:
            self.prompts = [config.anchor] if isinstance(config.anchor, str) else list(config.anchor)

    def find(self) -> Anchors:
        """The anchor of each concept. Only `anchor="auto"` evaluates the denoiser."""
        anchor = self._config.anchor
        if anchor != "auto":
            anchors = (anchor,) * len(self._concepts) if isinstance(anchor, str) else anchor
            return Anchors(dict(zip(self._concepts, anchors, strict=True)), {})
        prompts, chosen, evaluations = {}, {}, 0
        for concept, others in self._candidates.items():
            relative, n = distances(self._family, self._config, concept, others, self._encoded, self._shape)
            nearest = min(relative.values())
            prompts[concept] = next(prompt for prompt in [*others, ""] if relative[prompt] <= _EQUAL * nearest)
            chosen[concept] = relative[prompts[concept]]
            evaluations += n
        return Anchors(prompts, chosen, evaluations)


@torch.no_grad()
def distances(
    family: Family,
    config: ESDConfig,
    concept: str,
    others: Sequence[str],
    encoded: Encoded,
    shape: tuple[int, ...],
) -> tuple[dict[str, float], int]:
    """How far prompts are from a concept in the denoiser's predictions.

    Args:
        family: The family.
        config: Guidance and seed of the trajectories.
        concept: The concept.
        others: The prompts.
        encoded: The empty prompt, the concept and the prompts, encoded.
        shape: Of one latent, (C, H, W).

    Returns:
        The mean square of `e_a - e_cond` of each prompt and of the empty one, divided by that of the empty one; and the
        number of samples that the denoiser evaluated.
    """
    schedule = family.schedule(_STEPS, shape, config.guidance_scale)
    x_t = schedule.noise(stream(config.seed, "anchors", concept), _TRAJECTORIES)
    sums = dict.fromkeys(["", *others], 0.0)
    evaluations = 0

    def predict(prompt: str, position: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += len(x_t)
        return schedule.predict(x_t, position, encoded.rows([prompt] * len(x_t)))

    for i in range(_STEPS):
        position = torch.full((len(x_t),), i, device="cpu")
        e_null, e_cond = predict("", position), predict(concept, position)
        if i in _POSITIONS:
            sums[""] += (e_null - e_cond).float().square().mean().item()
            for prompt in others:
                sums[prompt] += (predict(prompt, position) - e_cond).float().square().mean().item()
        x_t = schedule.step(schedule.guide(e_null, e_cond), x_t, position, position + 1)
    return {prompt: total / max(sums[""], 1e-30) for prompt, total in sums.items()}, evaluations
