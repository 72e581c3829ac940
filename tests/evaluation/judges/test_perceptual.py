"""The perceptual distance against its formula, written out for each place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from controls import must_fail
from naive_lpips import alex_weights, heads, naive
from torch import Tensor

from diffusers_esd.evaluation.judges.perceptual import Blur, PerceptualDistance


@pytest.fixture(scope="module")
def network() -> PerceptualDistance:
    return PerceptualDistance("alex", shift_tolerant=False).load(alex_weights(), heads())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(2, 3, 70, 67, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_it_is_the_papers_formula(network: PerceptualDistance, images: Tensor) -> None:
    own = network(images[:1], images[1:]).item()
    assert own == pytest.approx(naive(images[0], images[1], alex_weights(), heads()), rel=1e-5)
    with must_fail("other weights give another distance"):
        assert own == pytest.approx(naive(images[0], images[1], alex_weights(), heads(3)), rel=1e-5)


def test_it_is_a_distance(network: PerceptualDistance, images: Tensor) -> None:
    x, y = images[:1], images[1:]
    assert network(x, x).item() == 0
    assert network(x, y).item() == network(y, x).item() > 0
    both = network(images, images.flip(0))
    torch.testing.assert_close(both, network(x, y).expand(2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("net", ["alex", "vgg"])
@pytest.mark.parametrize("shift_tolerant", [False, True])
def test_the_smallest_image_has_features_in_every_layer(net: Any, shift_tolerant: bool) -> None:
    network = PerceptualDistance(net, shift_tolerant=shift_tolerant)
    for tensor in network.state_dict().values():
        tensor.fill_(0.01)
    small = torch.rand(1, 3, network.smallest, network.smallest, generator=torch.Generator().manual_seed(0))
    assert all(min(f.shape[2:]) >= 1 for f in network.features(small))
    with pytest.raises(ValueError, match=r"^The images must be at least 32 pixels high and wide, got 31 x 40\.$"):
        network.features(torch.zeros(1, 3, 40, 31))


def test_a_blur_is_a_weighted_mean_of_every_second_place() -> None:
    blur = Blur(1)
    blur.filt.copy_(torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16)
    assert torch.allclose(blur(torch.full((1, 1, 8, 6), 5.0)), torch.full((1, 1, 5, 4), 5.0))
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = (x[0, 0, 1:4, 1:4] * blur.filt[0, 0]).sum()  # the window around the place (2, 2)
    torch.testing.assert_close(blur(x)[0, 0, 2 - 0, 2 - 0], (x[0, 0, 2:5, 2:5] * blur.filt[0, 0]).sum())
    with must_fail("another window"):
        torch.testing.assert_close(blur(x)[0, 0, 2, 2], expected)


def test_images_of_different_sizes_are_refused(network: PerceptualDistance) -> None:
    with pytest.raises(
        ValueError, match=r"^The images must have the same size, got \(1, 3, 40, 40\) and \(1, 3, 40, 50\)\.$"
    ):
        network(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 50))


def test_weights_of_another_network_are_refused() -> None:
    for net, tolerant in (("vgg", False), ("alex", True)):
        with pytest.raises(ValueError, match=r"^The weights are not those of this network"):
            PerceptualDistance(net, shift_tolerant=tolerant).load(alex_weights(), heads())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^The weights are not those of this network"):
        PerceptualDistance("alex", shift_tolerant=False).load(alex_weights(), {})
