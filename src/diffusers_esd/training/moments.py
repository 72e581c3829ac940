"""Second moments of a layer's inputs, and the directions that separate the concept from what is preserved.

With C and S the second moments (d, d) under the concept and under the preserved prompts,

    P = (S / (ridge * mean diag S) + I)^-1           shrinks what S contains
    A = the top rows of C^(1/2) P                    scaled so that the answer to the concept has mean square `rank`

The rows of A are eigenvectors of P C P, multiplied by the square roots of their eigenvalues. Projections of this kind
come from closed-form editing (AlphaEdit, arXiv:2410.02355; UCE, arXiv:2308.14761).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..streams import noise, stream
from .encoding import Encoded


@dataclass(frozen=True)
class Moments:
    """Second moments of a layer's inputs.

    Attributes:
        kept: S, of preserved inputs, (d, d).
        concept: C, of the concept's inputs, (d, d).
    """

    kept: Tensor
    concept: Tensor

    def leak(self, a: Tensor) -> float:
        """`tr(A S A') / tr(A C A')` of an A, (rank, d)."""
        return (_answer(a, self.kept) / _answer(a, self.concept).clamp_min(1e-30)).item()


def directions(moments: Moments, rank: int, ridge: float) -> Tensor:
    """The fixed A of a layer, which answers the concept and hardly what is preserved.

    Args:
        moments: Moments of the layer's inputs.
        rank: Number of rows, at most d.
        ridge: Above 0; a smaller one shrinks more of what is preserved.

    Returns:
        A, (rank, d).
    """
    kept, concept = moments.kept, moments.concept
    scale = (ridge * kept.diagonal().mean()).clamp_min(1e-30)
    factor = torch.linalg.cholesky(kept / scale + torch.eye(len(kept), device=kept.device, dtype=kept.dtype))
    # Top eigenvectors of P C P by subspace iteration: d can be thousands, while the rank is small.
    start = noise((len(kept), min(rank + 8, len(kept))), stream(0, "subspace")).to(kept)
    basis = torch.linalg.qr(start).Q
    for _ in range(8):
        basis = torch.linalg.qr(_confined(factor, concept, basis)).Q
    values, vectors = torch.linalg.eigh(basis.T @ _confined(factor, concept, basis))
    a = ((basis @ vectors)[:, -rank:] * values[-rank:].clamp_min(0).sqrt()).flip(1).T
    return a * (rank / _answer(a, concept).clamp_min(1e-30)).sqrt()


def _confined(factor: Tensor, concept: Tensor, x: Tensor) -> Tensor:
    """P C P x, with the Cholesky factor of P's inverse."""
    return torch.cholesky_solve(concept @ torch.cholesky_solve(x, factor), factor)


def _answer(a: Tensor, moment: Tensor) -> Tensor:
    """Mean square of the answer A h, summed over its entries: `tr(A M A')`."""
    return (a @ moment * a).sum()


def text_moments(
    encoded: Encoded,
    preserved: Sequence[str],
    concepts: Sequence[str],
    contexts: Sequence[str],
    *,
    empty_share: float,
    sampled: bool,
    keep: Collection[str],
) -> tuple[Moments, tuple[Moments, Moments]]:
    """Moments of the token states of every prompt.

    Args:
        encoded: Encodes the prompts.
        preserved: Prompts to preserve, in random order.
        concepts: The concepts; they make up half of the concept's moment.
        contexts: The concepts together with other words; they make up the other half.
        empty_share: Weight of the empty prompt among the preserved ones.
        sampled: Whether the preserved prompts are a sample of more, so that the leak must be measured on prompts that A
            was not computed from. For a complete list it is exact on the list itself.
        keep: Prompts whose conditionings are kept.

    Returns:
        Moments of all prompts, to compute A; and those of one half of the prompts and of the other, to compute an A
            from one half and to measure its leak on the other.
    """
    (empty,), (alone,) = (_of_states(encoded, prompts, 1, keep) for prompts in ([""], concepts))
    n = 2 if sampled else 1
    kept, combined = (_of_states(encoded, prompts, n, keep) for prompts in (preserved, contexts))
    parts = [
        Moments((1 - empty_share) * s + empty_share * empty, (alone + c) / 2)
        for s, c in zip(kept, combined, strict=True)
    ]
    first, last = parts[0], parts[-1]
    fitted = Moments((first.kept + last.kept) / 2, (first.concept + last.concept) / 2)
    return fitted, (first, last)


def _of_states(encoded: Encoded, prompts: Sequence[str], n: int, keep: Collection[str]) -> list[Tensor]:
    """The mean of h h' over the token states h of every n-th prompt, for each of the n first prompts."""
    sums: list[Any] = [0.0] * n
    counts = [0] * n
    for batch, states in encoded.states(prompts, keep=keep):
        assert len(batch) == len(states)
        for i in range(n):
            h = states[i::n].flatten(0, 1)
            sums[i], counts[i] = sums[i] + h.T @ h, counts[i] + len(h)
    return [total / max(1, count) for total, count in zip(sums, counts, strict=True)]
