"""`ClosedForm`: Unified Concept Editing (arXiv:2308.14761): keys and values edited in closed form, no training.

With token states c of all concepts' prompts, c0 of the empty prompt's at the same place and k of what is kept,

    W' = W (sum c0 c' + sum k k') (sum c c' + sum k k')^-1

The sum over k is a mean, and that over c a mean for each concept. The edit is the same for every layer: `W' - W = W E`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from ...denoiser import base_layer
from ...families import Family, family_for
from ...limits import Limits
from ...quantization import check_full_weights
from ...training import vocabulary
from ...training.encoding import Encoded
from ..methods import Draw, Method, base_record, drawer
from .negative_prompt import checked


class ClosedForm(Method):
    """Keys and values of a U-Net's cross-attention, edited while it draws.

    Args:
        concepts: The concepts, at least one.
        preserved: Prompts whose keys and values are kept; `None` means those that a training preserves by default.
        name: Name of the column.

    Raises:
        TypeError: If a concept is not a string.
        ValueError: If there is no concept, or one is empty.
    """

    def __init__(self, concepts: Sequence[str], *, preserved: Sequence[str] | None = None, name: str = "uce") -> None:
        self.name, self.erases = name, checked(concepts)
        self.preserved = None if preserved is None else tuple(preserved)

    def record(self, pipe: DiffusionPipeline) -> dict[str, Any]:
        """The base weights, the concepts, and a digest of the prompts that are preserved."""
        prompts = "vocabulary"
        if self.preserved is not None:
            prompts = hashlib.sha256(json.dumps(self.preserved).encode()).hexdigest()
        return {**base_record(pipe), "concepts": list(self.erases), "preserved": prompts}

    def check(self, pipe: DiffusionPipeline) -> None:
        """Refuse a denoiser without keys and values to edit.

        Raises:
            TypeError: If no family handles the pipeline.
            ValueError: If it is not a U-Net with cross-attention.
        """
        edited_layers(family_for(pipe))

    @contextmanager
    def drawing(self, pipe: DiffusionPipeline, options: Mapping[str, Any]) -> Iterator[Draw]:
        """Draws with edited weights. Afterwards they are as before, from a copy on the CPU.

        Raises:
            TypeError: If no family handles the pipeline.
            ValueError: If the denoiser is not a U-Net with cross-attention.
        """
        family = family_for(pipe)
        layers = edited_layers(family)
        edit = closed_form(Encoded(family), self.erases, self.preserved)
        before = [layer.weight.detach().to("cpu", copy=True) for layer in layers]
        try:
            add_edit(family, edit)
            yield drawer(pipe, options)
        finally:
            with torch.no_grad():
                for layer, weight in zip(layers, before, strict=True):
                    layer.weight.copy_(weight)


def closed_form(encoded: Encoded, concepts: Sequence[str], preserved: Sequence[str] | None = None) -> Tensor:
    """The edit E of all keys and values, (width, width), for token states of that width.

    Args:
        encoded: Encodes the prompts.
        concepts: Prompts of the concepts, at least one.
        preserved: Prompts whose token states are kept; `None` means those that a training preserves by default.
    """

    def tokens(prompts: Sequence[str]) -> Tensor:
        return torch.cat([states.flatten(0, 1) for _, states in encoded.states(prompts)])

    c, c0 = tokens(concepts), tokens([""]).repeat(len(concepts), 1)
    if preserved is None:
        preserved = vocabulary.preserved(encoded, concepts, seed=0, limits=Limits()).prompts
    k = tokens(preserved)
    n = len(c) / len(concepts)
    return torch.linalg.solve((c.T @ c) / n + k.T @ k / len(k), (c0 - c).T @ c / n, left=False)


@torch.no_grad()
def add_edit(family: Family, edit: Tensor) -> None:
    """Add an edit to every key and value of the cross-attention, for good. The sum is rounded once."""
    for layer in edited_layers(family):
        weight = layer.weight.float()
        layer.weight.copy_(weight + weight @ edit.to(weight.device))


def edited_layers(family: Family) -> list[nn.Linear]:
    """Keys and values of the cross-attention, without adapters.

    Raises:
        ValueError: If there are none, or they are quantised.
    """
    named = family.denoiser.named_modules()
    layers = [base_layer(module) for name, module in named if name.endswith(("attn2.to_k", "attn2.to_v"))]
    if family.component != "unet" or not layers:
        raise ValueError(
            f"The closed form edits a U-Net's attn2.to_k and attn2.to_v, and a {type(family.denoiser).__name__} has "
            "none that it could; use it with Stable Diffusion 1.x, 2.x or XL."
        )
    check_full_weights(family.denoiser, "the closed form", "Other methods work on a quantised model.")
    return layers
