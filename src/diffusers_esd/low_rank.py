"""Algebra of LoRA layers: the sum of several, the best approximation of lower rank, and the norm of some of them.

A LoRA layer adds the product B A to a weight, and several layers add the sum of their products. (The product of the
sums of A and B is something else.) So a sum is a concatenation: [B1 B2] [A1; A2] = B1 A1 + B2 A2.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

Layers = Mapping[str, tuple[Tensor, Tensor]]
"""A, (r, d, ...), and B, (out, r, ...), by layer."""


def summed(parts: Sequence[tuple[Layers, float]]) -> dict[str, tuple[Tensor, Tensor]]:
    """The exact sum of scaled products; the ranks add up.

    Args:
        parts: Layers and scale of each.

    Raises:
        ValueError: If a layer has different shapes.
    """
    factors: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for layers, scale in parts:
        for layer, (a, b) in layers.items():
            factors.setdefault(layer, []).append((a, scale * b))
    for layer, pairs in factors.items():
        shapes = {(tuple(a.shape[1:]), b.shape[0]) for a, b in pairs}
        if len(shapes) > 1:
            raise ValueError(f"The erasures have different architectures: layer {layer!r} has {sorted(shapes)}.")
    return {
        layer: (torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1))
        for layer, pairs in factors.items()
    }


def truncated(layers: Layers, rank: int) -> tuple[dict[str, tuple[Tensor, Tensor]], float]:
    """The best approximation of each layer's product at a lower rank (truncated singular value decomposition).

    Args:
        layers: The layers.
        rank: Rank of the result.

    Returns:
        The layers, and the relative error of all layers together.
    """
    lowered: dict[str, tuple[Tensor, Tensor]] = {}
    lost = total = 0.0
    for layer, (a, b) in layers.items():
        # The product has the singular values of a small matrix: B A = Qb (Rb Ra') Qa'.
        qa, ra = torch.linalg.qr(a.flatten(1).T.double())
        qb, rb = torch.linalg.qr(b.flatten(1).double())
        u, s, v = torch.linalg.svd(rb @ ra.T, full_matrices=False)
        root = s[:rank].sqrt()
        down, up = (root[:, None] * v[:rank]) @ qa.T, qb @ (u[:, :rank] * root)
        lowered[layer] = (
            down.float().reshape(len(root), *a.shape[1:]),
            up.float().reshape(b.shape[0], len(root), *b.shape[2:]),
        )
        lost += s[rank:].square().sum().item()
        total += s.square().sum().item()
    return lowered, (lost / total) ** 0.5 if total else 0.0


def factorised(delta: Tensor) -> tuple[Tensor, Tensor]:
    """A and B of full rank whose product is the difference of two weights, (out, d, ...)."""
    u, s, v = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    return v.reshape(-1, *delta.shape[1:]), (u * s).reshape(*u.shape, *[1] * (delta.dim() - 2))


def share(layers: Layers, names: Collection[str]) -> float:
    """How much of the squared Frobenius norm of all products is in some of the layers, 0 to 1.

    ||B A||^2 = tr(A' B' B A) = <B' B, A A'>, so the product is not computed.

    Args:
        layers: All layers.
        names: Some of their names.
    """
    norms = {}
    for layer, (a, b) in layers.items():
        a, b = a.flatten(1).double(), b.flatten(1).double()
        norms[layer] = ((b.T @ b) * (a @ a.T)).sum().item()
    total = sum(norms.values())
    return sum(norms[name] for name in names) / total if total else 0.0
