"""Inputs of layers, seen through hooks while the denoiser is evaluated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..denoiser import Denoiser, base_layer
from ..families import Family
from ..modes import evaluation
from ..quantization import weight_shape
from ..streams import stream

Observer = Callable[[str, Tensor], None]
"""Gets a layer's name and some of its inputs, (N, d), float32."""


def layer_width(layer: Any) -> int:
    """The d of a layer's inputs."""
    return math.prod(weight_shape(base_layer(layer))[1:])


def sampled_inputs(layer: Any, h: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """A random sample of a layer's inputs as rows, (N, d); for a convolution these are the patches under its kernel.

    Args:
        layer: The layer.
        h: What it is given, (B, ..., d) or (B, C, H, W).
        n: Rows per sample of the batch, one at a random place in each n-th part of the places; all if there are fewer.
        generator: Of the places.
    """
    layer = base_layer(layer)
    places = _patches(layer, h) if isinstance(layer, nn.Conv2d) else h.reshape(len(h), 1, -1, h.shape[-1])
    height, width = places.shape[1:3]
    count = height * width
    if count <= n:
        return places.reshape(len(h) * count, -1)
    within = torch.rand(len(h), n, generator=generator, device="cpu", dtype=torch.float32)
    parts = torch.arange(n, device="cpu") + within
    # Rounding can reach the end of the last part.
    chosen = (parts * (count / n)).long().clamp_max(count - 1).to(h.device)
    batch = torch.arange(len(h), device=h.device)[:, None]
    return places[batch, chosen // width, chosen % width].reshape(len(h) * n, -1)


def _patches(layer: nn.Conv2d, h: Tensor) -> Tensor:
    """The patches under a convolution's kernel, (B, height, width, C, kernel, kernel), as a view: nothing is copied."""
    assert not isinstance(layer.padding, str)
    up, left = layer.padding
    view = functional.pad(h, (left, left, up, up))
    for i in range(2):
        size, dilation = layer.kernel_size[i], layer.dilation[i]
        view = view.unfold(2 + i, dilation * (size - 1) + 1, layer.stride[i])
    return view[..., :: layer.dilation[0], :: layer.dilation[1]].permute(0, 2, 3, 1, 4, 5)


@contextmanager
def observed(
    denoiser: Denoiser, names: Sequence[str], n: int, observer: Observer, seed: int, purpose: str
) -> Iterator[None]:
    """Call `observer` with a random sample of the layers' inputs at every evaluation inside.

    Args:
        denoiser: The denoiser.
        names: Names of the layers.
        n: Inputs of a layer per sample of a batch.
        observer: Gets a layer's name and the inputs.
        seed: Seed of the samples.
        purpose: With the seed, the key of the samples' random streams.
    """

    def hook_of(name: str) -> Any:
        generator = stream(seed, "inputs", purpose, name)

        def hook(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            observer(name, sampled_inputs(layer, inputs[0], n, generator).float())

        return hook

    hooks = [denoiser.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def uncompiled(family: Family) -> Iterator[None]:
    """The denoiser in evaluation mode and uncompiled: hooks would make compiled code recompile for every layer, or
    would be ignored."""
    denoiser = family.denoiser
    is_compiled = family.network is not denoiser or any(m._compiled_call_impl is not None for m in denoiser.modules())
    with evaluation(denoiser), torch.compiler.set_stance("force_eager") if is_compiled else nullcontext():
        yield
