"""The null space: which inputs an adapter may answer, so that what must be preserved hardly changes.

A LoRA layer answers its input h with B A h. A can be computed such that it answers the concept's inputs and hardly
those of preserved prompts (`moments`); then training B hardly changes what is preserved. The leak of a layer,
`tr(A S A') / tr(A C A')` with the second moments S of preserved inputs and C of the concept's, compares the answers. It
is measured on inputs that A was not computed from, because in a wide layer some direction always separates two samples,
even of one distribution: an A is computed from one half of the inputs and measured on the other. The adapter's own A is
computed from both halves. Layers with a large leak, such as those that depend on the timestep alone, are left out.

The inputs of a cross-attention's keys and values follow from the text, so their moments are computed from all prompts
without evaluating the denoiser. All other layers see the image too; their moments come from a few short trajectories,
of which each layer keeps a random sample of its inputs, on the CPU. No layer is too wide for that. A layer that text
and image share must answer the concept's text alone: image tokens of all prompts count as preserved (`tokens`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import ESDConfig
from ..families import Conditioning, Family
from ..limits import Limits
from ..streams import stream
from .encoding import Encoded
from .inputs import observed
from .moments import Inputs, cross_fitted, directions, text_inputs
from .prompts import Prompts
from .tokens import observed_tokens

_PARTS = 2  # of the trajectories; the leak on each is measured with an A of the others
_BATCH = 16  # largest number of samples in a batch
_POSITIONS = 16384  # largest number of latent positions in a batch: 16 samples of 32 x 32, one of 128 x 128


@dataclass(frozen=True)
class NullSpace:
    """The fixed part of an adapter.

    Attributes:
        fixed_a: A of each layer that can tell the concept from what is preserved, (rank, d).
        leaks: Leak of every layer.
        evaluations: Samples the denoiser evaluated.
    """

    fixed_a: dict[str, Tensor]
    leaks: dict[str, float]
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
        encoded: Encodes the prompts.
        shape: Of one latent, (C, H, W).

    Attributes:
        prompts: The prompts of trajectories, which `find` needs encoded.
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
        self._of_text, self._others = sees_text(family, names)
        self.prompts = [*prompts.preserved_runs, *prompts.concept_runs] if self._others else []
        encoded.add(self.prompts)
        self._text = self._text_inputs() if self._of_text else None

    def _text_inputs(self) -> tuple[Inputs, tuple[Inputs, Inputs]]:
        prompts = self._prompts
        return text_inputs(
            self._encoded,
            prompts.preserved.prompts,
            prompts.student,
            prompts.contexts,
            empty_share=self._limits.empty_share,
            sampled=isinstance(self._config.preserve, str),
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
        kept = {name: fixed_a[name] for name in self._names if leaks[name] <= limits.largest_leak}
        if not kept:
            raise ValueError(
                f"No layer can tell {self._prompts.student[0]!r} from what is preserved: the smallest leak is "
                f"{min(leaks.values()):.2f}, and it must be {limits.largest_leak:g} or less. Remove what means or "
                "looks the same from `preserve`, or train without a null space: null_space=False."
            )
        return NullSpace(kept, leaks, evaluations)

    def _from_trajectories(self, trajectories: _ShortTrajectories) -> tuple[dict[str, Tensor], dict[str, float]]:
        """A and leaks of the layers that see more than text."""
        names, prompts, limits = self._others, self._prompts, self._limits
        with self._family.progress_bar("null space", limits.steps * len(self.prompts)) as bar:
            parts = [
                {side: trajectories.inputs(names, runs, f"{side} {i}", bar.update) for side, runs in sides.items()}
                for i, sides in enumerate(_parts(prompts))
            ]
        fixed_a, leaks = {}, {}
        with self._family.progress_bar("null space, layers", len(names)) as bar:
            for name in names:
                # Popped, so that memory is free as soon as a layer is done.
                inputs = [self._inputs(part, name) for part in parts]
                fixed_a[name], leaks[name] = cross_fitted(inputs, self._config.rank, limits.state_strength)
                bar.update()
        return fixed_a, leaks

    def _inputs(self, part: Mapping[str, _Rows], name: str) -> Inputs:
        """A layer's inputs in a part: all images are preserved."""
        kept, concept = part["kept"], part["concept"]
        sides = ([*kept.rows.pop(name), *kept.images.pop(name), *concept.images.pop(name)], concept.rows.pop(name))
        return Inputs(*(torch.cat(side).to(self._family.device, torch.float32) for side in sides))


