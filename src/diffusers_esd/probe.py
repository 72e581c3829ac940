"""`Probe`: the alignment of one concept at fixed states of the base model.

With the base model's direction `u = e_cond - e_a` from the anchor to the concept, at states of guided trajectories of
the base model,

    named    <e_student(c)  - e_a,    u> / <u, u>        1 is intact, -eta the target
    unnamed  <e_student("") - e_null, u> / <u, u>        0 is the base model; below 0 the concept is avoided unasked

Both are ratios of sums over all states (see `docs/theory.md`). With `erase_from` = f the student is asked for f,
`named` is measured from `e_from`, and the trajectories are those of f.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapter import activate, is_loaded, load
from .config import ESDConfig
from .denoiser import Denoiser, adapter_names, check_name
from .families import Schedule
from .modes import evaluation
from .objective import projections
from .provenance import Provenance
from .training.encoding import Encoded


@dataclass(frozen=True)
class Question:
    """What a probe asks the student.

    Attributes:
        concept: The concept.
        anchor: The prompt that it was erased towards; `""` is the empty prompt.
        erase_from: The prompt that it was erased from, if there is one.
    """

    concept: str
    anchor: str = ""
    erase_from: str | None = None

    @property
    def student(self) -> str:
        """The prompt of the student and of the trajectories."""
        return self.erase_from or self.concept

    @property
    def prompts(self) -> list[str]:
        """Every prompt that must be encoded."""
        return list(dict.fromkeys(["", self.concept, self.anchor, self.student]))


@dataclass(frozen=True)
class _Predictions:
    """The base model at N states of one position.

    Attributes:
        position: Where in the schedule the states stand, (N,).
        x_t: The states, (N, C, H, W).
        e: Predictions by prompt, each (N, C, H, W).
    """

    position: Tensor
    x_t: Tensor
    e: dict[str, Tensor]


def questions(config: ESDConfig | None, provenance: Provenance) -> list[Question]:
    """What to ask about each concept of an erasure."""
    erase_from = None if config is None else config.erase_from
    return [Question(concept, provenance.anchors.get(concept, ""), erase_from) for concept in provenance.concepts]


def ensure_loaded(
    denoiser: Denoiser, weights: Mapping[str, Tensor], name: str, component: str
) -> tuple[str, list[str]]:
    """Activate the erasure with scale 1; loaded under a free name if it is not on the denoiser.

    Returns:
        Its name on the denoiser, and the names of further copies of it.
    """
    present = [other for other in adapter_names(denoiser) if is_loaded(denoiser, other, component, weights)]
    if present:
        activate(denoiser, {present[0]: 1.0})
        return present[0], present[1:]
    while name in adapter_names(denoiser):
        name += "-checked"
    check_name(denoiser, name)
    load(denoiser, component, weights, name, 1.0)
    return name, []


class Probe:
    """Measures the alignment of a concept, as often as wanted, at the same states.

    The constructor runs the trajectories of the base model, so the erasures must be inactive then, and active
    afterwards.

    Args:
        schedule: The schedule of the trajectories; every position is measured.
        encoded: Encoded prompts, with those of the concept.
        question: The concept, its anchor and `erase_from`.
        noise: The first states, (N, C, H, W).
    """

    @torch.no_grad()
    def __init__(self, schedule: Schedule, encoded: Encoded, question: Question, noise: Tensor) -> None:
        self._schedule, self._encoded, self._question = schedule, encoded, question
        self._base: list[_Predictions] = []
        x_t = noise
        with evaluation(schedule.family.denoiser):
            for i in range(len(schedule.timesteps)):
                position = torch.full((len(x_t),), i, device="cpu")
                e = {prompt: self._predict(x_t, position, prompt) for prompt in question.prompts}
                self._base.append(_Predictions(position, x_t, e))
                x_t = schedule.step(schedule.guide(e[""], e[question.student]), x_t, position, position + 1)

    @property
    def intact(self) -> float:
        """What `named` is for the base model."""
        return 1.0 if self._question.erase_from is None else 0.0

    def named(self) -> float:
        """Alignment where the prompt names the concept."""
        origin = self._question.erase_from
        return self._alignment(self._question.student, origin)

    def unnamed(self) -> float:
        """Alignment where the prompt is empty."""
        return self._alignment("", "")

    @torch.no_grad()
    def _alignment(self, prompt: str, origin: str | None) -> float:
        """Alignment of the student's predictions for a prompt, measured from those of the base model for `origin`."""
        sums = torch.zeros(2, dtype=torch.float64)
        with evaluation(self._schedule.family.denoiser):
            for base in self._base:
                e = self._predict(base.x_t, base.position, prompt)
                e_origin = None if origin is None else base.e[origin]
                along, length = projections(e, base.e[self._question.concept], base.e[self._question.anchor], e_origin)
                sums += torch.stack([along.sum(), length.sum()]).cpu()
        return (sums[0] / sums[1].clamp_min(1e-30)).item()

    def _predict(self, x_t: Tensor, position: Tensor, prompt: str) -> Tensor:
        return self._schedule.predict(x_t, position, self._encoded.rows([prompt] * len(x_t)))
