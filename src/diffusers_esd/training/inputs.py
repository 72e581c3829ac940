"""Inputs of layers, seen through hooks while the denoiser is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..denoiser import Denoiser, base_layer, evaluation
from ..streams import stream

_SAMPLES = 16  # inputs of a layer per sample of a batch

Observer = Callable[[str, Tensor], None]
"""Gets a layer's name and some of its inputs, (N, d), float32."""


def layer_width(layer: Any) -> int:
    """The d of a layer's inputs."""
    return base_layer(layer).weight[0].numel()


def layer_inputs(layer: Any, h: Tensor) -> Tensor:
    """A layer's inputs as rows, (N, d); for a convolution these are the patches under its kernel."""
    layer = base_layer(layer)
    if isinstance(layer, nn.Conv2d):
        assert not isinstance(layer.padding, str)
        h = functional.unfold(h, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    return h.reshape(-1, h.shape[-1])


@contextmanager
def observed(denoiser: Denoiser, names: Sequence[str], observer: Observer, seed: int, purpose: str) -> Iterator[None]:
    """Call `observer` with a random sample of the layers' inputs at every evaluation inside.

    Args:
        denoiser: The denoiser.
        names: Names of the layers.
        observer: Gets a layer's name and the sample.
        seed: Seed of the samples.
        purpose: With the seed, the key of the samples' random streams.
    """

    def hook_of(name: str) -> Any:
        generator = stream(seed, "inputs", purpose, name)

        def hook(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            samples = []
            for sample in inputs[0]:  # one at a time, because the unfolded inputs of a convolution are large
                h = layer_inputs(layer, sample[None].float())
                chosen = torch.randperm(len(h), generator=generator, device="cpu")[:_SAMPLES]
                samples.append(h[chosen.to(h.device)])
            observer(name, torch.cat(samples))

        return hook

    hooks = [denoiser.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def uncompiled(denoiser: Denoiser) -> Iterator[None]:
    """The denoiser in evaluation mode and uncompiled: hooks would make compiled code recompile for every layer, or
    would be ignored."""
    compiled = any(module._compiled_call_impl is not None for module in denoiser.modules())
    with evaluation(denoiser), torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        yield
