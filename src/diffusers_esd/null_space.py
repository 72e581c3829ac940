"""Which inputs an adapter may answer: the null space of what it must preserve.

A LoRA layer answers its input h with B A h. Held fixed, A can be made to answer the concept's inputs and hardly those
of preserved prompts, after which training B cannot do much harm to them. With C and S the second moments (d, d) of the
layer's inputs under the concept and under the preserved prompts,

    P = (S / (ridge * mean diag S) + I)^-1           shrinks what S contains
    A = the top rows of C^(1/2) P                    scaled so that the concept's answer has mean square `rank`

The rows are eigenvectors of P C P, each as long as the square root of its eigenvalue. `tr(A S A') / tr(A C A')` is the
leak: how large the answer to a preserved input is beside that to the concept. It is measured on inputs that A was not
fitted to, because in a wide layer some direction always tells two samples apart, even of the same distribution. Layers
that cannot tell the concept from the rest, such as those that see only the timestep, are left out.

What the keys and values of a cross-attention see is known from the text alone, so their moments are taken over all
prompts without evaluating the denoiser. All others see the picture too, and get theirs from a few short trajectories.
Projections of this kind are known from closed-form editing (AlphaEdit, arXiv:2410.02355; UCE, arXiv:2308.14761); here
they confine a LoRA that is trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .encoding import Encoded
from .families import Family
from .limits import Limits
from .streams import noise, permutation, stream

_BATCH = 16  # pictures at most
_POSITIONS = 16384  # of latents, in a batch of pictures: 16 of 32 x 32, 1 of 128 x 128
_ROWS = 16  # inputs of a layer per sample that enter its moment


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's inputs.

    Attributes:
        kept: S, of the preserved inputs, (d, d).
        concept: C, of the concept's.
    """

    kept: Tensor
    concept: Tensor

    def leak(self, rows: Tensor) -> float:
        """`tr(A S A') / tr(A C A')`."""
        return (_loudness(rows, self.kept) / _loudness(rows, self.concept).clamp_min(1e-30)).item()


@dataclass(frozen=True)
class TextMoments:
    """What the layers see that are given the token states as they are.

    Attributes:
        fitted: Of all prompts.
        halves: Of one half of the prompts and of the other, to fit to one and measure on the other.
    """

    fitted: Moments
    halves: tuple[Moments, Moments]


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


def directions(moments: Moments, rank: int, ridge: float) -> Tensor:
    """Fixed rows that answer the concept and hardly what is kept.

    Args:
        moments: Of the layer's inputs.
        rank: How many rows, at most d.
        ridge: Above 0; smaller shrinks more.

    Returns:
        A, (rank, d).
    """
    kept, concept = moments.kept, moments.concept
    scale = ridge * kept.diagonal().mean()
    factor = torch.linalg.cholesky(kept / scale + torch.eye(len(kept), device=kept.device, dtype=kept.dtype))
    # The top eigenvectors of P C P by subspace iteration: d can be thousands, the rank is small.
    start = noise((len(kept), min(rank + 8, len(kept))), stream(0, "subspace")).to(kept)
    basis = torch.linalg.qr(start).Q
    for _ in range(8):
        basis = torch.linalg.qr(_confined(factor, concept, basis)).Q
    values, vectors = torch.linalg.eigh(basis.T @ _confined(factor, concept, basis))
    rows = ((basis @ vectors)[:, -rank:] * values[-rank:].clamp_min(0).sqrt()).flip(1).T
    return rows * (rank / _loudness(rows, concept).clamp_min(1e-30)).sqrt()


def _confined(factor: Tensor, concept: Tensor, x: Tensor) -> Tensor:
    """P C P x."""
    return torch.cholesky_solve(concept @ torch.cholesky_solve(x, factor), factor)


def _loudness(rows: Tensor, moment: Tensor) -> Tensor:
    """Mean square of the answer A h, summed over the rows: `tr(A M A')`."""
    return (rows @ moment * rows).sum()


def text_moments(
    encoded: Encoded,
    preserved: Sequence[str],
    concepts: Sequence[str],
    contexts: Sequence[str],
    *,
    empty_share: float,
    sampled: bool,
    keep: Collection[str],
) -> TextMoments:
    """Moments of token states, of every prompt.

    Args:
        encoded: Encodes the prompts.
        preserved: Prompts to preserve, in random order.
        concepts: The concepts, which have half of the concept's moment.
        contexts: The concepts in the company of other words, which have the other half.
        empty_share: Weight of the empty prompt among the preserved ones.
        sampled: Whether the preserved prompts stand for more than themselves, so that leaks are measured on those that
            the layer was not fitted to. Of a list that is all there is the leak is exact as it is.
        keep: Those of the prompts whose conditionings are kept.
    """
    (empty,), (alone,) = (_of_states(encoded, prompts, 1, keep) for prompts in ([""], concepts))
    n = 2 if sampled else 1
    kept, company = (_of_states(encoded, prompts, n, keep) for prompts in (preserved, contexts))
    parts = [
        Moments((1 - empty_share) * s + empty_share * empty, (alone + c) / 2)
        for s, c in zip(kept, company, strict=True)
    ]
    fitted = Moments(sum(part.kept for part in parts) / n, sum(part.concept for part in parts) / n)
    return TextMoments(fitted, (parts[0], parts[-1]))


def _of_states(encoded: Encoded, prompts: Sequence[str], n: int, keep: Collection[str]) -> list[Tensor]:
    """The mean of h h' over the token states of every n-th prompt, n times."""
    sums: list[Any] = [0.0] * n
    counts = [0] * n
    for batch, states in encoded.states(prompts, keep=keep):
        assert len(batch) == len(states)
        for i in range(n):
            h = states[i::n].flatten(0, 1)
            sums[i], counts[i] = sums[i] + h.T @ h, counts[i] + len(h)
    return [total / max(1, count) for total, count in zip(sums, counts, strict=True)]


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
            raise ValueError(
                f"No layer can tell {self._concept[0]!r} from what is preserved. Take what means the same out of "
                "`preserve`, or train without: null_space=False."
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
                samples.append(h[permutation(len(h), generator)[:_ROWS]])
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


def layer_width(layer: Any) -> int:
    """The d of a layer's inputs."""
    return getattr(layer, "base_layer", layer).weight[0].numel()


def layer_inputs(layer: Any, h: Tensor) -> Tensor:
    """A layer's inputs as rows (N, d); of a convolution the patches that its kernel sees."""
    layer = getattr(layer, "base_layer", layer)
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        h = functional.unfold(h, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    return h.reshape(-1, h.shape[-1])
