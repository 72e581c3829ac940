"""Every random number of a training comes from a stream of its own, keyed by what it is for.

A stream is named by the seed, a purpose and further keys, such as the member of a pool and its lap:

    stream(seed, "erase", member, lap)

Streams of different names are independent, so another seed shares nothing with this one, and a draw does not depend on
how many were made elsewhere: a training that is shared among processes draws the same numbers. The global generators
are never touched.
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor


def stream(seed: int, purpose: str, *keys: int | str) -> torch.Generator:
    """The generator of a name, on the CPU, so that a seed means the same on every device.

    Args:
        seed: The training's seed.
        purpose: What the numbers are for.
        keys: What tells this stream from others of the purpose.
    """
    name = "/".join(map(repr, (seed, purpose, *keys)))
    # PyTorch's generator on the CPU takes 32 bits of a seed.
    digest = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")
    return torch.Generator("cpu").manual_seed(digest)


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers in float32 on the CPU, whatever the default device and type are."""
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def permutation(n: int, generator: torch.Generator) -> list[int]:
    """The numbers below n in random order."""
    return torch.randperm(n, generator=generator, device="cpu").tolist()
