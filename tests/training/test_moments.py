"""Directions and leaks, on made-up moments."""

from __future__ import annotations

import pytest
import torch
from controls import must_fail
from torch import Tensor

from diffusers_esd import Limits
from diffusers_esd.training.moments import Moments, directions


def moment(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def some_rows(n: int, d: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, d), generator=generator) * torch.linspace(3, 0.1, d)


def test_directions_are_the_naive_eigenvectors() -> None:
    kept, concept, strength = moment(some_rows(200, 24, 0)), moment(some_rows(5, 24, 1)), 0.05
    p = torch.linalg.inv(kept / (strength * kept.diagonal().mean()) + torch.eye(24))
    values, vectors = torch.linalg.eigh(p @ concept @ p)
    expected = (vectors[:, -3:] * values[-3:].sqrt()).flip(1).T
    expected = expected * (3 / (expected @ concept @ expected.T).trace()).sqrt()
    rows = directions(Moments(kept, concept), 3, strength)
    signs = (rows * expected).sum(1).sign()
    torch.testing.assert_close(rows * signs[:, None], expected, rtol=1e-3, atol=1e-4)
    assert (rows @ concept @ rows.T).trace().item() == pytest.approx(3, rel=1e-4)
    leak = Moments(kept, concept).leak(rows)
    assert leak == pytest.approx(((expected @ kept @ expected.T).trace() / 3).item(), rel=1e-3)


def test_what_lies_outside_the_preserved_span_is_heard_and_nothing_else() -> None:
    basis = torch.linalg.qr(torch.randn((16, 16), generator=torch.Generator().manual_seed(0))).Q
    kept = moment(torch.randn((99, 10), generator=torch.Generator().manual_seed(1)) @ basis[:, :10].T)
    concept = moment((basis[:, 3] + basis[:, 12])[None])
    moments = Moments(kept, concept)
    rows = directions(moments, 1, 1e-4)
    assert moments.leak(rows) < 1e-4
    assert torch.cosine_similarity(rows[0], basis[:, 12], dim=0).abs() > 0.999
    control = Moments(kept, moment(basis[:, 3][None]))
    with must_fail("what is preserved itself cannot be told apart"):
        assert control.leak(directions(control, 1, 1e-4)) < 0.5


@pytest.mark.parametrize(("d", "n"), [(256, 2048), (1024, 1024), (2048, 768)])
def test_two_samples_of_one_distribution_are_told_apart_only_by_those_they_were_fitted_to(d: int, n: int) -> None:
    """Nothing tells the concept from the rest here, so no layer may pass, however wide."""

    def sample(seed: int, rows: int) -> Tensor:
        return moment(some_rows(rows, d, seed))

    fitted = Moments(sample(0, n), sample(1, n // 4))
    rows = directions(fitted, 4, Limits().state_strength * max(1.0, d / n))
    fresh = Moments(sample(2, n), sample(3, n // 4))
    assert fresh.leak(rows) > 0.5
    if d >= n:
        with must_fail("on what it was fitted to a wide layer seems to tell them apart"):
            assert fitted.leak(rows) > 0.5
