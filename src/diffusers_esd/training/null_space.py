"""The null space: which inputs an adapter may answer, so that what must be preserved hardly changes.

A LoRA layer answers its input h with B A h. A can be computed such that it answers the concept's inputs and hardly
those of preserved prompts (`moments`); then training B hardly changes what is preserved. The leak of a layer,
`tr(A S A') / tr(A C A')` with the second moments S of preserved inputs and C of the concept's, compares the answers. It
is measured on inputs that A was not computed from, because in a wide layer some direction always separates two samples,
even of one distribution. Layers with a large leak, such as those that depend on the timestep alone, are left out.

The inputs of a cross-attention's keys and values follow from the text, so their moments are computed from all prompts
without evaluating the denoiser. All other layers see the image too; their moments come from a few short trajectories.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ESDConfig
from ..families import Family
from ..limits import Limits
from ..streams import stream
from .encoding import Encoded
from .inputs import layer_width, observed
from .moments import Moments, directions, text_moments
from .prompts import Prompts

_BATCH = 16  # largest number of samples in a batch
_POSITIONS = 16384  # largest number of latent positions in a batch: 16 samples of 32 x 32, one of 128 x 128


@dataclass(frozen=True)
class NullSpace:
    """The fixed part of an adapter.

    Attributes:
        fixed_a: A of each layer that can tell the concept from what is preserved, (rank, d).
        leaks: Leak of every layer that was measured.
        wide: Layers that were not measured because they are too wide.
        evaluations: Samples the denoiser evaluated.
    """

    fixed_a: dict[str, Tensor]
    leaks: dict[str, float]
    wide: tuple[str, ...]
    evaluations: int


class NullSpaceFinder:
    """Computes the null space of a denoiser's layers, before our adapter is on it.

    The constructor encodes all prompts, so that the text encoders are not needed in `find`.

    Args:
        family: The family.
        config: The configuration.
        limits: How many prompts and trajectories, which bounds.
        prompts: The prompts of the training.
        names: Names of the layers.
        encoded: Keeps the encoded prompts.
        shape: Of one latent, (C, H, W).
    """

    def __init__(
        self,
        family: Family,
        config: ESDConfig,
        limits: Limits,
        prompts: Prompts,
        names: Sequence[str],
        encoded: Encoded,
        shape: tuple[int, ...],
    ) -> None:
        self._family, self._config, self._limits, self._prompts = family, config, limits, prompts
        self._names, self._encoded, self._shape = names, encoded, shape
        self._widths = {name: layer_width(family.denoiser.get_submodule(name)) for name in names}
        narrow = [name for name in names if self._widths[name] <= limits.widest]
        self._of_text, self._others = sees_text(family, narrow)
        self._text = self._text_moments() if self._of_text else None
        encoded.add(self._of_trajectories())

    def _of_trajectories(self) -> list[str]:
        return [*self._prompts.preserved_runs, *self._prompts.concept_runs] if self._others else []

    def _text_moments(self) -> tuple[Moments, tuple[Moments, Moments]]:
        prompts = self._prompts
        return text_moments(
            self._encoded,
            prompts.preserved.prompts,
            prompts.student,
            prompts.contexts,
            empty_share=self._limits.empty_share,
            sampled=isinstance(self._config.preserve, str),
            keep={*self._of_trajectories(), *prompts.loss, *prompts.student, ""},
        )

    def find(self) -> NullSpace:
        """Compute A and measure leaks.

        Raises:
            ValueError: If no layer can tell the concept from what is preserved.
        """
        rank, limits = self._config.rank, self._limits
        fixed_a: dict[str, Tensor] = {}
        leaks: dict[str, float] = {}
        evaluations = 0
        if self._text is not None:
            fitted, (first, second) = self._text
            leak = second.leak(directions(first, rank, limits.text_strength))
            fixed_a |= dict.fromkeys(self._of_text, directions(fitted, rank, limits.text_strength))
            leaks |= dict.fromkeys(self._of_text, leak)
        if self._others:
            trajectories = _ShortTrajectories(self._family, self._config, limits, self._encoded, self._shape)
            of_images, of_leaks = self._from_trajectories(trajectories)
            fixed_a, leaks = fixed_a | of_images, leaks | of_leaks
            evaluations = trajectories.evaluations
        kept = {name: fixed_a[name] for name in self._names if leaks.get(name, math.inf) <= limits.largest_leak}
        if not kept:
            least = f"{min(leaks.values()):.2f}" if leaks else "unknown"
            raise ValueError(
                f"No layer can tell {self._prompts.student[0]!r} from what is preserved: the smallest leak is {least}, "
                f"and it must be {limits.largest_leak:g} or less. Remove what means or looks the same from `preserve`, "
                "or train without a null space: null_space=False."
            )
        return NullSpace(kept, leaks, tuple(n for n in self._names if self._widths[n] > limits.widest), evaluations)

    def _from_trajectories(self, trajectories: _ShortTrajectories) -> tuple[dict[str, Tensor], dict[str, float]]:
        """A and leaks of the layers that see more than text."""
        n, prompts = self._limits.trajectories, self._prompts
        half = len(prompts.concept_runs) // 2
        computed: dict[str, Tensor] = {}
        for portion in portions({name: self._widths[name] for name in self._others}, self._limits.memory):
            sides = {"kept": prompts.preserved_runs[:n], "concept": prompts.concept_runs[:half]}
            s, c = (trajectories.means(portion, sides[side], f"fitted {side}", _add_moment) for side in sides)
            for name in s:
                (kept, samples), (concept, _) = s[name], c[name]
                ridge = self._limits.state_strength * max(1.0, len(kept) / samples)
                computed[name] = directions(Moments(kept, concept), self._config.rank, ridge)

        def add_answer(name: str, total: Tensor | None, h: Tensor) -> Tensor:
            return (h.new_zeros(()) if total is None else total) + (h @ computed[name].T).square().sum()

        sides = {"kept": prompts.preserved_runs[n:], "concept": prompts.concept_runs[half:]}
        kept_answers, concept_answers = (
            trajectories.means(list(computed), sides[side], f"held out {side}", add_answer) for side in sides
        )
        fixed_a, leaks = {}, {}
        for name, a in computed.items():
            of_kept, of_concept = kept_answers[name][0].item(), max(concept_answers[name][0].item(), 1e-30)
            leaks[name] = of_kept / of_concept
            fixed_a[name] = a * (self._config.rank / of_concept) ** 0.5
        return fixed_a, leaks


Add = Callable[[str, Tensor | None, Tensor], Tensor]
"""Adds inputs h, (N, d), of a layer to a sum, which is `None` at first."""


def _add_moment(name: str, total: Tensor | None, h: Tensor) -> Tensor:
    """The sum of h h'."""
    return (h.new_zeros(h.shape[1], h.shape[1]) if total is None else total).addmm_(h.T, h)