@dataclass(frozen=True)
class _Rows:
    """Parts of the inputs of each layer, (n, d), on the CPU in the denoiser's type.

    Attributes:
        rows: By the layer's name; of a layer with known places those of text.
        images: Those of image tokens, for layers with known places; empty lists for the others.
    """

    rows: dict[str, list[Tensor]]
    images: dict[str, list[Tensor]]


class _ShortTrajectories:
    """Short unguided trajectories, and what the layers see on them."""

    def __init__(
        self, family: Family, config: ESDConfig, limits: Limits, encoded: Encoded, shape: tuple[int, ...]
    ) -> None:
        self._schedule = family.schedule(limits.steps, shape, config.guidance_scale)
        self._seed, self._samples, self._encoded = config.seed, limits.samples, encoded
        self._batch = max(1, min(_BATCH, _POSITIONS // math.prod(shape[1:])))
        self._conditioning: Conditioning = {}  # of the current evaluation
        self.evaluations = 0

    @torch.no_grad()
    def inputs(
        self, names: Sequence[str], prompts: Sequence[str], purpose: str, advance: Callable[[int], object]
    ) -> _Rows:
        """A random sample of the inputs of each layer.

        Args:
            names: Names of the layers.
            prompts: One for each trajectory.
            purpose: Key of their random numbers.
            advance: Called with the number of samples after each evaluation.
        """
        schedule, family = self._schedule, self._schedule.family
        seen = _Rows({name: [] for name in names}, {name: [] for name in names})
        with self._observed(names, seen, purpose):
            for start in range(0, len(prompts), self._batch):
                batch = prompts[start : start + self._batch]
                self._conditioning = self._encoded.rows(batch)
                x_t = schedule.noise(stream(self._seed, "moments", purpose, start), len(batch))
                for i in range(len(schedule.timesteps)):
                    position = torch.full((len(batch),), i, device="cpu")
                    e = schedule.predict(x_t, position, self._conditioning)
                    if not e.isfinite().all():
                        raise ValueError(
                            f"Predictions in {family.dtype} overflow; load the pipeline in bfloat16 or float32."
                        )
                    x_t = schedule.step(e, x_t, position, position + 1)
                    self.evaluations += len(batch)
                    advance(len(batch))
        return seen

    @contextmanager
    def _observed(self, names: Sequence[str], seen: _Rows, purpose: str) -> Iterator[None]:
        """Fill `seen` with inputs at every evaluation inside."""
        family = self._schedule.family
        placed = [name for name in names if re.match(f"{family.text_inputs}|{family.shared_layers}", name)]
        others = [name for name in names if name not in placed]

        def keep(name: str, rows: Tensor, images: Tensor | None = None) -> None:
            seen.rows[name].append(rows.to("cpu", family.dtype))
            if images is not None:
                seen.images[name].append(images.to("cpu", family.dtype))

        options: tuple[int, Any, int, str] = (self._samples, keep, self._seed, purpose)
        with (
            observed(family.denoiser, others, *options),
            observed_tokens(family, lambda: self._conditioning, placed, *options),
        ):
            yield


def _parts(prompts: Prompts) -> list[dict[str, tuple[str, ...]]]:
    """The prompts of trajectories by side, for each part."""
    sides = {"kept": prompts.preserved_runs, "concept": prompts.concept_runs}
    return [
        {side: runs[i * len(runs) // _PARTS : (i + 1) * len(runs) // _PARTS] for side, runs in sides.items()}
        for i in range(_PARTS)
    ]


def sees_text(family: Family, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The layers whose inputs are exactly the prompts' token states, and the others."""
    of_text = [name for name in names if re.match(family.text_states, name)]
    return of_text, [name for name in names if name not in of_text]
