"""Streams of random numbers: every number comes from a generator that is keyed by what it is for.

A stream is named by the seed, a purpose and further keys, such as the member of a pool and its lap:

    stream(seed, "erase", member, lap)

Streams of different names are independent, so two seeds share no numbers. What is drawn from one stream does not depend
on what was drawn from others, so a training that is split among processes draws the same numbers. The global generators
are never used.

    adapter, <layer>                 initial A of a layer
    erase, preserve                  the two sources of training states: order of prompts ("order"), order and first
                                     positions of a pool's members ("turns", "offset"), noise (member, lap)
    preserved, vocabulary, contexts  which prompts are used
    moments, inputs                  noise of the null space's trajectories, and samples of the layers' inputs
    anchors, <concept>               noise of the trajectories on which anchors are compared
    subspace                         start of the eigenvectors, with seed 0
    check, calibrate                 noise of the trajectories of `Erasure.check` and `calibrate`
    attack                           pictures, positions and noise of what an attack learns from
    bootstrap                        resamples of intervals, with seed 0

Images are the exception: their noise has the seed that the user gives (`pictures.draw`).
"""

from __future__ import annotations

from hashlib import blake2b

import torch
from torch import Tensor


def stream(seed: int, purpose: str, *keys: int | str) -> torch.Generator:
    """The generator with this name, on the CPU, so that a seed gives the same numbers for every device.

    Args:
        seed: The training's seed.
        purpose: What the numbers are for.
        keys: Distinguish this stream from others with the same purpose.
    """
    name = "/".join(map(repr, (seed, purpose, *keys)))
    # PyTorch's generator on the CPU takes 32 bits of a seed.
    digest = int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big")
    return torch.Generator("cpu").manual_seed(digest)


def noise(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers in float32 on the CPU, whatever PyTorch's default device and type are."""
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def permutation(n: int, generator: torch.Generator) -> list[int]:
    """The whole numbers below n in random order."""
    return torch.randperm(n, generator=generator, device="cpu").tolist()
