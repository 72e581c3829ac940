"""The products B A that layers carry: their sum, their best approximation at a rank, and their form in a file.

A LoRA layer adds B A to a weight. Several add the sum of their products; the product of sums, which comes of adding
factors, is something else. Summing therefore concatenates: [B1 B2] [A1; A2] = B1 A1 + B2 A2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Products = dict[str, tuple[Tensor, Tensor]]
"""A, (r, d, ...), and B, (out, r, ...), by layer."""


def summed(parts: Sequence[tuple[Mapping[str, tuple[Tensor, Tensor]], float]]) -> Products:
    """The sum of products with their scales, exactly: ranks add up.

    Args:
        parts: A and B by layer, and the scale, of each.

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
            raise ValueError(f"The erasures are of different architectures: layer {layer!r} has {sorted(shapes)}.")
    return {
        layer: (torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], 1))
        for layer, pairs in factors.items()
    }


def lower_rank(layers: Mapping[str, tuple[Tensor, Tensor]], rank: int) -> tuple[Products, float]:
    """The best approximation of each layer's product at a rank, and the relative error of all together.

    Args:
        layers: A, (r, d, ...), and B, (out, r, ...), by layer.
        rank: Of the result.
    """
    lowered: Products = {}
    lost = total = 0.0
    for layer, (a, b) in layers.items():
        # The product's singular values are those of a small matrix: B A = Qb (Rb Ra') Qa'.
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


def portable(layers: Mapping[str, tuple[Tensor, Tensor]], component: str, rank: int) -> dict[str, Tensor]:
    """Weights by portable key, every layer at the same rank: the rows and columns added are zeros."""
    weights = {}
    for layer, (a, b) in layers.items():
        missing = rank - len(a)
        weights[f"{component}.{layer}.lora_A.weight"] = torch.cat([a, a.new_zeros(missing, *a.shape[1:])])
        columns = b.new_zeros(b.shape[0], missing, *b.shape[2:])
        weights[f"{component}.{layer}.lora_B.weight"] = torch.cat([b, columns], 1)
    return {key: weight.contiguous() for key, weight in weights.items()}
