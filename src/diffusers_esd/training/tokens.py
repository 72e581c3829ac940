"""A layer's inputs by the kind of their token: text or image.

A layer that text and image share (Flux's single blocks, Z-Image's layers) must answer the text of a concept, and no
image, not even the concept's own: its weights act on every image token there is. Z-Erase (arXiv:2603.25074) restricts
a LoRA's answer to text tokens, which a plain file cannot express. Here image tokens of all prompts count as preserved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..families import Conditioning, Family
from ..streams import stream

TokenObserver = Callable[[str, Tensor, Tensor], None]
"""Gets a layer's name, a sample of its text inputs, (N, d), and one of its image inputs, (M, d), both float32."""


def sampled_tokens(h: Tensor, places: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """A random sample of those of a layer's inputs that stand at certain places, (N, d).

    Args:
        h: The layer's inputs, (B, length, d).
        places: True at the inputs to choose from, (B, length).
        n: Inputs per sample of the batch, one in each n-th part of these places. If there are fewer, some repeat; from
            a sample of the batch without such places none is chosen.
        generator: Of the choice, on the CPU.
    """
    within = torch.rand(len(h), n, generator=generator, device="cpu", dtype=torch.float32)
    has_places = places.any(1)
    h, places, within = h[has_places], places[has_places], within.to(h.device)[has_places]
    counts = places.sum(1, keepdim=True)
    # Rounding can reach the end of the last part.
    ranks = ((torch.arange(n, device=h.device) + within) / n * counts).long().minimum(counts - 1)
    order = places.int().argsort(dim=1, descending=True, stable=True)
    return h[torch.arange(len(h), device=h.device)[:, None], order.gather(1, ranks)].flatten(0, 1)


@contextmanager
def observed_tokens(
    family: Family,
    conditioning: Callable[[], Conditioning],
    names: Sequence[str],
    n: int,
    observer: TokenObserver,
    seed: int,
    purpose: str,
) -> Iterator[None]:
    """Call `observer` with a random sample of the layers' inputs at every evaluation inside.

    Args:
        family: The family; its `places` says what is text.
        conditioning: Gives the prompts of the current evaluation.
        names: Names of the layers, whose inputs are (B, length, d), or (N, d) for text alone.
        n: Inputs of a layer per sample of a batch. A layer that is given text and image has half of them from each.
        observer: Gets a layer's name and the inputs.
        seed: Seed of the samples.
        purpose: With the seed, the key of the samples' random streams.
    """

    def hook_of(name: str) -> Any:
        generator = stream(seed, "tokens", purpose, name)

        def hook(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            h = inputs[0]
            if h.dim() == 2:  # the prompts' tokens, one after the other
                observer(name, h.float(), h[:0].float())
                return
            places = family.places(name, conditioning(), h.shape[1])
            count = max(1, n // 2) if places.image.any() else n
            text, image = (sampled_tokens(h, kind, count, generator) for kind in (places.text, places.image))
            observer(name, text.float(), image.float())

        return hook

    hooks = [family.denoiser.get_submodule(name).register_forward_pre_hook(hook_of(name)) for name in names]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