class _ShortTrajectories:
    """Short unguided trajectories, and what the layers see on them."""

    def __init__(
        self, family: Family, config: ESDConfig, limits: Limits, encoded: Encoded, shape: tuple[int, ...]
    ) -> None:
        self._schedule = family.schedule(limits.steps, shape, config.guidance_scale)
        self._seed, self._encoded = config.seed, encoded
        self._batch = max(1, min(_BATCH, _POSITIONS // (shape[-1] * shape[-2])))
        self.evaluations = 0

    def means(
        self, names: Sequence[str], prompts: Sequence[str], purpose: str, add: Add
    ) -> Mapping[str, tuple[Tensor, int]]:
        """Mean and number of what `add` sums over the inputs of each layer."""
        sums: dict[str, tuple[Tensor, int]] = {}

        def observer(name: str, h: Tensor) -> None:
            total, count = sums.get(name, (None, 0))
            sums[name] = add(name, total, h), count + len(h)

        self._run(names, prompts, purpose, observer)
        return {name: (total / count, count) for name, (total, count) in sums.items()}

    @torch.no_grad()
    def _run(
        self, names: Sequence[str], prompts: Sequence[str], purpose: str, observer: Callable[[str, Tensor], None]
    ) -> None:
        schedule, family = self._schedule, self._schedule.family
        with observed(family.denoiser, names, observer, self._seed, purpose):
            for start in range(0, len(prompts), self._batch):
                batch = prompts[start : start + self._batch]
                conditioning = self._encoded.rows(batch)
                x_t = schedule.noise(stream(self._seed, "moments", purpose, start), len(batch))
                for i in range(len(schedule.timesteps)):
                    position = torch.full((len(batch),), i, device="cpu")
                    e = schedule.predict(x_t, position, conditioning)
                    if not e.isfinite().all():
                        raise ValueError(
                            f"Predictions in {family.dtype} overflow; load the pipeline in bfloat16 or float32."
                        )
                    x_t = schedule.step(e, x_t, position, position + 1)
                    self.evaluations += len(batch)


def sees_text(family: Family, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The layers whose inputs are exactly the prompts' token states, and the others."""
    of_text = [name for name in names if re.match(family.text_states, name)]
    return of_text, [name for name in names if name not in of_text]


def portions(widths: dict[str, int], memory: int) -> Iterator[list[str]]:
    """Layers in groups whose moments, two d x d matrices each, fit into memory together.

    Args:
        widths: d of each layer.
        memory: Bytes.
    """
    portion: list[str] = []
    taken = 0
    for name, width in widths.items():
        size = 2 * 4 * width**2
        if portion and taken + size > memory:
            yield portion
            portion, taken = [], 0
        portion.append(name)
        taken += size
    if portion:
        yield portion
