"""Which inputs an adapter may answer: the null space of what it must preserve.

A LoRA layer answers its input h with B A h. Held fixed, A can be made to answer the concept's inputs and hardly those
of preserved prompts (`moments`), after which training B cannot do much harm to them. `tr(A S A') / tr(A C A')`, with S
and C the second moments of preserved inputs and of the concept's, is the leak: how large the answer to the one is
beside that to the other. It is measured on inputs that A was not fitted to, because in a wide layer some direction
always tells two samples apart, even of the same distribution. Layers that cannot tell the concept from the rest, such
as those that see only the timestep, are left out.

What the keys and values of a cross-attention see is known from the text alone, so their moments are taken over all
prompts without evaluating the denoiser. All others see the picture too, and get theirs from a few short trajectories.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .encoding import Encoded
from ..families import Family
from ..limits import Limits
from .moments import Moments, TextMoments, directions
from ..streams import noise, stream

_BATCH = 16  # pictures at most
_POSITIONS = 16384  # of latents, in a batch of pictures: 16 of 32 x 32, 1 of 128 x 128
_ROWS = 16  # inputs of a layer per sample that enter its moment


@dataclass(frozen=True)
class NullSpace:
    """Fixed directions of an adapter.

    Attributes:
        rows: A of each layer that can tell the concept from what is preserved, (rank, d).
        leaks: Leak of every layer that was measured, on inputs it was not fitted to.
        wide: Layers that were not measured because they are too wide.
        evaluations: Samples the denoiser evaluated.
    """

    rows: dict[str, Tensor]
    leaks: dict[str, float]
    wide: tuple[str, ...]
    evaluations: int


class NullSpaceFinder:
    """Finds the directions of a denoiser's layers, before it has an adapter of ours.

    Args:
        family: The family; its schedule becomes a short one.
        encoded: Knows the prompts of the trajectories.
        text: Moments of the token states; `None` where no layer is given them as they are.
        kept: Preserved prompts of the trajectories: `limits.trajectories` that are fitted to, then those held out.
        concept: The concept's, half of them held out.
        rank: Rank of the adapter.
        shape: Of one latent.
        guidance_scale: What the denoiser is given, where it takes one; the trajectories are not guided.
        seed: Of noises and samples of inputs.
        limits: How much is looked at.
    """

    def __init__(
        self,
        family: Family,
        encoded: Encoded,
        *,
        text: TextMoments | None,
        kept: Sequence[str],
        concept: Sequence[str],
        rank: int,
        shape: tuple[int, ...],
        guidance_scale: float,
        seed: int,
        limits: Limits,
    ) -> None:
        self._family, self._encoded, self._text = family, encoded, text
        self._kept, self._concept = kept, concept
        self._rank, self._shape, self._seed, self._limits = rank, shape, seed, limits
        self._evaluations = 0
        family.prepare(limits.steps, shape, guidance_scale)

    def find(self, names: Sequence[str]) -> NullSpace:
        """Directions of these layers.

        Raises:
            ValueError: If none of them can tell the concept from what is preserved.
        """
        family, limits = self._family, self._limits
        widths = {name: layer_width(family.denoiser.get_submodule(name)) for name in names}
        narrow = [name for name in names if widths[name] <= limits.widest]
        of_text, others = sees_text(family, narrow)
        rows: dict[str, Tensor] = {}
        leaks: dict[str, float] = {}
        if of_text:
            assert self._text is not None
            first, second = self._text.halves
            leak = second.leak(directions(first, self._rank, limits.text_strength))
            rows |= dict.fromkeys(of_text, directions(self._text.fitted, self._rank, limits.text_strength))
            leaks |= dict.fromkeys(of_text, leak)
        if others:
            parts = portions({name: widths[name] for name in others}, limits.memory)
            found = {name: a for part in parts for name, a in self._fitted(part).items()}
            answers = self._answers(found)
            for name, a in found.items():
                of_kept, of_concept = answers[name]
                leaks[name] = of_kept / max(of_concept, 1e-30)
                rows[name] = a * (self._rank / max(of_concept, 1e-30)) ** 0.5
        clear = {name: rows[name] for name in names if leaks.get(name, math.inf) <= limits.largest_leak}
        if not clear:
            least = f"{min(leaks.values()):.2f}" if leaks else "unknown"
            raise ValueError(
                f"No layer can tell {self._concept[0]!r} from what is preserved: the smallest leak is {least}, and it "
                f"must be {limits.largest_leak:g} or less. Take what means or looks the same out of `preserve`, or "
                "train without: null_space=False."
            )
        return NullSpace(clear, leaks, tuple(n for n in names if n not in narrow), self._evaluations)

    def _fitted(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Rows of layers that see more than text, fitted to the moments along trajectories."""
        sides = [self._kept[: self._limits.trajectories], self._concept[: len(self._concept) // 2]]
        gathered: list[dict[str, tuple[Tensor, int]]] = []
        for side, prompts in zip(("kept", "concept"), sides, strict=True):
            sums: dict[str, tuple[Tensor, int]] = {}

            def add(name: str, h: Tensor, sums: dict[str, tuple[Tensor, int]] = sums) -> None:
                total, count = sums.get(name) or (h.new_zeros(h.shape[1], h.shape[1]), 0)
                sums[name] = (total.addmm_(h.T, h), count + len(h))

            self._observe(names, prompts, f"fitted {side}", add)
            gathered.append(sums)
        found = {}
        for name in gathered[0]:
            (s, n), (c, m) = (sums[name] for sums in gathered)
            found[name] = directions(Moments(s / n, c / m), self._rank, self._ridge(len(s), n))
        return found

    def _ridge(self, width: int, samples: int) -> float:
        return self._limits.state_strength * max(1.0, width / samples)

    def _answers(self, rows: dict[str, Tensor]) -> dict[str, tuple[float, float]]:
        """Mean square answers of rows to the preserved inputs and to the concept's, on trajectories held out."""
        sides = [self._kept[self._limits.trajectories :], self._concept[len(self._concept) // 2 :]]
        found: list[dict[str, tuple[Tensor, int]]] = []
        for side, prompts in zip(("kept", "concept"), sides, strict=True):
            sums: dict[str, tuple[Tensor, int]] = {}

            def add(name: str, h: Tensor, sums: dict[str, tuple[Tensor, int]] = sums) -> None:
                total, count = sums.get(name) or (h.new_zeros(()), 0)
                sums[name] = (total + (h @ rows[name].T).square().sum(), count + len(h))

            self._observe(list(rows), prompts, f"held out {side}", add)
            found.append(sums)
        kept, concept = ({name: (total / n).item() for name, (total, n) in sums.items()} for sums in found)
        return {name: (kept[name], concept[name]) for name in rows}

    @torch.no_grad()
    def _observe(self, names: Sequence[str], prompts: Sequence[str], what: str, note: Note) -> None:
        """Give `note` a sample of the layers' inputs along short unguided trajectories of the prompts."""
        family = self._family
        with observed(family.denoiser, names, note, self._seed, what):
            size = max(1, min(_BATCH, _POSITIONS // (self._shape[-1] * self._shape[-2])))
            for start in range(0, len(prompts), size):
                batch = prompts[start : start + size]
                conditioning = self._encoded.rows(batch)
                x_t = noise((len(batch), *self._shape), stream(self._seed, "moments", what, start))
                x_t = x_t.to(family.device, family.dtype)
                for position in range(self._limits.steps):
                    at = torch.full((len(batch),), position, device="cpu")
                    e = family.predict(x_t, at, conditioning)
                    if not e.isfinite().all():
                        raise ValueError(
                            f"Predictions in {family.dtype} overflow; load the pipeline in bfloat16 or float32."
                        )
                    x_t = family.step(e, x_t, at, at + 1)
                    self._evaluations += len(batch)


Note = Callable[[str, Tensor], None]
"""Is given a layer's name and inputs, (N, d), float32."""


@contextmanager
def observed(denoiser: Any, names: Sequence[str], note: Note, seed: int, what: str) -> Iterator[None]:
    """Give `note` a sample of the inputs of layers, as long as evaluations are made inside.

    Args:
        denoiser: The denoiser.
        names: Module names of the layers.
        note: Is given a layer's name and the sample.
        seed: With `what` the key of the layers' own streams, from which samples are drawn.
        what: What is observed.
    """

    def hook_of(name: str) -> Any:
        generator = stream(seed, "inputs", what, name)

        def hook(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            samples = []
            for picture in inputs[0]:  # one at a time: unfolded, a convolution's inputs are large
                h = layer_inputs(layer, picture[None].float())
                chosen = torch.randperm(len(h), generator=generator, device="cpu")[:_ROWS]
                samples.append(h[chosen.to(h.device)])
            note(name, torch.cat(samples))

        return hook

    hooks = [denoiser.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def sees_text(family: Family, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The layers that are given the prompts' token states as they are, and the others."""
    of_text = [name for name in names if re.match(family.text_states, name)]
    return of_text, [name for name in names if name not in of_text]


def portions(widths: dict[str, int], memory: int) -> Iterator[list[str]]:
    """Layers whose moments, two each, are in memory at a time."""
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


def base_layer(layer: Any) -> Any:
    """The Linear or Conv2d itself, where adapters wrap it."""
    return getattr(layer, "base_layer", layer)


def layer_width(layer: Any) -> int:
    """The d of a layer's inputs."""
    return base_layer(layer).weight[0].numel()


def layer_inputs(layer: Any, h: Tensor) -> Tensor:
    """A layer's inputs as rows (N, d); of a convolution the patches that its kernel sees."""
    layer = base_layer(layer)
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        h = functional.unfold(h, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    return h.reshape(-1, h.shape[-1])
