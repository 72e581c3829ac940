"""Second moments of a layer's inputs, and the directions that tell one from the other: algebra, and token states.

With C and S the second moments (d, d) under the concept and under the preserved prompts,

    P = (S / (ridge * mean diag S) + I)^-1           shrinks what S contains
    A = the top rows of C^(1/2) P                    scaled so that the concept's answer has mean square `rank`

The rows are eigenvectors of P C P, each as long as the square root of its eigenvalue. Projections of this kind are
known from closed-form editing (AlphaEdit, arXiv:2410.02355; UCE, arXiv:2308.14761).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .encoding import Encoded
from ..streams import noise, stream


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
    scale = (ridge * kept.diagonal().mean()).clamp_min(1e-30)
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
    first, last = parts[0], parts[-1]
    fitted = Moments((first.kept + last.kept) / 2, (first.concept + last.concept) / 2)
    return TextMoments(fitted, (first, last))


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
