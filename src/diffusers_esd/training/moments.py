"""Second moments of a layer's inputs, and the directions that separate the concept from what is preserved.

With C and S the second moments (d, d) under the concept and under the preserved prompts,

    P = (S / scale + I)^-1, scale = ridge * mean diag S     shrinks what S contains
    A = the top rows of C^(1/2) P                           scaled: its answer to the concept has mean square `rank`

The rows of A are eigenvectors of P C P, multiplied by the square roots of their eigenvalues. Projections of this kind
come from closed-form editing (AlphaEdit, arXiv:2410.02355; UCE, arXiv:2308.14761).

Moments are given as rows: S = H' H / n for the inputs H, (n, d), and C = K' K / m for K, (m, d). If a layer is wider
than n, no matrix of d x d is made (Woodbury):

    K P = K - K H' (H H' + n scale I)^-1 H
    A = U' K P / m^(1/2)                                    with the top eigenvectors U, (m, rank), of K P P K'
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..streams import noise, stream
from .encoding import Encoded

_SPARE, _ROUNDS = 24, 8  # columns besides the rank, and multiplications, of a subspace iteration


@dataclass(frozen=True)
class Inputs:
    """Inputs of a layer, or other rows with the same second moments.

    Attributes:
        kept: H, under preserved prompts, (n, d).
        concept: K, under the concept, (m, d).
    """

    kept: Tensor
    concept: Tensor

    def leak(self, a: Tensor) -> float:
        """`tr(A S A') / tr(A C A')` of an A, (rank, d)."""
        return answer(a, self.kept) / max(answer(a, self.concept), 1e-30)

    @staticmethod
    def of_all(parts: Sequence[Inputs]) -> Inputs:
        """The inputs of several parts together."""
        return Inputs(torch.cat([part.kept for part in parts]), torch.cat([part.concept for part in parts]))


def answer(a: Tensor, h: Tensor) -> float:
    """Mean square of the answer A h to inputs (n, d), summed over its entries: `tr(A H'H A') / n`."""
    return (h @ a.T).square().sum().item() / len(h)


def directions(inputs: Inputs, rank: int, ridge: float) -> Tensor:
    """The fixed A of a layer, which answers the concept and hardly what is preserved.

    Args:
        inputs: Inputs of the layer.
        rank: Number of rows.
        ridge: Above 0; a smaller one shrinks more of what is preserved.

    Returns:
        A, (rank, d).
    """
    a = _top(_shrunk(inputs, ridge), rank)
    return a * (rank / max(answer(a, inputs.concept), 1e-30)) ** 0.5


def cross_fitted(parts: Sequence[Inputs], rank: int, strength: float) -> tuple[Tensor, float]:
    """The A of all inputs of a layer, and its leak: that of an A of all parts but one on this part, averaged.

    Args:
        parts: Inputs in parts that are independent, at least two.
        rank: Number of rows of A.
        strength: The ridge; it grows if there are fewer inputs than the layer is wide.

    Returns:
        A, (rank, d), scaled such that the expected answer to inputs of the concept that it was not computed from has
            mean square `rank`; and the leak.
    """

    def fit(inputs: Inputs) -> Tensor:
        n, d = inputs.kept.shape
        return directions(inputs, rank, strength * max(1.0, d / n))

    leak = fresh = 0.0
    for i, part in enumerate(parts):
        a = fit(Inputs.of_all([*parts[:i], *parts[i + 1 :]]))
        leak += part.leak(a) / len(parts)
        fresh += answer(a, part.concept) / len(parts)
    return fit(Inputs.of_all(parts)) * (rank / max(fresh, 1e-30)) ** 0.5, leak


def _shrunk(inputs: Inputs, ridge: float) -> Tensor:
    """K P, (m, d), by the smaller of the two matrices that can be inverted."""
    h, k = inputs.kept, inputs.concept
    n, d = h.shape
    scale = (ridge * h.square().mean()).clamp_min(1e-30)
    if d <= n:
        return torch.cholesky_solve(k.T, _factor(h.T @ h / (n * scale), 1.0)).T
    return k - torch.cholesky_solve(h @ k.T, _factor(h @ h.T, n * scale)).T @ h


def _factor(matrix: Tensor, diagonal: Tensor | float) -> Tensor:
    """Cholesky factor of a matrix with a number added to its diagonal; the matrix is changed."""
    matrix.diagonal().add_(diagonal)
    return torch.linalg.cholesky(matrix)


def _top(rows: Tensor, rank: int) -> Tensor:
    """The top rows of the square root of G' G, (rank, d), for G, (m, d); zeros below if m or d is smaller."""
    m, d = rows.shape
    if m <= d:
        top = _top_vectors(rows @ rows.T, rank)[1].T @ rows
    else:
        values, vectors = _top_vectors(rows.T @ rows, rank)
        top = (vectors * values.clamp_min(0).sqrt()).T
    return functional.pad(top.flip(0), (0, 0, 0, rank - len(top)))


