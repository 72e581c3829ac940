"""Streams of random numbers: the same by name, independent by seed and purpose, and nobody else's."""

from __future__ import annotations

from itertools import combinations

import torch
from controls import must_fail

from diffusers_esd.streams import noise, permutation, stream


def drawn(seed: int, purpose: str, *keys: int | str) -> torch.Tensor:
    return noise((4096,), stream(seed, purpose, *keys))


def test_a_stream_is_its_name() -> None:
    assert torch.equal(drawn(0, "erase", 3, 1), drawn(0, "erase", 3, 1))
    with must_fail("another lap has other numbers"):
        assert torch.equal(drawn(0, "erase", 3, 1), drawn(0, "erase", 3, 2))


def test_three_seeds_and_their_purposes_are_independent() -> None:
    names = [(seed, purpose, member, 0) for seed in range(3) for purpose in ("erase", "preserve") for member in (0, 1)]
    names += [(seed, purpose) for seed in range(3) for purpose in ("adapter", "vocabulary", "moments")]
    found = torch.stack([drawn(seed, purpose, *keys) for seed, purpose, *keys in names])
    correlations = torch.corrcoef(found)
    # 4.5 standard errors of a correlation of 4096 numbers; there are 210 pairs.
    bound = 4.5 / 4096**0.5
    assert max(abs(correlations[i, j].item()) for i, j in combinations(range(len(names)), 2)) < bound
    with must_fail("a shared stream is seen"):
        assert torch.corrcoef(torch.stack([found[0], found[0]]))[0, 1] < bound


def test_the_global_generator_the_default_device_and_the_default_type_do_not_matter() -> None:
    before, state = drawn(0, "erase"), torch.get_rng_state()
    with torch.device("meta"):
        inside = drawn(0, "erase")
        order = permutation(5, stream(0, "order"))
    torch.set_default_dtype(torch.float64)
    try:
        double = drawn(0, "erase")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(before, inside)
    assert torch.equal(before, double)
    assert double.dtype == torch.float32
    assert sorted(order) == [0, 1, 2, 3, 4]
