"""Where an erasure may listen: the null space of what it must preserve.

A LoRA layer answers its input h with B A h. Held fixed, A can be made to answer the concept's inputs and hardly those
of preserved prompts, after which training B cannot do much harm to them. With C and S the second moments (d, d) of the
layer's inputs under the concept and under the preserved prompts,

    P = (S / (strength * mean diag S) + I)^-1        shrinks what S contains
    A = the top rows of C^(1/2) P                    scaled so that the concept's answer has mean square `rank`

The rows are eigenvectors of P C P, each as long as the square root of its eigenvalue. `tr(A S A') / tr(A C A')` is the
leak: how loud a preserved input is beside the concept. Layers that cannot tell the two apart, such as those that see
only the timestep, are left out.

Keys and values of a cross-attention see the text alone, so their moments are taken over all prompts without
evaluating the denoiser. All others see the picture too, and get theirs from a few short trajectories. Projections of
this kind are known from closed-form editing (AlphaEdit, arXiv:2410.02355; UCE, arXiv:2308.14761); here they confine a
LoRA that is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .families import Conditioning, Family
from .vocabulary import in_batches

TEXT_STRENGTH = 3e-4
"""Strength on text states; smaller shrinks more. Measured on emoji_sd, as the next two."""
STATE_STRENGTH = 1e-2
LARGEST_LEAK = 0.1
"""A layer with more is left out."""

_EMPTY_SHARE = 0.1  # of the text moments: the empty prompt guides every picture
_STEPS = 6
_TRAJECTORIES = 128
_CONCEPT_TRAJECTORIES = 16
_BATCH = 16  # pictures at most
_POSITIONS = 16384  # of latents, in a batch of pictures: 16 of 32 x 32, 1 of 128 x 128
_ROWS = 16  # inputs of a layer per sample that enter its moment
_WIDEST = 6144  # a moment is d x d; wider layers are left out
_MEMORY = 4 * 2**30  # bytes of moments at a time; the trajectories are run again for those of further layers


@dataclass(frozen=True)
class NullSpace:
    """Fixed directions of an adapter.

    Attributes:
        rows: A of each layer that can tell the concept from what is preserved, (rank, d).
        leak: Their leaks.
        evaluations: Samples the denoiser evaluated.
    """

    rows: dict[str, Tensor]
    leak: dict[str, float]
    evaluations: int


def directions(kept: Tensor, concept: Tensor, rank: int, strength: float) -> tuple[Tensor, float]:
    """Fixed rows that answer the concept and hardly what is kept.

    Args:
        kept: Second moment S of the preserved inputs, (d, d).
        concept: Second moment C of the concept's, (d, d).
        rank: How many rows, at most d.
        strength: Above 0; smaller shrinks more.

    Returns:
        A, (rank, d), and its leak.
    """
    scale = strength * kept.diagonal().mean()
    factor = torch.linalg.cholesky(kept / scale + torch.eye(len(kept), device=kept.device))
    # The top eigenvectors of P C P by subspace iteration: d can be thousands, the rank is small.
    generator = torch.Generator().manual_seed(0)
    start = torch.randn((len(kept), min(rank + 8, len(kept))), generator=generator).to(kept)
    basis = torch.linalg.qr(start).Q
    for _ in range(8):
        basis = torch.linalg.qr(_confined(factor, concept, basis)).Q
    values, vectors = torch.linalg.eigh(basis.T @ _confined(factor, concept, basis))
    rows = ((basis @ vectors)[:, -rank:] * values[-rank:].clamp_min(0).sqrt()).flip(1).T
    loudness = (rows @ concept * rows).sum().clamp_min(1e-30)
    leak = (rows @ kept * rows).sum() / loudness
    return rows * (rank / loudness).sqrt(), leak.item()


def _confined(factor: Tensor, concept: Tensor, x: Tensor) -> Tensor:
    """P C P x."""
    return torch.cholesky_solve(concept @ torch.cholesky_solve(x, factor), factor)


def null_space(
    family: Family,
    names: Sequence[str],
    *,
    concept: Sequence[str],
    preserved: Sequence[str],
    rank: int,
    shape: tuple[int, ...],
    guidance_scale: float,
    generator: torch.Generator,
) -> NullSpace:
    """Directions for the layers of a denoiser that has no adapter of ours yet.

    Args:
        family: The family; its schedule becomes a short one.
        names: Module names of the layers.
        concept: The concept's prompts.
        preserved: Prompts to preserve, in random order; the first trajectories are of the first of them.
        rank: Rank of the adapter.
        shape: Of one latent.
        guidance_scale: What the denoiser is told, where it is told; the trajectories are not guided.
        generator: Draws noises and samples of inputs, on the CPU.

    Raises:
        ValueError: If no layer can tell the concept from what is preserved.
    """
    family.prepare(_STEPS, shape, guidance_scale)
    names = [name for name in names if _width(family.denoiser.get_submodule(name)) <= _WIDEST]
    probe = _Moments(family, names, generator)
    with probe.of_layers():
        probe.evaluate(_noise(family, shape, 1, generator), 0, family.encode(["a"]))
    text, others = probe.text, [name for name in names if name not in probe.text]
    found: dict[str, tuple[Tensor, float]] = {}
    if text:
        kept, said = _text_moment(family, preserved), _text_moment(family, concept, empty_share=0.0)
        found = dict.fromkeys(text, directions(kept, said, rank, TEXT_STRENGTH))
    evaluations = probe.evaluations
    prompts = concept[:: -(-len(concept) // _CONCEPT_TRAJECTORIES)]
    for portion in _portions({name: _width(family.denoiser.get_submodule(name)) for name in others}):
        of_kept = _state_moments(family, portion, preserved[:_TRAJECTORIES], shape, generator)
        of_concept = _state_moments(family, portion, prompts, shape, generator)
        evaluations += of_kept.evaluations + of_concept.evaluations
        for name in portion:
            found[name] = directions(of_kept[name], of_concept[name], rank, STATE_STRENGTH)
        del of_kept, of_concept
    clear = {name: rows for name, (rows, leak) in found.items() if leak <= LARGEST_LEAK}
    if not clear:
        raise ValueError(
            f"No layer can tell {concept[0]!r} from what is preserved. Take what means the same out of preserve, or "
            "train without: null_space=False."
        )
    return NullSpace(clear, {name: found[name][1] for name in clear}, evaluations)


def _portions(widths: dict[str, int]) -> Iterator[list[str]]:
    """Layers whose moments, two each, are in memory at a time."""
    portion: list[str] = []
    held = 0
    for name, width in widths.items():
        size = 2 * 4 * width**2
        if portion and held + size > _MEMORY:
            yield portion
            portion, held = [], 0
        portion.append(name)
        held += size
    if portion:
        yield portion


def _text_moment(family: Family, prompts: Sequence[str], empty_share: float = _EMPTY_SHARE) -> Tensor:
    """Second moment of token states, (width, width)."""

    def moment(prompts: Sequence[str]) -> Tensor:
        total, count = torch.zeros(()), 0
        for states in in_batches(family, prompts):
            h = states.flatten(0, 1)
            total, count = total.to(h) + h.T @ h, count + len(h)
        return total / count

    return (1 - empty_share) * moment(prompts) + empty_share * moment([""])


def _state_moments(
    family: Family, names: Sequence[str], prompts: Sequence[str], shape: tuple[int, ...], generator: torch.Generator
) -> _Moments:
    """Moments along short unguided trajectories of the prompts."""
    moments = _Moments(family, names, generator)
    with moments.of_layers():
        size = max(1, min(_BATCH, _POSITIONS // (shape[-1] * shape[-2])))
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            conditioning = family.encode(batch)
            x_t = _noise(family, shape, len(batch), generator)
            for position in range(_STEPS):
                x_t = family.step(moments.evaluate(x_t, position, conditioning), position, x_t)
    return moments


def _noise(family: Family, shape: tuple[int, ...], n: int, generator: torch.Generator) -> Tensor:
    return torch.randn((n, *shape), generator=generator).to(family.device, family.dtype)


class _Moments:
    """Second moments of what layers are given, gathered by hooks.

    Attributes:
        text: Names of the layers that are given the prompts' token states as they are.
        evaluations: Samples evaluated.
    """

    def __init__(self, family: Family, names: Sequence[str], generator: torch.Generator) -> None:
        self._family = family
        self._generator = generator
        self._layers = {name: family.denoiser.get_submodule(name) for name in names}
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._states: Tensor | None = None
        self.text: list[str] = []
        self.evaluations = 0

    def __getitem__(self, name: str) -> Tensor:
        """The mean of h h' over all inputs h, (d, d)."""
        return self._sums[name] / self._counts[name]

    @contextmanager
    def of_layers(self) -> Iterator[None]:
        """Gather while evaluations are made."""
        hooks = [layer.register_forward_pre_hook(self._note(name)) for name, layer in self._layers.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def evaluate(self, x_t: Tensor, position: int, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction at one position for all states."""
        self._states = conditioning[self._family.text]
        self.evaluations += len(x_t)
        return self._family.predict(x_t, torch.full((len(x_t),), position), conditioning)

    def _note(self, name: str) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            assert self._states is not None
            if inputs[0].data_ptr() == self._states.data_ptr():
                if name not in self.text:
                    self.text.append(name)
                return
            for picture in inputs[0]:  # one at a time: unfolded, a convolution's inputs are large
                h = _rows(layer, picture[None].float())
                h = h[torch.randperm(len(h), generator=self._generator)[:_ROWS].to(h.device)]
                if name not in self._sums:
                    self._sums[name], self._counts[name] = h.new_zeros(h.shape[1], h.shape[1]), 0
                self._sums[name].addmm_(h.T, h)
                self._counts[name] += len(h)

        return hook


def _width(layer: Any) -> int:
    """The d of a layer's inputs."""
    return getattr(layer, "base_layer", layer).weight[0].numel()


def _rows(layer: Any, h: Tensor) -> Tensor:
    """A layer's inputs as rows (N, d); of a convolution the patches that its kernel sees."""
    layer = getattr(layer, "base_layer", layer)
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        h = functional.unfold(h, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    return h.reshape(-1, h.shape[-1])