def _top_vectors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues and their eigenvectors, by subspace iteration if that is less work."""
    size = len(matrix)
    basis = torch.eye(size, device=matrix.device, dtype=matrix.dtype)
    if rank + _SPARE < size:
        basis = noise((size, rank + _SPARE), stream(0, "subspace")).to(matrix)
        for _ in range(_ROUNDS):
            basis = torch.linalg.qr(matrix @ basis).Q
    values, vectors = torch.linalg.eigh(basis.T @ matrix @ basis)
    return values[-rank:], basis @ vectors[:, -rank:]


def root(moment: Tensor) -> Tensor:
    """Rows with a second moment, (d, d)."""
    values, vectors = torch.linalg.eigh(moment)
    return ((len(moment) * values.clamp_min(0)).sqrt() * vectors).T


def text_inputs(
    encoded: Encoded,
    preserved: Sequence[str],
    concepts: Sequence[str],
    contexts: Sequence[str],
    *,
    empty_share: float,
    sampled: bool,
) -> tuple[Inputs, tuple[Inputs, Inputs]]:
    """Rows with the second moments of the token states of every prompt.

    Args:
        encoded: Encodes the prompts.
        preserved: Prompts to preserve, in random order.
        concepts: The concepts; they make up half of the concept's moment.
        contexts: The concepts together with other words; they make up the other half.
        empty_share: Weight of the empty prompt among the preserved ones.
        sampled: Whether the preserved prompts are a sample of more, so that the leak must be measured on prompts that A
            was not computed from. For a complete list it is exact on the list itself.

    Returns:
        Those of all prompts, to compute A; and those of one half of the prompts and of the other, to compute an A from
            one half and to measure its leak on the other.
    """
    (empty,), (alone,) = (_of_states(encoded, prompts, 1) for prompts in ([""], concepts))
    n = 2 if sampled else 1
    halves = [
        ((1 - empty_share) * s + empty_share * empty, (alone + c) / 2)
        for s, c in zip(_of_states(encoded, preserved, n), _of_states(encoded, contexts, n), strict=True)
    ]
    first, last = halves[0], halves[-1]
    of_first, of_last, of_all = (
        Inputs(*map(root, moments))
        for moments in (first, last, [(a + b) / 2 for a, b in zip(first, last, strict=True)])
    )
    return of_all, (of_first, of_last)


def _of_states(encoded: Encoded, prompts: Sequence[str], n: int) -> list[Tensor]:
    """The mean of h h' over the token states h of every n-th prompt, for each of the n first prompts.

    States of zeros are padding, and do not count: with them, A would grow with the number of tokens that a prompt gets.
    """
    sums: list[Any] = [0.0] * n
    counts = [0] * n
    for numbers, states in encoded.states(prompts):
        for i in range(n):
            h = states[[number % n == i for number in numbers]].flatten(0, 1)
            h = h[h.any(1)]
            sums[i], counts[i] = sums[i] + h.T @ h, counts[i] + len(h)
    return [total / max(1, count) for total, count in zip(sums, counts, strict=True)]
