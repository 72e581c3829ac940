"""Algebra of LoRA layers: sums are exact, and a lower rank has the least error."""

from __future__ import annotations

import pytest
import torch
from controls import must_fail
from torch import Tensor

from diffusers_esd.low_rank import factorised, share, summed, truncated


def random_layer(rank: int, seed: int, kernel: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn((rank, 7, *kernel), generator=generator)
    return a, torch.randn((5, rank, *(1 for _ in kernel)), generator=generator)


def product(layer: tuple[Tensor, Tensor]) -> Tensor:
    a, b = layer
    return b.flatten(1) @ a.flatten(1)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_sum_is_the_sum_of_products(kernel: tuple[int, ...]) -> None:
    first, second = random_layer(2, 0, kernel), random_layer(3, 1, kernel)
    total = summed([({"x": first, "y": first}, 0.5), ({"x": second}, -2.0)])
    assert len(total["x"][0]) == 5
    expected = 0.5 * product(first) - 2 * product(second)
    torch.testing.assert_close(product(total["x"]), expected)
    torch.testing.assert_close(product(total["y"]), 0.5 * product(first))
    if not kernel:
        with must_fail("the product of sums is something else"):
            rank = 2
            other = (first[0] + second[0][:rank], 0.5 * first[1] - 2 * second[1][:, :rank])
            torch.testing.assert_close(product(other), expected)


def test_layers_of_other_shapes_have_no_sum() -> None:
    with pytest.raises(ValueError, match=r"^The erasures have different architectures: layer 'x' has \["):
        summed([({"x": random_layer(2, 0)}, 1.0), ({"x": random_layer(2, 0, (3, 3))}, 1.0)])


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_a_lower_rank_has_the_least_error_and_states_it(kernel: tuple[int, ...]) -> None:
    layers = {"x": random_layer(4, 0, kernel), "y": random_layer(4, 1, kernel)}
    for rank in (1, 2, 4):
        lowered, error = truncated(layers, rank)
        lost = sum((product(layers[n]) - product(lowered[n])).square().sum().item() for n in layers)
        total = sum(product(layers[n]).square().sum().item() for n in layers)
        assert error == pytest.approx((lost / total) ** 0.5, abs=1e-4)
        least = sum(torch.linalg.svdvals(product(layers[n]))[rank:].square().sum().item() for n in layers)
        assert lost == pytest.approx(least, rel=1e-3, abs=1e-6)
    assert error < 1e-6, "at full rank nothing is lost"
    with must_fail("dropping rows of A and columns of B is worse"):
        cut = {name: (a[:2], b[:, :2]) for name, (a, b) in layers.items()}
        worse = sum((product(layers[n]) - product(cut[n])).square().sum().item() for n in layers)
        assert worse <= (truncated(layers, 2)[1] ** 2) * total * 1.01


@pytest.mark.parametrize("shape", [(5, 7), (5, 4, 3, 3)])
def test_a_difference_of_weights_is_a_product(shape: tuple[int, ...]) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    a, b = factorised(delta)
    assert a.shape[1:] == delta.shape[1:]
    torch.testing.assert_close(product((a, b)).view_as(delta), delta, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [(), (3, 3)])
def test_the_share_of_some_layers_in_the_squared_norm(kernel: tuple[int, ...]) -> None:
    layers = {"x": random_layer(2, 0, kernel), "y": random_layer(3, 1), "z": random_layer(4, 2)}
    squares = {name: product(layer).square().sum().item() for name, layer in layers.items()}
    assert share(layers, ["x", "z"]) == pytest.approx((squares["x"] + squares["z"]) / sum(squares.values()))
    assert share(layers, []) == 0
    assert share(layers, list(layers)) == pytest.approx(1)
    a, b = layers["x"]
    assert share({"x": (a, torch.zeros_like(b))}, ["x"]) == 0, "an erasure of zeros"
    with must_fail("the product of the norms of A and B is only a bound"):
        bounds = {name: (b.norm() * a.norm()).square().item() for name, (a, b) in layers.items()}
        assert share(layers, ["x"]) == pytest.approx(bounds["x"] / sum(bounds.values()), rel=0.01)
