"""The Frechet distance against exact cases, SciPy's square root of a matrix, and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from controls import must_fail
from scipy.linalg import sqrtm
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from diffusers_esd.evaluation.frechet import Moments, frechet_distance


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated features (n, d) in float64."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix + shift


def distance(a: Tensor, b: Tensor) -> float:
    return frechet_distance(Moments().add(a), Moments().add(b))


def by_sqrtm(a: Tensor, b: Tensor) -> float:
    """The formula with a general square root of a matrix."""
    s_a, s_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    difference = (a.mean(0) - b.mean(0)).numpy()
    return float(difference @ difference + np.trace(s_a + s_b - 2 * sqrtm(s_a @ s_b).real))


# The formula.


def test_one_feature_has_an_exact_distance() -> None:
    """Of N(m, s^2) and N(n, t^2) it is (m - n)^2 + (s - t)^2."""
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [13.0]])  # means 1 and 9, variances 2 and 32
    assert distance(a, b) == pytest.approx(64 + (32**0.5 - 2**0.5) ** 2, abs=1e-12)


def test_a_shift_and_a_scale_have_exact_distances() -> None:
    a = features(500, 8, 0)
    assert distance(a, a + 3) == pytest.approx(8 * 9, abs=1e-9)
    variances = a.var(0).sum().item()
    centred = a - a.mean(0)
    assert distance(centred, 3 * centred) == pytest.approx(4 * variances, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(400, 32), (600, 256)])
def test_it_is_what_a_square_root_of_a_matrix_gives(n: int, d: int) -> None:
    a, b = features(n, d, 0), features(n + 7, d, 1, 0.3)
    assert distance(a, b) == pytest.approx(by_sqrtm(a, b), rel=1e-9)
    with must_fail("other features have another distance"):
        assert distance(a, b) == pytest.approx(by_sqrtm(a, features(n, d, 2)), rel=1e-3)


class Pixels(torch.nn.Module):
    """Features for torchmetrics: the pixels themselves."""

    num_features = 48

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).double() / 255


def test_it_is_what_torchmetrics_gives() -> None:
    generator = torch.Generator().manual_seed(0)
    real, made = (torch.randint(low, 256, (300, 3, 4, 4), generator=generator, dtype=torch.uint8) for low in (0, 100))
    metric = FrechetInceptionDistance(feature=Pixels(), input_img_size=(3, 4, 4)).set_dtype(torch.float64)
    metric.update(real, real=True)
    metric.update(made, real=False)
    own = distance(Pixels()(real), Pixels()(made))
    assert own == pytest.approx(metric.compute().item(), rel=1e-9)
    assert own > 0.5


def test_it_is_symmetric_and_zero_for_the_same_set() -> None:
    a, b = features(50, 12, 0), features(60, 12, 1)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-9)
    assert 0 <= distance(a, a) < 1e-9


def test_covariances_without_full_rank_have_a_distance() -> None:
    """With orthogonal subspaces the mixed term is 0, so the distance is known."""
    a, b = torch.zeros(5, 40, dtype=torch.float64), torch.zeros(6, 40, dtype=torch.float64)
    a[:, :10], b[:, 20:30] = features(5, 10, 0), features(6, 10, 1)
    expected = (a.mean(0) - b.mean(0)).square().sum() + a.var(0).sum() + b.var(0).sum()
    assert distance(a, b) == pytest.approx(expected.item(), rel=1e-6)
    few = features(20, 64, 0), features(25, 64, 1)
    assert distance(*few) == pytest.approx(by_sqrtm(*few), rel=1e-4)


# Moments.


def test_batches_give_what_all_at_once_gives() -> None:
    a = features(101, 9, 0) * 1e-3 + 1e3  # a large mean, beside which the differences are small
    batches = Moments()
    for batch in a.split(7):
        batches.add(batch)
    assert batches.n == 101
    torch.testing.assert_close(batches.mean, a.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(batches.covariance, torch.cov(a.T), rtol=1e-6, atol=0)
    with must_fail("float32 sums lose it"):
        lossy = a.float()
        naive = lossy.T @ lossy / 101 - torch.outer(lossy.mean(0), lossy.mean(0))
        torch.testing.assert_close(naive.double(), torch.cov(a.T), rtol=1e-2, atol=0)


def test_wrong_features_are_refused() -> None:
    moments = Moments().add(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"^`features` must have the shape \(N, 2\), got \(3, 4\)\.$"):
        moments.add(torch.ones(3, 4))
    with pytest.raises(ValueError, match=r"^`features` must have the shape \(N, D\), got \(3,\)\.$"):
        Moments().add(torch.ones(3))
    with pytest.raises(ValueError, match=r"^`features` has numbers that are not finite\.$"):
        moments.add(torch.tensor([[1.0, float("nan")]]))
    with pytest.raises(ValueError, match=r"^A covariance needs two images at least, got 1\.$"):
        frechet_distance(Moments().add(torch.ones(1, 2)), moments)
    with pytest.raises(ValueError, match=r"^The sets must have the same number of features, got 2 and 5\.$"):
        frechet_distance(moments, Moments().add(torch.ones(3, 5)))
